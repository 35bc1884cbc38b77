"""The commands, end to end on small models: what they print, what they write, their exit codes."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

import chanattr as ca
from chanattr.cli import main
from chanattr.cli.text import top_channels
from tests.cli.studio import CLASSES, Studio, make_studio
from tests.store.make import classes as stored_classes


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
    assert row.split() == ["mix", "Conv2d", "1", "2x8x8x8", "1", "8"]


def test_the_layers_of_the_shipped_model_fit_a_terminal() -> None:
    lines = ran("layers", "embedded").splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "68 layers (K: channels); --explain LAYER says what a mask means there"


def test_without_a_command_there_is_help() -> None:
    assert ran() == ran("--help")


def test_attribute_show_and_report(studio: Studio, tmp_path: Path) -> None:
    out = tmp_path / "run.h5"
    text = ran("attribute", studio.model, studio.images, "--layer", "mix", "--layer", "conv", "--areas", "1,3", "-o", out)
    assert "12 images searched" in text
    assert "mix: tail (export)" in text
    shown = ran("show", out)
    for name in CLASSES:
        assert name in shown
    summary = json.loads(ran("show", out, "--json"))
    assert (summary["images"], summary["complete"]) == (12, True)
    assert "12 images, 2 layers\n" in shown
    assert "a*: the fewest channels" in shown.replace("\n", " ")
    assert max(map(len, shown[shown.index("a*: the"):].splitlines())) <= 80
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


def test_certificates_are_asked_for_and_shown(studio: Studio, tmp_path: Path) -> None:
    ran("attribute", studio.model, studio.images, "--layer", "mix", "--areas", "2,8", "--no-classes", "--certify", "-o",
        tmp_path / "run.h5")
    with ca.open_run(tmp_path / "run.h5") as run:
        found = run.per_image("mix")
    assert found.settings.certify
    reached = int((found.smallest_area >= 0).sum())
    assert (found.irreducible == 1).sum() == reached > 0
    assert f"{reached} of {reached} a* sets irreducible" in ran("show", tmp_path / "run.h5")


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



def test_show_says_when_a_run_is_not_complete_and_counts_in_words(tmp_path: Path, studio: Studio) -> None:
    ran("attribute", studio.model, studio.images / "000_cat" / "0.png", "--layer", "mix", "-o", tmp_path / "r.h5", "--areas", "2")
    assert "Plain" not in ran("show", tmp_path / "r.h5").splitlines()[0]
    assert ran("show", tmp_path / "r.h5").splitlines()[0].endswith(", 1 image, 1 layer")
    with ca.open_run(tmp_path / "r.h5", "a") as run:
        run.set_attributes(asked={"mix": {"exact": {"targets": "predicted", "finished": False}}})
    assert "not complete: the command that wrote it goes on when started again" in ran("show", tmp_path / "r.h5")


def test_an_export_lies_beside_its_run_or_where_it_is_asked(studio: Studio, tmp_path: Path) -> None:
    ran("attribute", studio.model, studio.images / "000_cat", "--layer", "mix", "-o", tmp_path / "r.h5", "--areas", "2", "--no-refine")
    assert ran("export", tmp_path / "r.h5") == f"wrote {tmp_path / 'r.nc'}\n"
    with h5py.File(tmp_path / "r.nc") as file:
        assert file["layers/mix/exact/mask"].shape == (3, 1, 8)
    told = ran("export", tmp_path / "r.h5", "--format", "csv", "-o", tmp_path / "tables").splitlines()
    assert sorted(told) == sorted(f"wrote {path}" for path in (tmp_path / "tables").iterdir())
    assert f"wrote {tmp_path / 'tables' / 'layers_areas.csv'}" in told
    refused = call("export", tmp_path / "r.h5", "--format", "json")
    assert refused.exit_code == 2
    assert "--format json; expected one of netcdf, zarr, csv, parquet" in refused.stderr


def test_show_prints_classes_that_are_alone_in_a_file(tmp_path: Path) -> None:
    """As `ca.per_class` gives them, without answers for their images."""
    with ca.open_run(tmp_path / "run.h5", "a") as run:
        run.write(stored_classes())
    shown = ran("show", tmp_path / "run.h5")
    assert "0 images, 1 layer; not complete" in shown
    assert "features.10 (exact): 3 classes of 21 channels" in shown
    assert re.search(r"^class +images +joint a\* +top channels$", shown, re.M)


def test_no_channels_are_made_up_where_no_set_holds_any() -> None:
    classes = stored_classes()
    mean = classes.mean_mask.copy()
    mean[0] = 0
    mean[1] = 0
    mean[1, 3] = 0.5
    classes = dataclasses.replace(classes, mean_mask=mean, images=np.array([0, *classes.images[1:]], np.int32))
    assert top_channels(classes, 0) == "-"
    assert top_channels(classes, 1) == "3"


def test_demo_and_demo_full_lie_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a short search over few images, for the whole takes minutes, and hours."""
    room = importlib.import_module("chanattr.cli.demo")
    real, loader = room.attribute, room.loader_of

    def short(*given: object, **named: object) -> object:
        assert named.pop("areas") in (None, room.AREAS)
        return real(*given, **named, areas=(24,), search=ca.ExactSearch(relaxed_steps=1, binary_steps=1), refine=False)

    monkeypatch.setattr(room, "attribute", short)
    monkeypatch.setattr(room, "load_model", functools.cache(room.load_model))  # and so it is exported once
    monkeypatch.setattr(room, "LAYERS", ("features.12",))
    monkeypatch.setattr(room, "FULL_LAYERS", ("features.12",))
    monkeypatch.setattr(room, "CLASS_AREAS", (24,))
    monkeypatch.setattr(room, "loader_of", lambda *given, **named: loader(*given, **named | {"limit_per_class": 1}))
    assert "demo.h5 " in ran("demo", "--out", tmp_path)
    assert "demo-full.h5 " in ran("demo", "--full", "--out", tmp_path)
    assert "demo.h5 " in ran("demo", "--out", tmp_path)
    assert {path.name for path in tmp_path.glob("*.h*[5l]")} == {"demo.h5", "demo.html", "demo-full.h5", "demo-full.html"}
