"""What is measured is consistent: the ladder's product is the whole, and evaluations are those that ran. Times are not judged."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import chanattr as ca
from chanattr.attribution import bench as room
from chanattr.attribution.bench import ALONE, AREAS, PLAIN, REFINED, Bench, bench
from chanattr.attribution.score import NetworkScore
from chanattr.search.objective import Scored
from tests.models import Plain, images, seeded
from tests.planted import KINDS, Network, image


@pytest.fixture(scope="module")
def measured() -> Bench:
    planted = KINDS["additive"](2)
    x = torch.cat([image(planted, seed) for seed in range(3)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "ROUND", 0.01)
        return bench(Network(planted).eval(), x, "body", plain_images=2, name="planted")


def test_the_ladders_product_is_the_whole(measured: Bench) -> None:
    plain, areas, refined, alone = measured.ways
    assert [way.name for way in measured.ways] == [PLAIN, AREAS, REFINED, ALONE]
    product = math.prod(rung.ratio for rung in measured.rungs)
    assert product == pytest.approx(plain.mean_seconds / alone.mean_seconds, rel=1e-6)
    assert product == pytest.approx(measured.gain(alone), rel=1e-6)
    assert math.prod(rung.ratio for rung in measured.rungs[:-2]) == pytest.approx(measured.gain(areas), rel=1e-6)
    assert math.prod(rung.ratio for rung in measured.rungs[:-1]) == pytest.approx(measured.gain(refined), rel=1e-6)
    assert all(rung.ratio > 0 for rung in measured.rungs)


def test_the_bare_rate_is_of_the_graph_alone(measured: Bench) -> None:
    assert measured.bare_share == pytest.approx(measured.ways[1].rate / measured.bare_rate)
    assert 0 < measured.bare_share < 1  # masks, search, judging and records cost something
    linear = 16 * 1  # the planted network's head is no product that a lower precision would speed, or a few
    assert 0 <= measured.multiplications <= 64 * linear


def test_both_ways_do_the_same_images_and_areas(measured: Bench) -> None:
    plain, areas, refined, alone = measured.ways
    assert measured.areas == ca.area_grid(16)[:-1]
    assert (plain.images, areas.images, refined.images, alone.images) == (1, 3, 3, 3)
    assert len(plain.seconds) == len(areas.seconds) == measured.plain_images == 2
    assert plain.engine == "injection"
    assert plain.evaluations == pytest.approx(len(measured.areas) * (300 + 1 / 3))
    assert areas.evaluations <= refined.evaluations
    for way in measured.ways:
        assert len(way.smallest) == 2
        assert way.peak > 0
        assert way.rate == pytest.approx(way.evaluations / np.mean(way.seconds))


def test_scores_are_shares_of_the_better_of_both(measured: Bench) -> None:
    plain, areas, refined, alone = measured.ways
    assert areas.share == refined.share
    assert areas.share is not None
    assert areas.score is not None
    assert plain.share is not None
    assert plain.score is not None
    assert max(plain.share, areas.share) <= 1 + 1e-6
    assert areas.share == pytest.approx(1, abs=1e-3)  # counted out or found: the planted sets
    assert plain.score / plain.share == pytest.approx(areas.score / areas.share, rel=1e-5)
    assert alone.score is None


def test_evaluations_are_those_that_the_network_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = [0.0]
    by_way: dict[str, float] = {}
    real, real_answer, real_per_image = NetworkScore.__call__, room.answer, room.per_image

    def counting(self: NetworkScore, masks: Tensor, rows: Tensor, gradient: bool) -> Scored:
        ran[0] += len(masks) * (1 if gradient else 1 / 3)
        return real(self, masks, rows, gradient)

    def noted(name: str, run: Any, *given: Any, **named: Any) -> Any:
        before = ran[0]
        found = run(*given, **named)
        by_way[name] = ran[0] - before
        return found

    monkeypatch.setattr(NetworkScore, "__call__", counting)
    monkeypatch.setattr(room, "ROUND", 0.01)
    monkeypatch.setattr(room, "answer", lambda *given, **named: noted(PLAIN, real_answer, *given, **named))
    monkeypatch.setattr(room, "per_image", lambda *given, **named: noted(
        ALONE if named["areas"] == "smallest" else REFINED if named["refine"] else AREAS, real_per_image, *given, **named))
    told = bench(seeded(lambda: Plain(12)), images(2), "conv", areas=(2, 5))
    for way in told.ways[:3]:
        assert way.images * way.evaluations == pytest.approx(by_way[way.name], rel=1e-5)
    alone = told.ways[3]  # which also counts looks whether the level is reached, a third of an evaluation each
    assert by_way[ALONE] - 1e-3 <= alone.images * alone.evaluations <= by_way[ALONE] * 4 / 3 + 1e-3


def test_a_shortened_plain_way_is_calculated_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ROUND", 0.01)
    told = bench(seeded(Plain), images(2), "conv", areas=(2, 4), plain_steps=3)
    plain = told.ways[0]
    assert not told.complete
    assert plain.evaluations == pytest.approx(2 * (3 + 1 / 3))
    assert told.plain_seconds == pytest.approx(plain.mean_seconds * (300 + 1 / 3) / (3 + 1 / 3))
    assert (plain.score, plain.share, plain.smallest) == (None, None, ())
    assert told.ways[1].score is not None
    assert told.ways[1].share is None
    assert math.prod(rung.ratio for rung in told.rungs) == pytest.approx(told.gain(told.ways[-1]), rel=1e-6)


def test_programs_get_all_of_it(measured: Bench) -> None:
    held: dict[str, Any] = json.loads(json.dumps(measured.as_dict()))
    assert held["ways"][0]["name"] == PLAIN
    assert held["ways"][3]["gain"] == pytest.approx(measured.gain(measured.ways[3]))
    assert [rung["change"] for rung in held["rungs"]] == [rung.change for rung in measured.rungs]
    assert set(held) == {field.name for field in dataclasses.fields(Bench)} | {"plain_seconds", "complete", "bare_share"}


@pytest.mark.parametrize(("options", "words"), [
    ({"areas": "smallest"}, "areas='smallest' to compare"), ({"areas": (6,)}, "expected one that needs a search"),
    ({"plain_images": 3}, "plain_images=3; expected a whole number from 1 to 2"), ({"plain_steps": 301}, "plain_steps=301"),
    ({"plain_steps": 0}, "plain_steps=0")])
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ca.InputError, match=words):
        bench(seeded(Plain), images(2), "conv", **options)
