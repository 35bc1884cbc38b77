"""`chanattr bench`: the tables, what they say of a shortened plain way, and the same for programs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chanattr.attribution import bench as room
from chanattr.attribution.bench import Way
from chanattr.cli import main
from chanattr.cli.bench import _seconds
from tests.cli.studio import Studio, make_studio


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setattr(room, "ROUND", 0.01)
    return make_studio(tmp_path, per_class=1)


def call(studio: Studio, *words: object) -> Result:
    given = ["bench", "--model", studio.model, "--images", studio.images, "--count", 3, "--device", "cpu", *words]
    return CliRunner().invoke(main, [str(word) for word in given])


def test_the_tables_fit_a_terminal_and_end_at_the_whole(studio: Studio) -> None:
    result = call(studio, "--layer", "mix", "--plain-images", 2)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(result.stdout.split())
    assert "3 images (2 of 3 by the plain way)" in text
    assert "2 of 3 images" in text
    assert "reckoned" not in text
    assert sum(line.startswith(("plain ", "refine=False ", "refine=True ", "areas='smallest' ")) for line in lines) == 8
    gain = next(line for line in lines if line.startswith("areas='smallest'")).split(")")[1].split()[0]
    last = next(line for line in lines if line.startswith("areas not searched")).split()[-1]
    assert gain == last


@pytest.mark.parametrize("seconds", [(123.4, 1234.0), (0.012345, 0.023456), (0.00012345, 0.00098765), (1.2345e-6, 2.3456e-6)])
def test_seconds_of_any_size_fit_their_column(seconds: tuple[float, ...]) -> None:
    way = Way(name="plain", engine="", images=1, seconds=seconds, evaluations=1.0, peak=1, score=None, share=None, smallest=())
    assert len(_seconds(way)) <= 25
    assert float(_seconds(way).split()[0]) == pytest.approx(sum(seconds) / 2, rel=0.05)


def test_the_help_fits() -> None:
    result = CliRunner().invoke(main, ["bench", "--help"])
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 110


def test_fewer_steps_are_said(studio: Studio) -> None:
    result = call(studio, "--layer", "mix", "--plain-steps", 4, "--areas", "2,3")
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "It ran 4 of its 300 steps" in text
    assert "(one round)" in text
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_programs_get_json(studio: Studio) -> None:
    result = call(studio, "--layer", "mix", "--plain-steps", 2, "--areas", "paper", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["areas"] == [1, 5]
    assert told["steps"] == 2
    assert math.prod(rung["ratio"] for rung in told["rungs"]) == pytest.approx(told["ways"][-1]["gain"])


def test_wrong_words_are_one_line(studio: Studio) -> None:
    mix = ("--layer", "mix", "--areas")
    for words, said in (((), "no --layer for"), (("--layer", "mixx"), "did you mean 'mix'?"), ((*mix, "few"), "--areas few"),
                        ((*mix, "smallest"), "a* alone is measured too"), ((*mix, "9"), "area 9")):
        result = call(studio, *words)
        assert result.exit_code == 2, result.output
        assert said in result.stderr
        assert result.stderr.startswith("error: ")
