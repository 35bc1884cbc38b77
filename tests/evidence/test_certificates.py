"""Certificates of answers, against brute force through the model itself with hooks; from the question to the file."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.axes import equal
from chanattr.evidence.certificates import certify, swap_optimal
from tests import planted
from tests.models import images, seeded

CHANNELS, CLASSES, COUNT = 8, 3, 4
CARELESS: Any = {"search": ca.ExactSearch(relaxed_steps=0, binary_steps=1, anneal=0, sweeps=0), "refine": False, "areas": (2, 5, 7, 8)}


class Mixed(nn.Module):
    """Eight channels that matter together: pooled, mixed, and rectified."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, CHANNELS, 3)
        self.mix = nn.Linear(CHANNELS, 12, bias=False)
        self.head = nn.Linear(12, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.body(x).relu().mean((2, 3)) * 4).relu())


MODEL, IMAGES = seeded(Mixed), images(COUNT, size=6)


class Brute:
    """The game's score of any set by a forward of the hooked model, and whether it reaches."""

    def __init__(self, found: ca.ImageAttribution, row: int, model: nn.Module = MODEL, x: Tensor = IMAGES) -> None:
        self.found, self.row, self.model, self.x = found, row, model, x[row:row + 1]
        self.target, self.game = int(found.targets[row]), found.settings.game
        self.known: dict[bytes, Tensor] = {}

    def logits(self, mask: np.ndarray) -> Tensor:
        if mask.tobytes() not in self.known:
            with torch.no_grad(), ca.inject(self.model, self.found.layer, mask[self.found.groups]):
                self.known[mask.tobytes()] = self.model(self.x)[0]
        return self.known[mask.tobytes()]

    def score(self, mask: np.ndarray) -> float:
        kept = 0.0 if self.game == "delete" else float(self.logits(mask)[self.target])
        dropped = 0.0 if self.game == "preserve" else float(self.logits(~mask)[self.target])
        return dropped if self.game == "delete" else kept - dropped

    def reaches(self, mask: np.ndarray) -> bool:
        level: Any = self.found.settings.level
        if level == "top1":
            named = int(self.logits(~mask if self.game == "delete" else mask).argmax()) == self.target
            return named != (self.game == "delete")
        full, none = np.ones_like(mask), np.zeros_like(mask)
        if self.game == "delete":  # with everything is where nothing is dropped
            full, none = none, full
        wanted = self.score(full) if level == "original" else self.score(none) + level * (self.score(full) - self.score(none))
        slack = 1e-5 * max(1, abs(wanted))
        return self.score(mask) <= wanted + slack if self.game == "delete" else self.score(mask) >= wanted - slack

    def better(self, one: np.ndarray, other: np.ndarray) -> float:
        return (self.score(one) - self.score(other)) * (-1 if self.game == "delete" else 1)


def without(mask: np.ndarray, *members: int) -> np.ndarray:
    return mask & ~np.isin(np.arange(len(mask)), members)


def check(found: ca.ImageAttribution, **where: Any) -> None:
    """Every certificate of a record, worked out again."""
    size = found.smallest_mask.shape[1]
    for row in range(len(found)):
        brute, mask = Brute(found, row, **where), found.smallest_mask[row]
        if found.smallest_area[row] < 0:
            assert (found.irreducible[row], found.optimal[row], found.pruned[row]) == (-1, -1, 0)
            assert np.isnan([found.swap_gain[row], found.swap_share[row]]).all()
            continue
        assert mask.sum() == found.smallest_area[row]
        assert brute.reaches(mask)
        assert found.smallest_score[row] == pytest.approx(brute.score(mask), abs=1e-5)
        assert found.irreducible[row] == 1
        assert not any(brute.reaches(without(mask, member)) for member in np.flatnonzero(mask))
        swapped = [without(mask, a) | (np.arange(size) == b) for a, b in itertools.product(np.flatnonzero(mask), np.flatnonzero(~mask))]
        if found.swap_share[row] == 1:
            gain = max([0.0, *(brute.better(other, mask) for other in swapped if brute.reaches(other))])
            assert found.swap_gain[row] == pytest.approx(gain, abs=1e-5)
        if found.optimal[row] > 0:
            smaller = [np.isin(np.arange(size), m) for k in range(int(mask.sum())) for m in itertools.combinations(range(size), k)]
            assert not any(brute.reaches(other) for other in smaller)
        if found.optimal[row] == 2:
            others = (np.isin(np.arange(size), m) for m in itertools.combinations(range(size), int(mask.sum())))
            assert max(brute.better(other, mask) for other in others if brute.reaches(other)) <= 2e-5 * max(1, abs(brute.score(mask)))


