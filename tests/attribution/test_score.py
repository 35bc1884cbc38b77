"""The score of masks on a network: the same whatever the order, the batches, the engine and the search's precision."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import chanattr as ca
from chanattr.attribution.asking import Asking, make_asking
from chanattr.attribution.question import Asked, make_question
from chanattr.attribution.score import NetworkScore, fill_of
from chanattr.network.fast import FastTail
from chanattr.network.tail import bind
from tests import planted
from tests.models import Plain, Residual, images, seeded

COUNT = 6
MEMBERS = (torch.tensor([0, 1, 2]), torch.tensor([3]), torch.tensor([4, 0]), torch.tensor([5, 4, 3, 2]))


def asking_of(members: tuple[Tensor, ...] = MEMBERS, *, engine: str = "tail", layer: str = "mix", build: Any = Plain,
              fill: str = "zero", **options: Any) -> Asking:
    model = seeded(build)
    tail = bind(model, images(2), [layer], engine=engine)[layer]
    stem = tail.stem(images(COUNT))
    filled = fill_of(fill, stem.activation, tail.layer)
    question = make_question(Asked(areas=(2,), **options), model, tail.layer, filled)
    return make_asking(question, tail, stem, stem.logits.argmax(1), filled, members)


def masks_of(count: int = 23, rows: int = len(MEMBERS)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return (torch.rand(count, 6, generator=generator) < 0.5).float(), torch.randint(rows, (count,), generator=generator)


def figures(score: NetworkScore, masks: Tensor, rows: Tensor) -> Tensor:
    return torch.stack([*score.judge(masks, rows)])


def near(ours: Tensor, theirs: Tensor, by: float = 1e-5) -> bool:
    return bool((ours - theirs).abs().max() < by * theirs.abs().max())


@pytest.mark.parametrize("fill", ["zero", "mean", "spatial_mean"])
@pytest.mark.parametrize("build", [Plain, Residual])
def test_order_batches_engine_and_precision_leave_the_score_of_a_mask(build: Any, fill: str) -> None:
    layer = {Plain: "mix", Residual: "branch"}[build]
    masks, rows = masks_of()
    score = asking_of(build=build, layer=layer, fill=fill).score
    whole, plain = figures(score, masks, rows), score(masks, rows, True)
    order = torch.randperm(len(masks), generator=torch.Generator().manual_seed(5))
    assert near(figures(score, masks[order], rows[order]), whole[:, order])
    assert near(score(masks[order], rows[order], True).gradient, plain.gradient[order])
    for size in (1, 2, 3, 7, 1000):
        cut = dataclasses.replace(score, batch_size=size)
        assert near(figures(cut, masks, rows), whole)
        assert near(cut(masks, rows, True).reward, plain.reward)
    parts = [figures(score, masks[part], rows[part]) for part in torch.arange(len(masks)).split(5)]
    assert near(torch.cat(parts, 1), whole)
    for options in ({"engine": "injection"}, {"engine": "replay"}, {"precision": "float32"}, {"precision": "bfloat16"}):
        other = asking_of(build=build, layer=layer, fill=fill, **options).score
        assert near(figures(other, masks, rows), whole)
        assert near(other(masks, rows, False).reward, plain.reward, 0.05 if options.get("precision") == "bfloat16" else 1e-5)


def test_the_search_runs_in_the_fast_graph_and_judging_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    score = asking_of(precision="bfloat16").score
    assert isinstance(score.quick, FastTail)
    assert score.quick_stem.activation.dtype == torch.bfloat16
    masks, rows = masks_of()
    whole = figures(score, masks, rows)
    monkeypatch.setattr(FastTail, "logits", lambda *_: pytest.fail("judged in the fast graph"))
    assert torch.equal(figures(score, masks, rows), whole)
    with pytest.raises(pytest.fail.Exception, match="judged in the fast graph"):
        score(masks, rows, True)


def test_rows_of_one_image_and_of_several_mean_the_same() -> None:
    masks, _ = masks_of(4)
    alone = asking_of(tuple(torch.arange(COUNT)[:, None])).score
    several = asking_of((torch.tensor([1, 4]),)).score
    each = torch.stack([alone(masks, torch.full((4,), image), True).gradient for image in (1, 4)])
    assert near(several(masks, torch.zeros(4, dtype=torch.long), True).gradient, each.mean(0))


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("engine", ["tail", "replay", "injection"])
def test_planted_sets_are_found_by_every_engine_and_precision(engine: str, precision: str) -> None:
    for seed, kind in enumerate(planted.KINDS):
        net = planted.KINDS[kind](seed + 3)
        found = ca.per_image(planted.Network(net).eval(), planted.image(net), "body", targets=[0], areas=(net.area,), refine=False,
                             engine=engine, precision=precision)
        mine, best = planted.score(net, np.stack([found.masks[0, 0], net.mask]))
        assert mine >= best - (0.01 * abs(best) if precision == "bfloat16" else 1e-6), f"{kind} {seed + 3}"
        assert found.scores[0, 0] == pytest.approx(mine, rel=1e-5, abs=1e-5)


def test_the_answer_says_what_ran_and_is_the_same_again() -> None:
    model, x = seeded(Plain), images(4)
    first, again = (ca.per_image(model, x, "conv", areas=(2, 3), precision="bfloat16") for _ in range(2))
    assert first.engine == "tail (export), bfloat16"
    assert np.array_equal(first.masks, again.masks)
    assert np.array_equal(first.scores, again.scores)
    exact = ca.per_image(model, x, "conv", areas=(2, 3), precision="float32")
    assert exact.engine == "tail (export)"
    assert exact.settings.digest() == first.settings.digest()
    assert exact.scores.mean() == pytest.approx(first.scores.mean(), rel=1e-2)
    classes = ca.per_class(model, x, "conv", targets=[1, 1, 2, 2], areas=(2,), precision="bfloat16", memory_budget="1MB")
    assert classes.engine == first.engine
