"""Memory: where it runs out batches are halved with nothing lost, and a budget bounds them from the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.attribution.image import answer
from chanattr.attribution.question import Asked, make_question
from chanattr.attribution.score import fill_of
from chanattr.network import tail as tails
from chanattr.network.batches import needed_by
from chanattr.network.fast import FastTail
from chanattr.network.layers import Layer
from chanattr.network.stem import Stem
from chanattr.network.tail import ExportedTail, InjectedTail, Tail, bind
from chanattr.records import ImageAttribution
from tests.models import Plain, images, seeded

AREAS = (1, 2, 4)


@dataclass(frozen=True, eq=False)
class Small:
    """A tail on a device that holds `room` masked images at once."""

    inner: Tail
    room: int
    sizes: list[int] = field(default_factory=list)
    engine: str = "small"
    reason: str = ""

    @property
    def layer(self) -> Layer:
        return self.inner.layer

    def stem(self, x: Tensor) -> Stem:
        return self.inner.stem(x)

    def logits(self, stem: Stem, masks: Tensor, rows: Tensor, fill: float | Tensor = 0.0) -> Tensor:
        self.sizes.append(len(rows))
        if len(rows) > self.room:
            raise torch.OutOfMemoryError(f"out of memory: {len(rows)} do not fit")
        return self.inner.logits(stem, masks, rows, fill)

    def logits_from(self, stem: Stem, activation: Tensor, rows: Tensor) -> Tensor:
        return self.inner.logits_from(stem, activation, rows)


def answered(room: int, batch_size: int = 32) -> tuple[ImageAttribution, list[int]]:
    model, x = seeded(Plain), images(5)
    tail = Small(bind(model, images(2), ["mix"])["mix"], room)
    stem = tail.stem(x)
    fill = fill_of("zero", stem.activation, tail.layer)
    question = make_question(Asked(areas=AREAS, batch_size=batch_size), model, tail.layer, fill)
    return answer(question, tail, stem, keys=list("abcde"), targets=None, fill=fill), tail.sizes


def test_nothing_is_lost_where_memory_runs_out() -> None:
    whole, sizes = answered(1000)
    assert max(sizes) == 32
    small, sizes = answered(3)
    assert len([size for size in sizes if size > 3]) <= 8  # tried, halved and remembered: with gradients, and without
    assert max(sizes[-20:]) <= 3
    assert np.array_equal(small.masks, whole.masks)
    np.testing.assert_allclose(small.scores, whole.scores, rtol=1e-5)
    assert np.array_equal(small.smallest_area, whole.smallest_area)


def test_a_single_masked_image_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="1 do not fit"):
        answered(0)


def test_a_budget_bounds_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    for kind in (FastTail, ExportedTail):
        honest = kind.logits

        def noted(self: Tail, stem: Stem, masks: Tensor, rows: Tensor, fill: float | Tensor = 0.0, honest: object = honest) -> Tensor:
            sizes.append(len(rows))
            return honest(self, stem, masks, rows, fill)  # type: ignore[operator]

        monkeypatch.setattr(kind, "logits", noted)
    whole = ca.per_image(seeded(Plain), images(5), "conv", areas=AREAS)
    assert max(sizes) == 32
    sizes.clear()
    small = ca.per_image(seeded(Plain), images(5), "conv", areas=AREAS, memory_budget=30_000)  # a model of its own: nothing is kept of it
    checks = [size for size in sizes if size == 6]  # of the tail against injection: three masks of each of two images
    assert max(size for size in sizes if size != 6) < 10
    assert len(checks) == 1
    np.testing.assert_allclose(small.original, whole.original, rtol=1e-5)
    assert (small.masks == whole.masks).mean() >= 0.98
    assert small.settings.digest() == whole.settings.digest()


def test_a_budget_is_of_the_size_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    honest = InjectedTail.logits

    def noted(self: InjectedTail, stem: Stem, masks: Tensor, rows: Tensor, fill: float | Tensor = 0.0) -> Tensor:
        sizes.append(len(rows))
        return honest(self, stem, masks, rows, fill)

    monkeypatch.setattr(InjectedTail, "logits", noted)
    model, largest = seeded(Plain), []
    for side in (8, 32):
        sizes.clear()
        ca.per_image(model, images(6, side), "conv", areas=AREAS, engine="injection", memory_budget=60_000)
        largest.append(max(sizes))
    assert largest[0] > 4 >= largest[1]  # 4 is what is measured with


@pytest.mark.parametrize("engine", ["tail", "replay", "injection"])
def test_the_pass_before_the_layer_halves_too(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    whole = ca.per_image(seeded(Plain), images(7), "mix", areas=AREAS, engine=engine)
    model, sizes = seeded(Plain), []
    ca.per_image(model, images(2), "mix", areas=AREAS, engine=engine)  # its tail is made while there is room

    def crowded(what: Callable[..., Any]) -> Callable[..., Any]:
        def run(first: Any, inputs: Any, *more: Any) -> Any:
            sizes.append(len(inputs))
            if len(inputs) > 6:  # the check of a tail runs six
                raise torch.OutOfMemoryError(f"out of memory: {len(inputs)} do not fit")
            return what(first, inputs, *more)
        return run

    if engine == "tail":
        monkeypatch.setattr(tails, "_outputs", crowded(tails._outputs))
    else:
        monkeypatch.setattr(tails, "call", crowded(tails.call))
    found = ca.per_image(model, images(7), "mix", areas=AREAS, engine=engine, batch_size=3)
    assert 7 in sizes
    assert np.array_equal(found.masks, whole.masks)
    np.testing.assert_allclose(found.original, whole.original, rtol=1e-5)
    assert np.array_equal(found.smallest_area, whole.smallest_area)


def test_a_budget_is_of_the_layer_where_the_whole_model_is_the_anchor() -> None:
    def keeping(numbers: int) -> Callable[[int], Tensor]:
        return lambda count: torch.ones(count, numbers, requires_grad=True).sin().sum()

    model = nn.Identity()
    late, early = (needed_by(model, keeping(numbers), layer) for numbers, layer in ((100, "late"), (1000, "early")))
    assert (late, early) == (800, 8000)
