"""The bad input table: one line on stderr with three beats, exit code 2, no traceback; bad pictures are skipped and named."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import chanattr as ca
from chanattr.cli import main
from tests.cli.studio import Studio, make_studio


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return make_studio(tmp_path)


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def attribute(studio: Studio, *words: object, layer: str = "mix") -> Result:
    return call("attribute", studio.model, studio.images, "--layer", layer, "--areas", "1,3", *words)


Row = Callable[[Studio, Path], Result]
TABLE: dict[str, tuple[Row, str]] = {
    "no such layer": (lambda s, t: attribute(s, "-o", t / "r.h5", layer="mixx"), "no layer 'mixx' in Plain; did you mean 'mix'"),
    "a layer that never fires": (lambda s, t: attribute(s, "-o", t / "r.h5", layer="never"), "layer 'never' never fires"),
    "a layer that fires twice": (lambda s, t: attribute(s, "-o", t / "r.h5", layer="act"), "fires 2 times.*act@1 to act@2"),
    "area 0": (lambda s, t: attribute(s, "-o", t / "r.h5", "--areas", "0"),
        "--areas 0 for mix, which has 8 channels; expected whole numbers from 1 to 8"),
    "area over K": (lambda s, t: attribute(s, "-o", t / "r.h5", "--areas", "9"),
        "--areas 9 for mix, which has 8 channels; expected whole numbers from 1 to 8"),
    "a fraction": (lambda s, t: attribute(s, "-o", t / "r.h5", "--areas", "0.5"),
        "--areas 0.5; expected 'grid', 'paper', 'smallest', or whole"),
    "target out of range": (lambda s, t: attribute(s, "-o", t / "r.h5", "--targets", "4"),
        "target 4 for a model with 4 classes; expected 0 to 3"),
    "no such target": (lambda s, t: attribute(s, "-o", t / "r.h5", "--targets", "cats"), "--targets cats; expected 'predicted', 'label'"),
    "a negative target": (lambda s, t: attribute(s, "-o", t / "r.h5", "--targets", "-1"), "--targets -1; expected .* class number from 0"),
    "no label": (lambda s, t: attribute(s, "-o", t / "r.h5", "--label", ""), "label=''; expected a name"),
    "a device without numbers": (lambda s, t: attribute(s, "-o", t / "r.h5", "--device", "meta"), "--device meta cannot be used"),
    "a negative batch size": (lambda s, t: attribute(s, "-o", t / "r.h5", "--batch-size", "-1"), "'--batch-size': -1 is not in the range"),
    "batch size 0": (lambda s, t: attribute(s, "-o", t / "r.h5", "--batch-size", "0"), "'--batch-size': 0 is not in the range"),
    "negative workers": (lambda s, t: attribute(s, "-o", t / "r.h5", "--workers", "-1"),
                         "workers='-1'; expected a whole number of processes from 0"),
    "a seed that is no number": (lambda s, t: attribute(s, "-o", t / "r.h5", "--seed", "x"),
                                 "'--seed': 'x' is not a valid integer; expected words as '.*attribute --help' lists them; look there"),
    "a class folder past the classes": (lambda s, t: _numbered(s, t), "has the class 150, but the model has 4 classes; expected 0 to 3"),
    "no layer": (lambda s, t: call("attribute", s.model, s.images, "-o", t / "r.h5"), "Missing option '--layer'; expected .* look there"),
    "no such option": (lambda s, t: call("show", t / "r.h5", "--jsn"), r"No such option:? '?--jsn'?.*(\? E|[^?]; e)xpected .*show --help"),
    "no such option before the command": (lambda s, t: call("--jsn", "show"), "No such option:? '?--jsn'?.*; expected"),
    "no such command": (lambda s, t: call("shw", t / "r.h5"), r"No such command 'shw'(; e|.*\? E)xpected"),
    "one word too many": (lambda s, t: call("show", t / "r.h5", "more"), r"unexpected extra argument \(more\); expected"),
    "a demo into a file": (lambda s, t: call("demo", "--out", _text(t / "file")), "--out .*file cannot be made .File exists.; expected"),
    "no such reward": (lambda s, t: attribute(s, "-o", t / "r.h5", "--reward", "logits"), "reward='logits'; expected one of logit"),
    "no such game": (lambda s, t: attribute(s, "-o", t / "r.h5", "--game", "keep"), "game='keep'; expected one of preserve"),
    "no such fill": (lambda s, t: attribute(s, "-o", t / "r.h5", "--fill", "median"), "fill='median'; expected 'zero'"),
    "no such level": (lambda s, t: attribute(s, "-o", t / "r.h5", "--level", "2"), "level=2.0; expected 'original', 'top1' or a fraction"),
    "a level in words": (lambda s, t: attribute(s, "-o", t / "r.h5", "--level", "high"),
                         "--level high; expected 'original', 'top1' or a fraction from 0 to 1"),
    "a fill file that holds none": (lambda s, t: attribute(s, "-o", t / "r.h5", "--fill", _text(t / "fill.npy")),
                                    "--fill .*fill.npy cannot be read .*; expected K numbers saved by numpy.save"),
    "no such group": (lambda s, t: attribute(s, "-o", t / "r.h5", "--group", "pairs"), "--group pairs; expected 'heads', a whole number"),
    "groups of none": (lambda s, t: attribute(s, "-o", t / "r.h5", "--group", "0"), "--group 0; expected 'heads', a whole number"),
    "no such search": (lambda s, t: attribute(s, "-o", t / "r.h5", "--search", "best"),
                       "--search best; expected exact, penalty; leave it out for exact"),
    "no such device": (lambda s, t: attribute(s, "-o", t / "r.h5", "--device", "cuda:77"), "--device cuda:77 cannot be used"),
    "no such model": (lambda s, t: call("layers", "resnett18"), "no model 'resnett18'; did you mean 'resnet18'"),
    "a model file that is not there": (lambda s, t: call("layers", "nowhere.py:make"),
        "names no Python file; expected path/to/file.py:function"),
    "a model function that is not there": (lambda s, t: call("layers", s.model.replace(":make", ":mak")), "has no function 'mak'.*make"),
    "a model function that fails": (lambda s, t: call("layers", s.model.replace(":make", ":fails")), "raised ValueError: no such thing"),
    "a model function that gives no model": (lambda s, t: call("layers", s.model.replace(":make", ":number")),
        r"gave \(int\); expected a torch"),
    "weights that are no weights": (lambda s, t: call("layers", s.model, "--weights", _text(t / "w.pth")), "weights .* cannot be read"),
    "a picture in place of weights": (lambda s, t: call("layers", s.model, "--weights", s.images / "000_cat" / "0.png"),
        r"weights .*0.png cannot be read \(it is none of weights alone\); expected 'random', a .safetensors file or a state dict"),
    "NaN activations": (lambda s, t: attribute(s._replace(model=s.model.replace(":make", ":broken")), "-o", t / "r.h5"),
                        r"not finite \(NaN or infinite\)"),
    "an empty folder": (lambda s, t: call("attribute", s.model, _folder(t / "empty"), "--layer", "mix", "-o", t / "r.h5"),
                        "empty.*holds no|no pictures|no images"),
    "no such path": (lambda s, t: call("attribute", s.model, t / "nowhere", "--layer", "mix", "-o", t / "r.h5"), "nowhere"),
    "a folder that is no class": (lambda s, t: _renamed(s, t), "'wolf'.*NNN_name"),
    "only files that are no pictures": (lambda s, t: call("attribute", s.model, _text(t / "text.jpg"), "--layer", "mix", "-o", t / "r.h5"),
                                        "text.jpg"),
    "output in a folder that is not there": (lambda s, t: attribute(s, "-o", t / "nowhere" / "r.h5"), "nowhere"),
    "output that is a folder": (lambda s, t: attribute(s, "-o", _folder(t / "r.h5")), "r.h5"),
    "output that is no run file": (lambda s, t: attribute(s, "-o", _text(t / "r.h5")), "r.h5.*expected"),
    "show what is not there": (lambda s, t: call("show", t / "r.h5"),
        "no run at .*r.h5.*; expected a file that 'chanattr attribute' wrote"),
    "show what is no run file": (lambda s, t: call("show", _text(t / "r.h5")), "r.h5.*expected"),
    "report over the run file": (lambda s, t: call("report", t / "r.h5", "-o", t / "r.h5"), "would overwrite the run file"),
    "report by a link that leads round": (lambda s, t: call("report", t / "r.h5", "-o", _round(t / "r.html")), "no run at .*r.h5"),
    "merge by a link that leads round": (lambda s, t: call("merge", t / "r.h5", "-o", _round(t / "all.h5")), "all.h5 is a link that leads"),
}


def _round(path: Path) -> Path:
    path.symlink_to(path.name)
    return path



def _text(path: Path) -> Path:
    path.write_text("this is text")
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _renamed(studio: Studio, folder: Path) -> Result:
    (studio.images / "000_cat").rename(studio.images / "wolf")
    return attribute(studio, "-o", folder / "r.h5")


def _numbered(studio: Studio, folder: Path) -> Result:
    """Without class names nothing is known of a folder's number."""
    (studio.images / "000_cat").rename(studio.images / "150_cat")
    return attribute(studio._replace(model=studio.model.replace(":make", ":nameless")), "-o", folder / "r.h5")


