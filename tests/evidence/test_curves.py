"""Insertion and deletion curves: additive networks whose curves are sums, the definition by injection, and bad input."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.evidence.compare import correlation
from chanattr.evidence.curves import Curves, area_under, curves
from chanattr.network.weights import model_sha256
from tests import planted
from tests.models import Plain, images, seeded


def additive(seed: int = 2) -> tuple[nn.Module, Tensor, np.ndarray]:
    """A network whose score is a sum over channels, an image, and what each channel adds to it."""
    made = planted.additive(seed)
    return planted.Network(made), planted.image(made), made.linear


def plain(**options: Any) -> Curves:
    x = images(4)
    orders = np.stack([np.random.default_rng(row).permutation(6) for row in range(4)])
    return curves(seeded(Plain), x, "mix", rankings=orders, **{"counts": (1, 3)} | options)


def test_curves_of_a_sum_are_partial_sums() -> None:
    model, image, worth = additive()
    order = np.argsort(-worth, kind="stable")
    drawn = curves(model, image, "body", rankings=order[None], targets=[0], counts=range(len(worth) + 1))
    sums = np.concatenate([[0], np.cumsum(worth[order])])
    np.testing.assert_allclose(drawn.insertion[0], sums, atol=1e-4)
    np.testing.assert_allclose(drawn.deletion[0], sums[-1] - sums, atol=1e-4)
    by_hand = sum((low + high) / 2 for low, high in itertools.pairwise(sums)) / len(worth)
    assert drawn.insertion_area[0] == pytest.approx(by_hand, rel=1e-4)
    np.testing.assert_allclose(drawn.insertion_probability[0], 1 / (1 + np.exp(-sums)), atol=1e-5)  # the other logit is 0


def test_no_ranking_of_a_sum_has_a_larger_area_than_the_worthiest_first() -> None:
    model, image, worth = additive()
    rng = np.random.default_rng(0)
    order = np.argsort(-worth, kind="stable")
    best = curves(model, image, "body", rankings=order[None], targets=[0])
    for _ in range(10):
        other = curves(model, image, "body", rankings=rng.permutation(len(worth))[None], targets=[0])
        assert other.insertion_area[0] <= best.insertion_area[0] + 1e-4
        assert other.deletion_area[0] >= best.deletion_area[0] - 1e-4


def test_everything_by_injection() -> None:
    model, x = seeded(Plain), images(4)
    orders = np.stack([np.random.default_rng(row).permutation(6) for row in range(4)])
    drawn = curves(model, x, "mix", rankings=orders, targets=[0, 1, 2, 3], reward="contrastive", fill=0.1, counts=(1, 3))
    assert drawn.counts.tolist() == [0, 1, 3, 6]
    with torch.no_grad():
        first = model(x).argmax(1)
    for row, (place, count) in itertools.product(range(4), enumerate((0, 1, 3, 6))):
        mask = np.zeros(6)
        mask[orders[row, :count]] = 1
        for kind, keep in (("insertion", mask), ("deletion", 1 - mask)):
            with ca.inject(model, "mix", keep, fill=0.1), torch.no_grad():
                logits = model(x[row:row + 1])[0]
            others = [float(logits[c]) for c in range(4) if c != row]
            assert getattr(drawn, kind)[row, place] == pytest.approx(float(logits[row]) - max(others), abs=1e-5)
            assert getattr(drawn, f"{kind}_probability")[row, place] == pytest.approx(float(logits.softmax(0)[row]), abs=1e-5)
            assert getattr(drawn, f"{kind}_top1")[row, place] == (logits.argmax() == first[row])
    assert drawn.insertion_top5.all()  # of four classes all are among five


def test_top5_is_told_from_top1() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12, bias=False), nn.Identity(), nn.Linear(12, 20)).eval()
    x = torch.rand(5, 4)
    orders = np.stack([np.random.default_rng(row).permutation(12) for row in range(5)])
    drawn = curves(model, x, "1", rankings=orders, counts=range(13))
    with torch.no_grad():
        first = model(x).argmax(1)
    expected = np.zeros((5, 13), bool)
    for row, count in itertools.product(range(5), range(13)):
        mask = np.isin(np.arange(12), orders[row, :count])
        with ca.inject(model, "1", mask), torch.no_grad():
            expected[row, count] = int(first[row]) in model(x[row:row + 1])[0].topk(5).indices.tolist()
    np.testing.assert_array_equal(drawn.insertion_top5, expected)
    assert (drawn.insertion_top5 >= drawn.insertion_top1).all()
    assert (drawn.insertion_top5 > drawn.insertion_top1).any()
    assert drawn.insertion_top1[:, -1].all()


def test_fidelity_is_one_for_the_true_worth_of_a_sum() -> None:
    model, image, worth = additive()
    order = np.argsort(-worth)[None]
    told = [curves(model, image, "body", rankings=order, targets=[0], worth=given).fidelity[0] for given in (worth[None], -worth[None])]
    np.testing.assert_allclose(told, [1, -1], atol=1e-4)
    noise = np.random.default_rng(3).normal(size=(1, len(worth)))
    assert abs(curves(model, image, "body", rankings=order, targets=[0], worth=noise, draws=300).fidelity[0]) < 0.9
    assert np.isnan(curves(model, image, "body", rankings=order, targets=[0]).fidelity).all()


def test_an_attribution_brings_its_question() -> None:
    model, x = seeded(Plain), images(4)
    found = ca.per_image(model, x, "mix", areas=(1, 3), targets=[1, 1, 2, 0], reward="log_probability", fill="mean")
    drawn = curves(model, x, "mix", rankings=found, counts=(1, 3))
    np.testing.assert_allclose(drawn.insertion[:, -1], found.original, atol=1e-5)
    np.testing.assert_allclose(drawn.insertion[:, 0], found.empty, atol=1e-5)
    nested = [row for row in range(4) if (found.masks[row, 0] <= found.masks[row, 1]).all()]
    np.testing.assert_allclose(drawn.insertion[nested][:, 1:3], found.scores[nested], atol=1e-5)
    assert drawn.keys == found.keys


def test_groups_are_kept_whole() -> None:
    model, x = seeded(Plain), images(2)
    drawn = curves(model, x, "mix", rankings=[[2, 0, 1], [0, 1, 2]], targets=[1, 1], group=2, counts=(1,))
    with ca.inject(model, "mix", [0, 0, 0, 0, 1, 1]), torch.no_grad():
        assert drawn.insertion[0, 1] == pytest.approx(float(model(x[:1])[0, 1]), abs=1e-5)
    assert drawn.counts.tolist() == [0, 1, 3]


def test_many_shards_and_small_batches_give_the_same() -> None:
    x = images(20)
    orders = np.tile(np.arange(6), (20, 1))
    whole = curves(seeded(Plain), x, "mix", rankings=orders)
    for row in (0, 19):
        alone = curves(seeded(Plain), x[row:row + 1], "mix", rankings=orders[:1], batch_size=3)
        np.testing.assert_allclose(alone.insertion[0], whole.insertion[row], atol=1e-5)


def test_the_model_is_left_as_found() -> None:
    model = seeded(Plain).train()
    before = model_sha256(model)
    curves(model, images(2), "mix", rankings=[range(6)] * 2)
    assert model.training
    assert model_sha256(model) == before


def test_areas_and_correlations_by_hand() -> None:
    assert float(area_under(np.array([0.0, 2.0]), np.array([0, 4]))) == 1
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(3, 9)), rng.normal(size=(3, 9))
    np.testing.assert_allclose(correlation(one, other), [np.corrcoef(a, b)[0, 1] for a, b in zip(one, other, strict=True)])
    assert np.isnan(correlation(np.ones((1, 4)), np.arange(4.0)[None])).all()


@pytest.mark.parametrize(("options", "message"), [
    ({"counts": (7,)}, r"counts=\(7,\); expected whole numbers of channels from 0 to 6; leave counts out"),
    ({"worth": np.zeros((4, 5))}, r"worth has shape \(4, 5\); expected \[4, 6\] finite"),
    ({"worth": np.full((4, 6), np.nan)}, r"worth has .*not finite; expected \[4, 6\] finite"),
    ({"draws": 0}, "draws=0; expected a whole number from 1"),
    ({"targets": [0, 1]}, r"targets have shape \(2,\)"),
    ({"targets": [0, 1, 2, 9]}, "target 9 for a model with 4 classes"),
    ({"reward": "logits"}, "reward='logits'; expected one of"),
    ({"fill": "none"}, "fill='none'; expected"),
])
def test_wrong_arguments_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ca.InputError, match=message):
        plain(**options)


def test_wrong_rankings_are_told() -> None:
    model, x = seeded(Plain), images(2)
    wrong = [(np.zeros((2, 5), int), r"shape \(2, 5\).*expected \[2, 6\]"), (np.zeros((2, 6), int), "row 0 is no permutation"),
             (np.zeros((2, 6)), "type float64"), ([[0, 1], [0]], "rankings are list")]
    for rankings, message in wrong:
        with pytest.raises(ca.InputError, match=message):
            curves(model, x, "mix", rankings=rankings)  # type: ignore[arg-type]
    found = ca.per_image(model, x, "conv", areas=(1,))
    with pytest.raises(ca.InputError, match="rankings are of layer 'conv', but curves at 'mix'"):
        curves(model, x, "mix", rankings=found)
    with pytest.raises(ca.InputError, match=r"keys for 3 images|shape \(2, 6\)"):
        curves(model, images(3), "mix", rankings=ca.per_image(model, x, "mix", areas=(1,)))


def test_images_with_nan_are_told() -> None:
    x = images(2)
    x[1] = torch.nan
    with pytest.raises(ca.ModelError, match=r"scores of 1 image.*not finite.*first '1'"):
        curves(seeded(Plain), x, "mix", rankings=[range(6)] * 2)


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    plain(progress=lambda done, total: told.append((done, total)))
    assert told == [(4, 4)]
