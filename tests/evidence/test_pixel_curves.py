"""Insertion and deletion over pixels: partial sums of linear networks, a slow loop, Petsiuk's blur, and bad input."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.evidence.pixel_curves import PixelCurves, petsiuk_blur, pixel_curves
from tests.models import Dataclass, Plain, images, seeded


class Linear(nn.Module):
    """A class that is a weighted sum of all values, and one that is nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(3, 6, 7, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([(x * self.weights).sum((1, 2, 3)), torch.zeros(len(x))], 1)


def drawn(count: int = 2) -> tuple[Tensor, np.ndarray]:
    """Images, and what each pixel adds to class 0."""
    x = torch.randn(count, 3, 6, 7, generator=torch.Generator().manual_seed(1))
    return x, (x * Linear().weights.detach()).sum(1).numpy()


def test_curves_of_a_sum_are_partial_sums() -> None:
    x, worth = drawn()
    found = pixel_curves(Linear(), x, worth, targets=[0, 0], step=1 / 42, insertion_base="zero")
    assert found.counts.tolist() == list(range(43))
    for row in range(2):
        sums = np.concatenate([[0], np.cumsum(np.sort(worth[row].ravel())[::-1])])
        np.testing.assert_allclose(found.insertion_score[row], sums, atol=1e-4)
        np.testing.assert_allclose(found.deletion_score[row], sums[-1] - sums, atol=1e-4)
        np.testing.assert_allclose(found.insertion[row], 1 / (1 + np.exp(-sums)), atol=1e-5)
        by_hand = sum((low + high) / 2 for low, high in itertools.pairwise(sums)) / 42
        assert found.insertion_score_area[row] == pytest.approx(by_hand, rel=1e-4)
        assert found.insertion_score_area[row] + found.deletion_score_area[row] == pytest.approx(sums[-1], rel=1e-4)


def test_the_best_order_of_a_sum_has_the_largest_and_the_smallest_area() -> None:
    x, worth = drawn()
    best = pixel_curves(Linear(), x, worth, targets=[0, 0], insertion_base="zero")
    for seed in range(5):
        other = pixel_curves(Linear(), x, np.random.default_rng(seed).random(worth.shape), targets=[0, 0], insertion_base="zero")
        assert (best.insertion_score_area > other.insertion_score_area).all()
        assert (best.deletion_score_area < other.deletion_score_area).all()


def test_every_point_is_the_picture_with_these_pixels() -> None:
    count = 3
    model, x = seeded(Plain), images(count)
    heat = np.random.default_rng(0).random((count, 8, 8))
    bases = {"insertion": images(count, seed=5), "deletion": torch.tensor([0.1, 0.5, 0.9])}
    found = pixel_curves(model, x, heat, targets=[3, 0, 1], step=0.3, insertion_base=bases["insertion"], deletion_base=bases["deletion"],
                         batch_size=5)
    assert found.counts.tolist() == [0, 19, 38, 58, 64]
    for row, target in enumerate((3, 0, 1)):
        pixels = sorted(((y, z) for y in range(8) for z in range(8)), key=lambda place: -heat[row][place])
        for point, number in enumerate(found.counts):
            put, taken = bases["insertion"][row].clone(), x[row].clone()
            for y, z in pixels[:number]:
                put[:, y, z] = x[row, :, y, z]
                taken[:, y, z] = bases["deletion"]
            with torch.no_grad():
                logits = model(torch.stack([put, taken]))
            scores = [float(value) for value in logits[:, target]]
            chances = [float(value) for value in logits.softmax(1)[:, target]]
            assert [found.insertion_score[row, point], found.deletion_score[row, point]] == pytest.approx(scores, abs=1e-5)
            assert [found.insertion[row, point], found.deletion[row, point]] == pytest.approx(chances, abs=1e-5)
    assert (found.insertion_base, found.deletion_base) == ("images", "images")


def test_equal_heat_goes_by_rows_from_the_top_left() -> None:
    x, _ = drawn(1)
    ranks = -np.arange(42.0).reshape(1, 6, 7)
    flat, told = (pixel_curves(Linear(), x, heat, targets=[0]) for heat in (np.zeros((1, 6, 7)), ranks))
    np.testing.assert_array_equal(flat.insertion_score, told.insertion_score)


def test_ends_are_the_picture_and_the_base() -> None:
    model, x = seeded(Plain), images(2, 16)
    found = pixel_curves(model, x, np.zeros((2, 16, 16)), targets=[0, 1])
    with torch.no_grad():
        whole, blurred, none = (model(given)[[0, 1], [0, 1]] for given in (x, petsiuk_blur(x), torch.zeros_like(x)))
    for curve, ends in ((found.insertion_score, (blurred, whole)), (found.deletion_score, (whole, none))):
        np.testing.assert_allclose(curve[:, 0], ends[0], atol=1e-5)
        np.testing.assert_allclose(curve[:, -1], ends[1], atol=1e-5)
    assert len(found.counts) == 51
    assert found.shares[[0, -1]].tolist() == [0, 1]


def slow_kernel() -> list[float]:
    """A one in the middle of eleven values under a Gaussian of sigma 5, cut at 20, whose neighbours beyond the ends are mirrored."""
    weights = [math.exp(-(d**2) / 50) for d in range(-20, 21)]
    mirrored = [*range(11), *range(10, -1, -1)]
    return [sum(weight for d, weight in zip(range(-20, 21), weights, strict=True) if mirrored[(place + d) % 22] == 5) / sum(weights)
            for place in range(11)]


def test_petsiuks_blur_by_loops() -> None:
    x = images(1, 14)
    taps, wanted = slow_kernel(), np.zeros((3, 14, 14))
    assert sum(taps) == pytest.approx(1)
    for y in range(14):
        for z in range(14):
            for i in range(11):
                for j in range(11):
                    if 0 <= y + i - 5 < 14 and 0 <= z + j - 5 < 14:
                        wanted[:, y, z] += taps[i] * taps[j] * x[0, :, y + i - 5, z + j - 5].numpy()
    np.testing.assert_allclose(petsiuk_blur(x)[0].numpy(), wanted, atol=1e-6)


def test_batches_and_modes_do_not_matter() -> None:
    model, x = seeded(Plain), images(3)
    heat = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = pixel_curves(model, x, heat, keys=["a", "b", "c"])
    model.train()
    with torch.inference_mode():
        again = pixel_curves(model, x, heat, batch_size=1)
    np.testing.assert_allclose(again.insertion, found.insertion, atol=1e-6)
    assert model.training
    assert found.keys == ("a", "b", "c")
    assert found.targets.tolist() == seeded(Plain)(x).argmax(1).tolist()
    assert len(found) == 3
    assert isinstance(pixel_curves(seeded(Dataclass), x, heat, score=lambda output: output.logits), PixelCurves)


@pytest.mark.parametrize(("change", "message"), [
    ({"heat": np.zeros((2, 5, 5))}, r"heat has shape \(2, 5, 5\) .*expected finite maps \[2, 6, 7\]"),
    ({"heat": np.full((2, 6, 7), np.nan)}, "expected finite maps"),
    ({"step": 0}, "step=0; expected"),
    ({"step": 1.5}, "step=1.5; expected"),
    ({"insertion_base": "black"}, "insertion_base='black'; expected one of zero, blur, or images"),
    ({"deletion_base": torch.zeros(2, 3, 5, 7)}, r"deletion_base has shape \(2, 3, 5, 7\)"),
    ({"deletion_base": torch.full((3,), torch.nan)}, "expected finite images"),
    ({"keys": ["a"]}, "1 as keys for 2 images"),
    ({"images": torch.zeros(6, 7)}, "expected a floating tensor"),
])
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"images": drawn()[0], "heat": np.zeros((2, 6, 7))} | change
    with pytest.raises(ca.InputError, match=message):
        pixel_curves(Linear(), given.pop("images"), given.pop("heat"), **given)
