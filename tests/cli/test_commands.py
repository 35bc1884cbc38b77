"""The commands, end to end on small models: what they print, what they write, their exit codes."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import chanattr as ca
from chanattr.cli import main
from tests.cli.studio import CLASSES, Studio, make_studio


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return make_studio(tmp_path)


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def ran(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_help_is_written_for_people_and_loads_no_torch() -> None:
    code = ("import sys\nfrom chanattr.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
            "heavy = {'torch', 'h5py', 'plotly', 'numpy', 'PIL'} & set(sys.modules)\nassert not heavy, heavy")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("demo", "layers", "attribute", "show", "report"):
        assert re.search(rf"^  {command} +\S", done.stdout, re.M)
    assert "Exit codes" in done.stdout


@pytest.mark.parametrize("command", ["demo", "layers", "attribute", "show", "report"])
def test_every_command_has_help_that_fits_a_terminal(command: str) -> None:
    text = ran(command, "--help")
    assert max(map(len, text.splitlines())) <= 110
    assert "Usage" in text


def test_layers_prints_a_table(studio: Studio) -> None:
    lines = ran("layers", studio.model).splitlines()
    assert lines[0].split() == ["layer", "type", "calls", "shape", "axis", "K"]
    row = next(line for line in lines if line.startswith("mix "))
    assert row.split() == ["mix", "Conv2d", "1", "2", "x", "8", "x", "8", "x", "8", "1", "8"]


def test_attribute_show_and_report(studio: Studio, tmp_path: Path) -> None:
    out = tmp_path / "run.h5"
    text = ran("attribute", studio.model, studio.images, "--layer", "mix", "--layer", "conv", "--areas", "1,3", "-o", out)
    assert "12 images searched" in text
    assert "mix: tail (export)" in text
    shown = ran("show", out)
    for name in CLASSES:
        assert name in shown
    summary = json.loads(ran("show", out, "--json"))
    assert summary["images"] == 12 or len(summary["images"]) == 12
    assert "wrote" in ran("report", out)
    assert out.with_suffix(".html").stat().st_size > 100_000
    again = ran("attribute", studio.model, studio.images, "--layer", "mix", "--layer", "conv", "--areas", "1,3", "-o", out)
    assert "0 images searched, 12 were there already" in again


def test_options_are_named_as_in_the_library(studio: Studio, tmp_path: Path) -> None:
    np.save(tmp_path / "fill.npy", np.arange(8, dtype=np.float32))
    ran("attribute", studio.model, studio.images, "--layer", "mix", "-o", tmp_path / "run.h5", "--areas", "paper", "--targets", "label",
        "--reward", "log_probability", "--game", "dual", "--fill", tmp_path / "fill.npy", "--level", "0.5", "--search", "penalty",
        "--seed", 5, "--label", "paper", "--device", "cpu", "--batch-size", 7, "--no-classes")
    with ca.open_run(tmp_path / "run.h5") as run:
        asked = run.per_image("mix", "paper").settings
        assert run.per_image("mix", "paper").fill_values.tolist() == list(range(8))
    assert (asked.areas, asked.reward, asked.game, asked.level, asked.search.name, asked.seed, asked.refine) == (
        ca.paper_areas(8), "log_probability", "dual", 0.5, "penalty", 5, False)
    assert asked.fill == "values"


def test_a_reward_may_be_the_users_own_function(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def half(logits, targets):\n    return logits.gather(1, targets[:, None])[:, 0] / 2\n")
    ran("attribute", studio.model, studio.images, "--layer", "mix", "-o", tmp_path / "run.h5", "--areas", "2", "--reward",
        f"{tmp_path / 'mine.py'}:half", "--no-classes")
    with ca.open_run(tmp_path / "run.h5") as run:
        assert run.per_image("mix").settings.reward == "mine:half"


def test_areas_over_k_are_dropped_with_a_notice(studio: Studio, tmp_path: Path) -> None:
    result = call("attribute", studio.model, studio.images, "--layer", "mix", "--layer", "conv", "-o", tmp_path / "r.h5", "--areas", "2,7")
    assert result.exit_code == 0
    assert "conv has 6 channels: areas over that are dropped" in result.stderr
    with ca.open_run(tmp_path / "r.h5") as run:
        assert (run.per_image("mix").areas.tolist(), run.per_image("conv").areas.tolist()) == ([2, 7], [2])


def test_no_resume_refuses_a_file_that_has_answers(studio: Studio, tmp_path: Path) -> None:
    words = ("attribute", studio.model, studio.images, "--layer", "mix", "-o", tmp_path / "r.h5", "--areas", "2", "--no-resume")
    assert call(*words).exit_code == 0
    result = call(*words)
    assert result.exit_code == 2
    assert "already has answers at mix" in result.stderr


def test_interruption_keeps_finished_work_and_says_how_to_go_on(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = importlib.import_module("chanattr.runs.attribute")
    real, seen = room.results, []

    def interrupted(*given: object) -> object:
        for item in real(*given):  # type: ignore[arg-type]
            yield item
            seen.append(item)
            raise KeyboardInterrupt

    monkeypatch.setattr(room, "results", interrupted)
    studio = make_studio(_made(tmp_path / "more"), per_class=6)
    words = ("attribute", studio.model, studio.images, "--layer", "mix", "-o", tmp_path / "r.h5", "--areas", "2")
    result = call(*words)
    assert result.exit_code == 130
    assert "finished work is saved. The same command goes on" in result.stderr
    with ca.open_run(tmp_path / "r.h5") as run:
        assert len(run.finished("mix")) == 16
    monkeypatch.setattr(room, "results", real)
    assert "8 images searched, 16 were there already" in ran(*words)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_files_folders_and_globs(studio: Studio, tmp_path: Path) -> None:
    ran("attribute", studio.model, studio.images / "000_cat", studio.images / "001_dog" / "0.png", f"{studio.images}/002*/*.png",
        "--layer", "mix", "-o", tmp_path / "r.h5", "--areas", "2")
    with ca.open_run(tmp_path / "r.h5") as run:
        assert run.keys == ("000_cat/0.png", "000_cat/1.png", "000_cat/2.png", "001_dog/0.png", *(f"002_red_fox/{i}.png" for i in range(3)))

