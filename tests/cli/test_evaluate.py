"""`chanattr evaluate` from a run file: the table, JSON, what the file keeps, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import chanattr as ca
from chanattr.cli import main
from chanattr.evidence.evaluation import Summary
from chanattr.images import demo_folder

METHODS = ["--method", "random", "--method", "gradient_x_activation"]


def call(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    for name in ("130_flamingo", "805_soccer_ball"):
        (folder / "images" / name).mkdir(parents=True)
        for picture in sorted((demo_folder() / name).glob("*.jpg"))[:2]:
            shutil.copy(picture, folder / "images" / name)
    out = folder / "run.h5"
    call("attribute", "embedded", str(folder / "images"), "--layer", "features.12", "--areas", "4,40", "--no-classes", "-o", str(out))
    return out


def test_the_table_is_shown_and_kept(file: Path) -> None:
    with ca.open_run(file) as run:
        before = run.content_sha256()
    said = call("evaluate", str(file), str(file.parent / "images"), *METHODS, "--count", "3")
    assert "features.12: 3 images, 2 areas, 4 to 40 channels; logit, preserve" in said
    assert all(len(line) <= 80 for line in said.splitlines() if not line.startswith("images x layers"))
    with ca.open_run(file) as run:
        told = Summary.from_dict(run.attributes["evaluations"]["features.12"]["exact"])
        assert run.content_sha256() == before  # what was measured of answers is none
        run.check()
    assert [line.method for line in told.lines] == ["exact", "random", "gradient_x_activation"]
    assert told.lines[0].share.value > 0.9 > told.lines[1].share.value
    assert Summary.from_dict(json.loads(json.dumps(told.as_dict()))).lines[1].share == told.lines[1].share
    shown = call("show", str(file))
    assert "gradient_x_activation" in shown
    assert ca.figures.methods_data(told).names[-1] == "exact"


def test_tables_of_another_version_do_not_keep_a_file_from_being_shown(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "run.h5"
    shutil.copy(file, other)
    for held in ({"features.12": {"exact": {"lines": [{"unknown": 1}]}}}, {"features.12": 3}, "none"):
        with ca.open_run(other, "a") as run:
            run.set_attributes(evaluations=held)
        assert "features.12 (exact): 4 images" in call("show", str(other))


def test_json_for_programs(file: Path) -> None:
    said = json.loads(call("evaluate", str(file), str(file.parent / "images"), "--method", "random", "--count", "2", "--json"))
    assert said[0]["layer"] == "features.12"
    assert [line["method"] for line in said[0]["lines"]] == ["exact", "random"]
    assert np.isfinite(said[0]["lines"][1]["share"]["low"])


def test_bad_input(file: Path, tmp_path: Path) -> None:
    said = call("evaluate", str(file), str(file.parent / "images"), "--method", "gradcam", code=2)
    assert "method 'gradcam'; expected some of random" in said
    assert "no run at" in call("evaluate", str(tmp_path / "none.h5"), str(demo_folder()), code=2)
    said = call("evaluate", str(file), str(file.parent / "images"), "--layer", "features.3", code=2)
    assert "features.3" in said
    said = call("evaluate", str(file), str(file.parent / "images"), "--label", "other", code=2)
    assert "none of the pictures has answers under the label 'other'" in said


def test_an_evaluation_that_is_none() -> None:
    for wrong in (None, {}, {"lines": 3}, {"lines": [{"method": "x"}]}):
        with pytest.raises(ca.InputError, match="an evaluation that cannot be read"):
            Summary.from_dict(wrong)
