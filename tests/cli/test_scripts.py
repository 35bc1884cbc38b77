"""The scripts' choice of a Python, and what they say; nothing is installed here."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import chanattr as ca
from tests.cli.studio import Studio, make_studio

SCRIPTS = Path(__file__).parents[2] / "scripts"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def find_python(**environment: str) -> subprocess.CompletedProcess[str]:
    """What scripts/setup.sh finds."""
    return subprocess.run(["bash", "-c", 'set -euo pipefail; source "$1/setup.sh"; find_python; echo "$python"', "bash", str(SCRIPTS)],
                          capture_output=True, text=True, check=False, env=os.environ | environment)


def test_a_python_in_a_path_with_a_space_is_taken(tmp_path: Path) -> None:
    link = tmp_path / "my tools" / "python"
    link.parent.mkdir()
    link.symlink_to(sys.executable)
    assert find_python(PYTHON=str(link)).stdout == f"{link}\n"


@pytest.mark.parametrize(("name", "message"), [
    ("nowhere at all", "PYTHON=nowhere at all is no command; chanattr needs Python 3.10 or newer: name one, or unset PYTHON"),
    ("false", r"PYTHON=false is false ("),
])
def test_the_python_that_is_named_or_none(name: str, message: str) -> None:
    done = find_python(PYTHON=name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)


def test_without_a_name_one_is_found() -> None:
    assert "python" in find_python(PYTHON="").stdout


@pytest.mark.parametrize(("word", "code"), [("-h", 0), ("--help", 0), ("--nope", 2)])
def test_demo_passes_its_words_on(tmp_path: Path, word: str, code: int) -> None:
    """In a copy whose .venv is a stand-in with this Python's chanattr, so that nothing is installed."""
    root = tmp_path / "a copy"
    shutil.copytree(SCRIPTS, root / "scripts")
    (root / "scripts" / "setup.sh").write_text(f'venv="{tmp_path}/venv"\nset_up() {{ :; }}\n')
    command = tmp_path / "venv" / "bin" / "chanattr"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m chanattr "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(["bash", str(root / "scripts" / "demo"), word], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert ("Usage" in done.stdout) == (code == 0)
    assert not list(tmp_path.glob("chanattr-demo"))