QUESTIONS: list[dict[str, Any]] = [
    {}, {"level": 0.7}, {"level": "top1"}, {"game": "delete"}, {"game": "delete", "level": 0.3}, {"game": "dual", "level": 0.8},
    {"fill": "mean", "level": 0.9}, {"fill": "spatial_mean", "level": 0.9}, {"fill": 0.1}, {"reward": "contrastive", "level": 0.9},
    {"group": 2}, {"group": [0, 1, 2, 3, 0, 1, 2, 1], "level": 0.7}, {"areas": "smallest"}]


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_certificates_by_brute_force(question: dict[str, Any]) -> None:
    groups = {"areas": (1, 2, 3)} if "group" in question else {}
    asked = CARELESS | groups | question
    plain = ca.per_image(MODEL, IMAGES, "body", **asked)
    found = ca.per_image(MODEL, IMAGES, "body", **asked, certify=True)
    assert (found.optimal[found.smallest_area >= 0] == 2).all()  # few enough to count all out
    if not {"fill", "reward"} & set(question):
        check(found)
    assert (found.pruned == np.where(found.smallest_area >= 0, plain.smallest_area - found.smallest_area, 0)).all()
    assert np.array_equal(found.masks, plain.masks)
    assert np.array_equal(found.evaluations, plain.evaluations)
    assert (found.certify_evaluations > 0).all()
    assert (plain.irreducible == -1).all()
    assert np.isnan(plain.swap_gain).all()
    assert not plain.certify_evaluations.any()
    assert found.settings.certify
    assert not plain.settings.certify
    later = certify(MODEL, IMAGES, plain)
    for name in ("smallest_mask", "smallest_area", "irreducible", "pruned", "optimal", "smallest_top1", "swap_share"):
        assert np.array_equal(getattr(later, name), getattr(found, name), equal_nan=name == "swap_share"), name
    for name in ("smallest_score", "swap_gain", "energy"):
        np.testing.assert_allclose(getattr(later, name), getattr(found, name), atol=2e-3 if name == "energy" else 1e-5)
    assert later.settings == found.settings
    assert equal(certify(MODEL, IMAGES, later)[:0], later[:0])


@pytest.mark.parametrize("kind", planted.KINDS)
def test_planted_networks_too_large_to_count_out(kind: str) -> None:
    formula = planted.KINDS[kind](4)  # 32 channels
    model, x = planted.Network(formula), planted.image(formula)
    careless = CARELESS | {"areas": (8, 16, 24, 32)}
    plain = ca.per_image(model, x, "body", targets=[0], level=0.8, **careless)
    found = ca.per_image(model, x, "body", targets=[0], level=0.8, certify=True, **careless)
    assert found.pruned[0] > 0
    assert not (found.smallest_mask & ~plain.smallest_mask).any() or found.optimal[0] > 0
    assert (found.swap_share[0] == 1, found.irreducible[0]) == (True, 1)
    check(dataclasses.replace(found, optimal=np.minimum(found.optimal, 0)), model=model, x=x)


def test_what_was_pruned_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "chanattr"):
        found = ca.per_image(MODEL, IMAGES, "body", level=0.7, certify=True, **CARELESS)
    assert f"layer body: certification took {found.pruned.sum()} of " in caplog.text
    assert f" a* sets of {(found.pruned > 0).sum()} of {COUNT} images" in caplog.text


