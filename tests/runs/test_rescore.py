"""`rescore` finds stored figures that are not the model's, and no others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import chanattr as ca
from chanattr.runs.rescore import rescore
from tests.models import Plain, seeded
from tests.runs.loaders import COUNT, Loader, run_all


@pytest.mark.parametrize("game", ["preserve", "delete", "dual"])
def test_true_answers_pass(tmp_path: Path, game: str) -> None:
    run_all(tmp_path / "run.h5", game=game, fill="mean", classes=False)
    with ca.open_run(tmp_path / "run.h5") as run:
        assert list(rescore(run, seeded(Plain), Loader())) == []


def test_masks_on_the_picture_are_not_said_to_be_scored(tmp_path: Path) -> None:
    found = ca.spatial(seeded(Plain), torch.rand(2, 3, 8, 8), areas=(0.1,), refine=False, search=ca.ExactSearch(relaxed_steps=2))
    with ca.open_run(tmp_path / "run.h5", "a") as run:
        run.write(found)
        with pytest.raises(ca.InputError, match=r"run\.h5 holds no sets of channels of images, and these alone are scored again; expected"):
            list(rescore(run, seeded(Plain), Loader()))


@pytest.mark.parametrize(("name", "words"), [("scores", "scores at area 3 is stored as"), ("original", "original is stored as"),
                                             ("empty", "empty is stored as"), ("smallest_score", "smallest_score is stored as")])
def test_a_figure_that_is_not_the_models_is_named(tmp_path: Path, name: str, words: str) -> None:
    run_all(tmp_path / "true.h5", classes=False, layers=["mix"])
    with ca.open_run(tmp_path / "true.h5") as run:
        record = run.per_image("mix")
    values: Any = np.array(getattr(record, name))
    row = int(np.flatnonzero(record.smallest_area >= 0)[0])
    values[(row, 1) if name == "scores" else row] += 0.1 * max(1, abs(record.original[row]))
    with ca.open_run(tmp_path / "false.h5", "a") as run:
        run.write(dataclasses.replace(record, **{name: values}))
        [fault] = rescore(run, seeded(Plain), Loader())
    assert fault.startswith(f"mix (exact) folder/{row}.png: {words}")


def test_a_mask_that_is_not_the_one_scored_is_found(tmp_path: Path) -> None:
    run_all(tmp_path / "true.h5", classes=False, layers=["mix"])
    with ca.open_run(tmp_path / "true.h5") as run:
        record = run.per_image("mix")
    masks = record.masks.copy()
    masks[4, 1] = np.roll(masks[4, 1], 1)
    with ca.open_run(tmp_path / "false.h5", "a") as run:
        run.write(dataclasses.replace(record, masks=masks))
        [fault] = rescore(run, seeded(Plain), Loader())
    assert "folder/4.png: scores at area 3" in fault


def test_other_pictures_and_other_models_are_told(tmp_path: Path) -> None:
    run_all(tmp_path / "run.h5", classes=False, layers=["mix"])
    with ca.open_run(tmp_path / "run.h5") as run:
        with pytest.raises(ca.InputError, match="none of the pictures is in"):
            list(rescore(run, seeded(Plain), Loader(keys=[f"other/{n}" for n in range(COUNT)])))
        changed = Loader(keys=["folder/1.png", "folder/0.png", *(f"folder/{n}.png" for n in range(2, COUNT))])
        faults = list(rescore(run, seeded(Plain), changed))
        assert [fault.split(":")[0] for fault in faults] == ["folder/1.png", "folder/0.png"]
        other = seeded(Plain)
        other.head.weight.data *= 1.1
        with pytest.raises(ca.InputError, match="model_sha256"):
            list(rescore(run, other, Loader()))