@pytest.mark.parametrize("row", TABLE)
def test_bad_input(row: str, studio: Studio, tmp_path: Path) -> None:
    run, message = TABLE[row]
    result = run(studio, tmp_path)
    assert result.exit_code == 2, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.output
    assert [line for line in result.stderr.splitlines() if line and "it/s" not in line] == errors
    assert row.startswith("output") or not (tmp_path / "r.h5").exists() or (tmp_path / "r.h5").read_bytes() == b"this is text"
    assert re.search(message, errors[0]), errors[0]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_output_that_cannot_be_written(studio: Studio, tmp_path: Path) -> None:
    locked = _folder(tmp_path / "locked")
    locked.chmod(0o500)
    result = attribute(studio, "-o", locked / "r.h5")
    assert result.exit_code == 2
    assert "locked" in result.stderr


def test_output_that_cannot_be_opened_for_writing(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root nothing is forbidden, so the refusal is made."""
    real = os.open

    def refuse(path: object, flags: int, *rest: object, **more: object) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and "r.h5" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    result = attribute(studio, "-o", tmp_path / "r.h5")
    assert result.exit_code == 2, result.output
    assert "Permission denied" in result.stderr


def test_another_model_in_the_same_file(studio: Studio, tmp_path: Path) -> None:
    assert attribute(studio, "-o", tmp_path / "r.h5").exit_code == 0
    result = attribute(studio._replace(model=studio.model.replace(":make", ":other")), "-o", tmp_path / "r.h5")
    assert result.exit_code == 2
    assert "model" in result.stderr
    with ca.open_run(tmp_path / "r.h5") as run:
        assert len(run.finished("mix")) == 12


def test_bad_pictures_are_skipped_named_and_counted_after_the_rest_is_saved(studio: Studio, tmp_path: Path) -> None:
    _text(studio.images / "000_cat" / "text.jpg")
    good = (studio.images / "001_dog" / "0.png").read_bytes()
    (studio.images / "001_dog" / "short.png").write_bytes(good[: len(good) // 2])
    result = attribute(studio, "-o", tmp_path / "r.h5")
    assert result.exit_code == 1
    assert "text.jpg" in result.stderr
    assert "short.png" in result.stderr
    assert "2 images could not be read" in result.stderr
    with ca.open_run(tmp_path / "r.h5") as run:
        assert len(run.finished("mix")) == 12


def test_grey_rgba_16_bit_and_rotated_pictures_are_read(studio: Studio, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    home = studio.images / "000_cat"
    Image.fromarray(rng.integers(0, 255, (20, 20), np.uint8)).save(home / "grey.png")
    Image.fromarray(rng.integers(0, 255, (20, 20, 4), np.uint8)).save(home / "rgba.png")
    Image.fromarray(rng.integers(0, 65535, (20, 20)).astype(np.uint16)).save(home / "deep.png")
    turned = Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8))
    exif = turned.getexif()
    exif[274] = 6
    turned.save(home / "turned.jpg", exif=exif)
    result = attribute(studio, "-o", tmp_path / "r.h5")
    assert result.exit_code == 0, result.output
    with ca.open_run(tmp_path / "r.h5") as run:
        assert len(run.finished("mix")) == 16
        assert run.thumbnail("000_cat/turned.jpg").shape[0] > run.thumbnail("000_cat/turned.jpg").shape[1]


def test_images_without_finite_scores_are_skipped_named_and_counted(studio: Studio, tmp_path: Path) -> None:
    Image.new("RGB", (24, 30), "white").save(studio.images / "000_cat" / "white.png")
    _text(studio.images / "000_cat" / "text.jpg")
    spotty = studio._replace(model=studio.model.replace(":make", ":spotty"))
    for _ in range(2):
        result = attribute(spotty, "-o", tmp_path / "r.h5")
        assert result.exit_code == 1, result.output
        assert re.search("skipped 000_cat/white.png: .*not finite", result.stderr)
        assert "1 image could not be read" in result.stderr
        assert "1 image could not be searched" in result.stderr
    with ca.open_run(tmp_path / "r.h5") as run:
        assert len(run.finished("mix")) == 12


@pytest.mark.parametrize("place", [0, 1, 5])
def test_debug_shows_the_traceback(studio: Studio, tmp_path: Path, place: int) -> None:
    """Before the command, after it, and among its words."""
    words: list[object] = ["attribute", studio.model, studio.images, "--layer", "mixx", "-o", tmp_path / "r.h5"]
    words.insert(place, "--debug")
    result = call(*words)
    assert result.exit_code == 2  # as without
    assert "Traceback (most recent call last)" in result.stderr
    assert "chanattr.errors.LayerError: no layer 'mixx'" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: no layer 'mixx'")


def test_debug_is_in_the_help_of_every_command() -> None:
    for command in ("", "demo", "layers", "attribute", "bench", "show", "report"):
        assert "--debug" in call(*command.split(), "--help").stdout


def test_an_unexpected_error_is_one_line_that_says_so(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chanattr.network.zoo.load_model", lambda *_, **__: 1 / 0)
    result = call("layers", studio.model)
    assert result.exit_code == 2
    assert result.stderr == ("error: unexpected ZeroDivisionError: division by zero; expected none of this kind: this is a defect of "
                             "chanattr or of your own function; --debug shows where\n")
    result = call("layers", studio.model, "--debug")
    assert (result.exit_code, "ZeroDivisionError: division by zero" in result.stderr) == (2, True)


@pytest.mark.parametrize(("error", "message"), [
    (MemoryError(), "out of memory .*; expected .*; pass a smaller --batch-size"),
    (OSError(28, "No space left on device", "/x/r.html"), "/x/r.html: No space left on device; expected .* check the path"),
])
def test_errors_of_the_machine_say_what_to_do(studio: Studio, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("chanattr.network.zoo.load_model", fail)
    result = call("layers", studio.model)
    assert result.exit_code == 2
    assert re.match(f"error: {message}", result.stderr)