def test_levels_that_nothing_or_everything_reaches() -> None:
    nothing = ca.per_image(MODEL, IMAGES, "body", level=0.0, certify=True, **CARELESS)
    assert (nothing.smallest_area == 0).all()
    assert (nothing.irreducible == 1).all()
    assert (nothing.optimal == 2).all()
    assert (swap_optimal(nothing) == 1).all()
    check(nothing)
    few = CARELESS | {"areas": (1,)}
    lost = ca.per_image(MODEL, IMAGES, "body", certify=True, **few)
    assert (lost.smallest_area == -1).any()
    check(lost)
    assert (swap_optimal(lost)[lost.smallest_area < 0] == -1).all()


def test_what_exchanges_say() -> None:
    found = ca.per_image(MODEL, IMAGES, "body", level=0.7, certify=True, **CARELESS)
    told = dataclasses.replace(found, swap_gain=np.array([0, 0, 1, 0], "f4"), swap_share=np.array([1, 0.5, 0.5, np.nan], "f4"))
    assert swap_optimal(told).tolist() == [1, -1, 0, -1]


def test_through_the_file_and_back(tmp_path: Path) -> None:
    plain = ca.per_image(MODEL, IMAGES, "body", level=0.7, **CARELESS)
    found = certify(MODEL, IMAGES, plain)
    path = tmp_path / "run.h5"
    with ca.open_run(path, "a") as run:
        run.write(plain)
        run.write(found[:2], label="certified")
        assert equal(run.per_image("body", "certified")[:2], found[:2])
        with pytest.raises(ca.StoreError, match=r"with certify False; these have True; expected one question a label"):
            run.write(found)
        run.write(found, label="certified")
    with ca.open_run(path) as run:
        assert equal(run.per_image("body", "certified"), found)
        assert equal(run.per_image("body"), plain)
        run.check()
    with ca.open_run(path) as run:
        assert equal(certify(MODEL, IMAGES, run.per_image("body")), found)


def test_a_run_is_certified_and_goes_on(tmp_path: Path) -> None:
    batches = [(IMAGES[first:first + 2], torch.zeros(2, dtype=torch.long), [str(first), str(first + 1)]) for first in (0, 2)]
    asked: dict[str, Any] = CARELESS | {"level": 0.7, "classes": False, "shard_size": 2, "certify": True, "progress": False}
    with ca.open_run(tmp_path / "run.h5", "a") as run:
        ca.attribute(run, MODEL, batches[:1], layers=["body"], **asked)
        ca.attribute(run, MODEL, batches, layers=["body"], **asked)
        found = run.per_image("body")
        with pytest.raises(ca.StoreError, match=r"with certify=True, but certify=False is asked"):
            ca.attribute(run, MODEL, batches, layers=["body"], **asked | {"certify": False})
    direct = ca.per_image(MODEL, IMAGES, "body", level=0.7, certify=True, **CARELESS)
    assert np.array_equal(found.smallest_mask, direct.smallest_mask)
    assert np.array_equal(found.optimal, direct.optimal)


def own_reward(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(1, targets[:, None])[:, 0] * 2


def test_bad_input() -> None:
    found = ca.per_image(MODEL, IMAGES, "body", **CARELESS)
    with pytest.raises(ca.InputError, match=r"found is 3 rows, 0 of them not run, for 4 images; expected"):
        certify(MODEL, IMAGES, found[:3])
    lost = dataclasses.replace(found, smallest_area=np.array([-2, 8, 8, 8], "i4"))
    with pytest.raises(ca.InputError, match=r"found is 4 rows, 1 of them not run, for 4 images; expected"):
        certify(MODEL, IMAGES, lost)
    with pytest.raises(ca.InputError, match=r"found has model_sha256=.*, but here it is .*; expected the model and the question"):
        certify(seeded(Mixed, 1), IMAGES, found)
    with pytest.raises(ca.InputError, match=r"found is of another image in row 0"):
        certify(MODEL, IMAGES * 30, found)
    own = ca.per_image(MODEL, IMAGES, "body", reward=own_reward, **CARELESS)
    with pytest.raises(ca.InputError, match=r"found was asked with reward=tests.evidence.test_certificates:own_reward; expected"):
        certify(MODEL, IMAGES, own)
    assert (certify(MODEL, IMAGES, own, reward=own_reward).irreducible != 0).all()
