"""`chanattr check` and `chanattr repair`: a line a fault, exit codes, and a run that goes on from what was kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import chanattr as ca
from chanattr.cli import main
from tests.cli.studio import Studio, make_studio


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return make_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def whole(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "run.h5"
    attribute(studio, path)
    return path.read_bytes()


def attribute(studio: Studio, path: Path) -> None:
    done = call("attribute", studio.model, studio.images, "--layer", "mix", "-o", path, "--areas", "1,2,3", "--device", "cpu")
    assert done.exit_code == 0, done.output


def test_a_whole_file(studio: Studio, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    path.write_bytes(whole)
    done = call("check", path)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{path} is whole: 12 images, rows of answers: classes/mix/exact 4, layers/mix/exact 12; content ")
    done = call("check", path, "--model", studio.model, "--images", studio.images, "--count", "5", "--device", "cpu", "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["faults"], told["rescored"], told["images"]) == (0, [], 5, 12)


def test_a_damaged_file_is_repaired_and_goes_on(studio: Studio, whole: bytes, tmp_path: Path) -> None:
    path, new = tmp_path / "run.h5", tmp_path / "run.repaired.h5"
    key = b"001_dog/1.png"
    assert whole.count(key) == 1
    path.write_bytes(whole.replace(key, b"001_dig/1.png"))
    done = call("check", path)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    assert any("/image rows 4 do not have the digests of their keys" in line for line in lines)
    assert f"'chanattr repair {path}' keeps those" in done.stderr
    done = call("repair", path)
    assert done.exit_code == 1
    assert done.stdout.startswith(f"wrote {new}: 11 images, rows of answers: classes/mix/exact 4, layers/mix/exact 11; ")
    assert call("repair", path).exit_code == 2  # it is there already
    attribute(studio, new)
    path.write_bytes(whole)
    with ca.open_run(path) as one, ca.open_run(new) as two:
        assert one.check() == two.check()


def test_what_is_wrongly_asked(studio: Studio, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    path.write_bytes(whole)
    for words, told in (((path, "--model", studio.model), "--model came alone"), ((path, "--images", studio.images), "--images came alone"),
                        ((tmp_path / "no.h5",), "no run at"), ((path, "--model", studio.model, "--images", studio.model[:-5]), "")):
        done = call("check", *words)
        assert done.exit_code == 2
        assert told in done.stderr
    other = call("check", path, "--model", studio.model.replace(":make", ":other"), "--images", studio.images, "--device", "cpu")
    assert other.exit_code == 2
    assert "model_sha256" in other.stderr
