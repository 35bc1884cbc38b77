"""`chanattr invert` and `chanattr visualise` over a run file: sheets, tables, JSON, and bad input."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import chanattr as ca
from chanattr.cli import main
from chanattr.cli.pictures import file_of
from chanattr.network.zoo import load_model
from chanattr.pictures.sheet import MARGIN, WORDS
from tests.cli.studio import Studio, make_studio

LAYER = "mix"
QUICK = ["--steps", "2"]


def call(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == code, done.output
    return done.stdout if not code else done.output


def size_of(file: str | Path) -> tuple[int, int]:
    with Image.open(file) as picture:
        return picture.size


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return make_studio(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def file(studio: Studio) -> Path:
    out = studio.images.parent / "run.h5"
    call("attribute", studio.model, str(studio.images), "--layer", LAYER, "--areas", "2,5", "--level", "0.5", "--targets", "label", "-o",
         str(out))
    return out


def test_invert_writes_a_sheet_and_a_table(file: Path, studio: Studio, tmp_path: Path) -> None:
    said = call("invert", str(file), str(studio.images), "--count", "2", "-o", str(tmp_path), *QUICK, "--model", studio.model)
    lines = said.splitlines()
    with ca.open_run(file) as run:
        found = run.per_image(LAYER)
    having = [row for row, area in enumerate(found.smallest_area) if area > 0]
    first = [row for row in having if found.keys[row].split("/")[0] not in {found.keys[r].split("/")[0] for r in having if r < row}][:2]
    shown = [line.split() for line in lines if ".png" in line and "wrote" not in line]
    assert [line[0] for line in shown] == [found.keys[row] for row in first for _ in range(2)]  # one of each class, whole and masked
    assert [int(line[2]) for line in shown] == [area for row in first for area in (8, found.smallest_area[row])]
    assert size_of(tmp_path / f"inversion-{LAYER}.png") == (MARGIN + 2 * (160 + MARGIN), 3 * (160 + 2 * WORDS + 2 * MARGIN))


def test_invert_for_programs_with_keys_and_an_area(file: Path, studio: Studio, tmp_path: Path) -> None:
    key = "003_owl/2.png"
    said = json.loads(call("invert", str(file), str(studio.images), "--key", key, "--area", "5", "--objective", "match", "--json",
                           "-o", str(tmp_path), *QUICK, "--seed", "3", "--parametrisation", "pixel", "--model", studio.model))[LAYER]
    assert said["keys"] == [key]
    assert (said["whole"]["areas"], said["masked"]["areas"]) == ([8], [5])
    assert [said["settings"][name] for name in ("objective", "steps", "seed", "parametrisation")] == ["match", 2, 3, "pixel"]
    assert Path(said["file"]) == tmp_path / f"inversion-{LAYER},area-5.png"
    assert Path(said["file"]).is_file()


def test_invert_takes_growing_areas_on_one_sheet(file: Path, studio: Studio, tmp_path: Path) -> None:
    with ca.open_run(file) as run:
        found = run.per_image(LAYER)
    keys = [found.keys[row] for row in np.flatnonzero(found.smallest_area > 0)[[1, 0]]]
    words = ["invert", str(file), str(studio.images), *(word for key in keys for word in ("--key", key)), "-o", str(tmp_path), *QUICK,
             "--seed", "5", "--model", studio.model]
    both = json.loads(call(*words, "--area", "5", "--area", "2", "--json"))[LAYER]
    assert (both["whole"]["areas"], both["masked"]["areas"]) == ([8, 8], [2, 2, 5, 5])
    assert (both["keys"], both["whole"]["keys"], both["masked"]["keys"]) == (keys, keys, keys * 2)
    assert size_of(tmp_path / f"inversion-{LAYER},area-2-5.png") == (MARGIN + 2 * (160 + MARGIN), 4 * (160 + 2 * WORDS + 2 * MARGIN))
    alone = [json.loads(call(*words, "--area", area, "--json"))[LAYER]["masked"]["cosine"] for area in ("2", "5")]
    assert both["masked"]["cosine"] == alone[0] + alone[1]
    assert {path.name for path in tmp_path.iterdir()} == {f"inversion-{LAYER},area-{areas}.png" for areas in ("2-5", "2", "5")}
    told = [line.split() for line in call(*words, "--area", "2", "--area", "5").splitlines() if line.startswith("00")]
    assert [(line[0], line[1], line[2]) for line in told] == [(key, *of) for key in keys for of in (("whole", "8"), ("masked", "2"),
                                                                                                    ("masked", "5"))]


def test_every_layer_label_and_area_has_a_sheet_of_its_own(tmp_path: Path) -> None:
    layers = ["a:input", "a_input", "a%3Ainput", "a,area-2", "a,label-b", "a-area-2", "a", "a/b", "a@2"]
    names = [file_of(tmp_path, "inversion", layer, label, areas) for layer in layers for label in ("exact", "b", "b,area-2", "../b")
             for areas in ((), (2,), (2, 3), (23,))]
    assert len(set(names)) == len(names)
    assert {name.parent for name in names} == {tmp_path}
    assert file_of(tmp_path, "channels", "features.12").name == "channels-features.12.png"


def test_pictures_are_kept_and_made_once(file: Path, studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.h5"
    shutil.copy(file, own)
    words = [str(own), str(studio.images), "--model", studio.model, "-o", str(tmp_path / "out"), *QUICK, "--seed", "11"]
    said = [call("invert", *words, "--count", "2", "--no-store"), call("visualise", *words, "--top", "2", "--no-store")]
    assert own.read_bytes() == file.read_bytes()
    assert [call("invert", *words, "--count", "2"), call("visualise", *words, "--top", "2")] == said
    with ca.open_run(own) as run:
        assert run.content_sha256() == run.check()
        assert {4, 2} <= set(run.summary()["pictures"][LAYER].values())
    kept = own.read_bytes()
    for name in ("invert", "visualise", "find_examples"):
        monkeypatch.setattr(f"chanattr.runs.making.{name}", None)  # whatever calls it fails
    assert [call("invert", *words, "--count", "2"), call("visualise", *words, "--top", "2")] == said
    assert own.read_bytes() == kept
    assert "pictures kept: " in call("show", str(own))


def test_a_run_that_is_not_there_is_not_made(studio: Studio, tmp_path: Path) -> None:
    assert "no run at" in call("invert", str(tmp_path / "none.h5"), str(studio.images), code=2)
    assert "no run at" in call("visualise", str(tmp_path / "none.h5"), code=2)
    assert list(tmp_path.iterdir()) == []


def test_visualise_takes_what_most_sets_have_and_shows_examples(file: Path, studio: Studio, tmp_path: Path) -> None:
    said = json.loads(call("visualise", str(file), str(studio.images), "--top", "2", "--examples", "12", "--json", "-o", str(tmp_path),
                           *QUICK, "--model", studio.model))[LAYER]
    with ca.open_run(file) as run:
        found = run.per_image(LAYER)
    often = np.argsort(-found.smallest_mask.sum(0), kind="stable")[:2]
    assert [row["name"] for row in said["rows"]] == [f"channel {channel}" for channel in often]
    member = [{key for key, mask in zip(found.keys, found.smallest_mask, strict=True) if mask[channel]} for channel in often]
    needed = [set(one["keys"]) for one in said["examples"]["needed"]]
    assert all(some <= whole for some, whole in zip(needed, member, strict=True))
    assert any(needed)
    assert size_of(said["file"])[1] == 2 * (160 + 2 * WORDS + 2 * MARGIN)


def test_visualise_a_class_against_another(file: Path, studio: Studio, tmp_path: Path) -> None:
    said = call("visualise", str(file), "--class", "dog", "--against", "2", "--top", "1", "--count", "2", "--diversity", "0.5", "-o",
                str(tmp_path), *QUICK, "--model", studio.model)
    assert "class 1 less class 2" in said
    with ca.open_run(file) as run:
        classes = run.per_class(LAYER)
    best = int(np.argmax(ca.class_weights(classes, 1, 2)[0]))
    assert f"channel {best}" in said


@pytest.mark.parametrize("command", ["invert", "visualise"])
@pytest.mark.parametrize("below", ["", "deep/down"])
def test_a_place_that_cannot_be_written_is_found_first(file: Path, studio: Studio, tmp_path: Path, command: str, below: str,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chanattr.cli.pictures.model_of", None)  # whatever calls it fails
    (tmp_path / "taken").write_text("a file")
    said = call(command, str(file), str(studio.images), "-o", str(tmp_path / "taken" / below), *QUICK, "--model", studio.model, code=2)
    assert "taken is no folder); expected a folder, there or not, with permission to write" in said

    def shut(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("chanattr.cli.pictures.TemporaryFile", shut)
    said = call(command, str(file), str(studio.images), "-o", str(tmp_path / "new" / below), *QUICK, "--model", studio.model, code=2)
    assert f"{tmp_path} Permission denied); expected a folder" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["invert", "visualise"])
def test_help_has_examples(command: str) -> None:
    said = call(command, "--help")
    assert f"chanattr {command} run.h5 photos" in said
    assert "Examples:" in said


@pytest.mark.parametrize(("words", "message"), [
    (["invert", "IMAGES", "--key", "nobody.jpg"], "image 'nobody.jpg' has no a[*] set at mix"),
    (["invert", "IMAGES", "--objective", "warp"], "objective='warp'.; expected 'dot', 'cosine', 'match'"),
    (["invert", "IMAGES", "--area", "7"], "no sets of area 7 here"),
    (["invert", "IMAGES", "--label", "nope"], "has sets of channels under the label 'nope'; expected one of its labels, 'exact'; name one"),
    (["visualise", "--label", "nope", "--json"], "has sets of channels under the label 'nope'; expected one of its labels, 'exact'"),
    (["visualise", "--label", "nope", "--layer", "mix"], "at layer 'mix' under the label 'nope'"),
    (["invert", "PART"], "is not among those given; expected it under the same key"),
    (["invert", "IMAGES", "--weights", "WEIGHTS"], "are of another model"),
    (["visualise", "--channel", "512"], "expected channel numbers from 0 to 7"),
    (["visualise", "--class", "unicorn"], "no class 'unicorn'"),
    (["visualise", "--class", "9"], "class 9 is not in this result"), (["visualise", "--against", "1"], "against=1 without a class"),
    (["visualise", "OTHER"], "none of the pictures given is among the 12 of the run"),
])
def test_what_cannot_be_used_is_one_line(file: Path, studio: Studio, tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "part" / "001_dog").mkdir(parents=True)
    shutil.copy(studio.images / "001_dog" / "0.png", tmp_path / "part" / "001_dog")
    (tmp_path / "other").mkdir()
    shutil.copy(studio.images / "000_cat" / "0.png", tmp_path / "other" / "unknown.png")
    weights = load_model(studio.model).module.state_dict()
    torch.save({name: 2 * value for name, value in weights.items()}, tmp_path / "weights.pt")
    places = {"IMAGES": studio.images, "PART": tmp_path / "part", "OTHER": tmp_path / "other",
              "WEIGHTS": tmp_path / "weights.pt"}
    first, *rest = (str(places.get(word, word)) for word in words)
    said = call(first, str(file), *rest, *QUICK, "--model", studio.model, code=2)
    assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1
    assert re.search(message, said), said