def test_release_tells_what_it_takes() -> None:
    done = subprocess.run(["bash", str(SCRIPTS / "release"), "--nope"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "got --nope; expected --no-demo or nothing\n")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """A little model, and pictures under names that are markup."""
    made = make_studio(tmp_path_factory.mktemp("studio"))
    for folder in sorted(made.images.iterdir()):
        (folder / "0.png").rename(folder / "<img src=x onerror=alert(1)>.png")
    return made


def script(name: str) -> ModuleType:
    """A script, as a module."""
    loader = importlib.machinery.SourceFileLoader(name, str(SCRIPTS / name))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def words_of(studio: Studio, run: Path, out: Path, *more: str) -> list[str]:
    return [str(SCRIPTS / "figures"), "--out", str(out), "--run", str(run), "--images", str(studio.images), *more]


@pytest.mark.slow
def test_every_figure_of_the_paper_is_made_from_a_run_file(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    """Without a PATH no browser is found, which takes a while to draw each figure."""
    loaded = ca.load_model(studio.model)
    loader = ca.image_loader([studio.images], loaded.preprocess, class_names=loaded.class_names, root=studio.images, limit_per_class=2)
    with ca.open_run(tmp_path / "run.h5", "a") as run:
        ca.attribute(run, loaded.module, loader, layers=["mix"], name=studio.model, class_names=loaded.class_names, folds=0, progress=False)
        for game, label in (("preserve", "exact"), ("delete", "delete")):
            ca.spatial_run(run, loaded.module, loader, areas=(0.1, 0.4), search=ca.ExactSearch(relaxed_steps=2), refine=False,
                           game=game, label=label, name=studio.model, class_names=loaded.class_names, progress=False)
    monkeypatch.setitem(sys.modules, "figures", figures := script("figures"))  # where its types find the names that they are made of
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        patch.setattr(sys, "argv", words_of(studio, tmp_path / "run.h5", tmp_path / "out"))
        code, said = figures.main(), capsys.readouterr().err
    assert code == 0, said
    assert "no PNGs: no Chromium on PATH" in said
    pages = sorted((tmp_path / "out").glob("*.html"))
    assert [page.stem for page in pages] == [f"figure-{number}" for number in sorted(map(str, (1, 2, 3, 6, 7, 8, 9, 10)))]
    for page in pages:
        text = page.read_text(encoding="utf8")
        assert "plotly.js v" in text  # within the page
        assert "<script src" not in text
        assert "<img src=x" not in text
    if shutil.which("chromium"):
        monkeypatch.setattr(sys, "argv", words_of(studio, tmp_path / "run.h5", tmp_path / "png", "--only", "3"))
        assert figures.main() == 0
        with Image.open(tmp_path / "png" / "figure-3.png") as picture:
            assert picture.width >= 600
            assert len(picture.getcolors() or []) > 10


def test_a_figure_whose_answers_are_missing_is_named(studio: Studio, tmp_path: Path) -> None:
    loaded = ca.load_model(studio.model)
    loader = ca.image_loader([studio.images], loaded.preprocess, class_names=loaded.class_names, root=studio.images, limit_per_class=1)
    with ca.open_run(tmp_path / "run.h5", "a") as run:
        ca.attribute(run, loaded.module, loader, layers=["mix"], name=studio.model, classes=False, progress=False)
    done = subprocess.run([sys.executable, *words_of(studio, tmp_path / "run.h5", tmp_path / "out", "--only", "1", "10")],
                          capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1", "PATH": "/nowhere"})
    assert done.returncode == 1
    assert "figure 1 needs masks on the picture under the label 'exact': chanattr spatial" in done.stderr
    assert "figure 10 needs classes: chanattr attribute" in done.stderr
    assert not list((tmp_path / "out").iterdir())


def notebooks(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPTS / "notebooks"), *words], capture_output=True, text=True, check=False)


def test_a_notebook_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = notebooks("--out", str(tmp_path / "made"), "07_nowhere")
    assert done.returncode == 2
    assert "no notebook '07_nowhere'; expected one of 01_one_image, " in done.stderr


def test_what_notebooks_need_is_said(tmp_path: Path) -> None:
    if all(importlib.util.find_spec(name) for name in ("ipykernel", "jupytext", "nbclient", "nbformat")):
        pytest.skip("all that it needs is installed")
    done = notebooks("--out", str(tmp_path / "made"))
    assert done.returncode == 2
    assert "is not installed; install the extra: .venv/bin/python -m pip install -e '.[notebook]'" in done.stderr
    assert not (tmp_path / "made").exists()


@pytest.fixture(scope="module")
def spatial_table() -> ModuleType:
    return script("spatial_table")


def test_spatial_table_makes_answers_once_and_tells_them(spatial_table: ModuleType, studio: Studio, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for number, picture in enumerate(sorted(studio.images.glob("*/1.png"))[:2]):
        shutil.copy(picture, tmp_path / f"{number}.png")
    told = [{"file": f"{number}.png", "index": 1, "width": 30, "height": 24, "boxes": [[2, 2, 9, 9]]} for number in range(2)]
    (tmp_path / "annotations.json").write_text(json.dumps(told))
    for name, (asked, more) in spatial_table.SEARCHES.items():
        if name in {"draft", "two_starts"}:
            steps = asked.relaxed_steps // 20
            monkeypatch.setitem(spatial_table.SEARCHES, name, (dataclasses.replace(asked, relaxed_steps=steps), more))
    words = ["spatial_table", "--data", str(tmp_path), "--model", studio.model, "--second", studio.model, "--out", str(tmp_path / "out"),
             "--methods", "draft,two_starts", "--heat", "centre,grad_cam,rise"]
    monkeypatch.setattr(sys, "argv", [*words, "--areas", "0.1,0.3"])
    spatial_table.main()
    assert len(capsys.readouterr().out.splitlines()) == 4
    spatial_table.main()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys, "argv", [*words, "--table"])
    spatial_table.main()
    text = capsys.readouterr().out
    assert text.startswith("2 images: 0, 1\n")
    smooth, hard, pointing = ([line.split() for line in part.splitlines()] for part in text.split("\n\n")[:3])
    evaluations = {line[0]: line[1] for line in hard}
    assert evaluations == {"hard": "masks", "draft": "2", "two_starts": "8", "centre": "0", "grad_cam": "1", "rise": "333"}
    assert next(line[3:5] for line in smooth if line[0] == "two_starts") == ["0.100", "0.300"]
    assert [line[0] for line in pointing] == ["method", "draft", "two_starts", "centre", "grad_cam", "rise"]

    model, (asked, more) = Path(studio.model).stem, spatial_table.SEARCHES["draft"]
    monkeypatch.setitem(spatial_table.SEARCHES, "draft", (dataclasses.replace(asked, smoothing=2.0), more))
    for way in (["--areas", "0.1,0.3"], ["--table"]):
        monkeypatch.setattr(sys, "argv", [*words, *way])
        with pytest.raises(SystemExit, match=rf"out/{model}-0-draft\.npz was searched with search\.smoothing=4\.0, but draft is .*=2\.0;"):
            spatial_table.main()
    monkeypatch.setitem(spatial_table.SEARCHES, "draft", (asked, more))
    (tmp_path / "out" / f"{model}-1-draft.npz").unlink()
    monkeypatch.setattr(sys, "argv", [*words, "--areas", "0.1,0.4"])
    spatial_table.main()
    monkeypatch.setattr(sys, "argv", [*words, "--table"])
    with pytest.raises(SystemExit, match=rf"{model}-1-two_starts\.npz is of areas \[0\.1 0\.3\], draft's of \[0\.1 0\.4\]; expected "):
        spatial_table.main()


@pytest.mark.parametrize(("given", "message"), [
    (["--methods", "exakt"], "'exakt'; expected some of torchray, exact, "),
    (["--heat", "centre,edges"], "'edges'; expected some of centre, gradient, "),
    (["--methods", "", "--heat", ""], "neither --methods nor --heat names anything"),
    (["--methods", "exact"], "exact is asked for TorchRay's areas, but there is no .*-torchray.npz; expected torchray among --methods"),
])
def test_spatial_table_tells_what_it_cannot_do(spatial_table: ModuleType, studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str], given: list[str], message: str) -> None:
    shutil.copy(next(studio.images.glob("*/1.png")), tmp_path / "0.png")
    (tmp_path / "annotations.json").write_text(json.dumps([{"file": "0.png", "index": 1, "width": 30, "height": 24, "boxes": []}]))
    monkeypatch.setattr(sys, "argv", ["spatial_table", "--data", str(tmp_path), "--model", studio.model, "--out", str(tmp_path), *given])
    with pytest.raises(SystemExit) as caught:
        spatial_table.main()
    assert re.search(message, f"{caught.value} {capsys.readouterr().err}")


def test_spatial_table_scores_a_heat_map_as_the_hard_mask_of_a_search(spatial_table: ModuleType, studio: Studio) -> None:
    loaded = ca.load_model(studio.model)
    image = spatial_table.images_of(loaded, studio.images, [f"{next(studio.images.iterdir()).name}/1.png"])
    found = ca.spatial(loaded.module, image, areas=(0.1, 0.4), search=ca.ExactSearch(relaxed_steps=4), refine=False, precision="float32")
    scores = [spatial_table.hard_scores(loaded, image, int(found.targets[0]), mask, found.true_areas[0], 0.0)[place]
              for place, mask in enumerate(found.masks()[0])]
    np.testing.assert_allclose(scores, found.level_set_scores[0], rtol=1e-5)
    assert abs(scores[0] - scores[1]) > 1e-4
