"""Smooth masks as a family: codes and masks against numpy, exact areas, the penalty by its definition, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import chanattr as ca
from chanattr.codes import GRID, masks_of
from chanattr.search.ascent import Start, ascend
from chanattr.search.objective import Scored
from chanattr.search.pictures import SOFTNESS, Pictures, hardened, soft_maximum, through

SIZES = [(224, 224), (120, 160), (64, 64), (14, 14)]


@pytest.fixture
def codes() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    drawn = torch.rand(3, GRID * GRID, generator=generator)
    return drawn * (torch.rand(3, GRID * GRID, generator=generator) > 0.7)


@pytest.mark.parametrize("size", SIZES)
def test_masks_are_those_of_the_codes(size: tuple[int, int], codes: Tensor) -> None:
    made = Pictures(*size).masks(codes).view(3, *size).numpy()
    assert np.abs(made - masks_of(codes.view(3, GRID, GRID).numpy(), size)).max() < 1e-5


@pytest.mark.parametrize("samples", [0, 1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_the_area_is_the_mean_of_the_mask(size: tuple[int, int], samples: int, codes: Tensor) -> None:
    family = Pictures(*size, samples=samples)
    assert torch.allclose(family.area(codes), family.spread(codes).mean(1), atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("area", [0.01, 0.025, 0.1, 0.3, 0.9])
def test_finished_codes_have_their_area_also_after_rounding(size: tuple[int, int], area: float, codes: Tensor) -> None:
    family = Pictures(*size)
    finished = family.finish(codes, torch.full((3,), area))
    assert torch.equal(finished, (finished * 255).round() / 255)
    assert (family.masks(finished).mean(1) - area).abs().max() <= 0.002


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, 3), (-2, 3), (2, -3), (-31, -1), (0, 31), (32, 0), (0, -40)])
def test_a_shift_moves_codes_over_the_grid_and_loses_what_leaves_it(down: int, right: int, codes: Tensor) -> None:
    moved = Pictures(64, 64).shift(codes, down, right).view(3, GRID, GRID)
    expected = torch.zeros(3, GRID, GRID)
    for row, column in np.ndindex(GRID, GRID):
        if 0 <= row - down < GRID and 0 <= column - right < GRID:
            expected[:, row, column] = codes.view(3, GRID, GRID)[:, row - down, column - right]
    assert torch.equal(moved, expected)


def test_a_projection_moves_all_cells_alike_within_the_range(codes: Tensor) -> None:
    family, areas = Pictures(96, 96), torch.tensor([0.05, 0.2, 0.5])
    projected = family.project(codes, areas, 40)
    assert torch.allclose(family.area(projected), areas, atol=1e-4)
    moved, inside = projected - codes, (projected > 0) & (projected < 1)
    for row in range(3):
        assert moved[row][inside[row]].std() < 1e-6


def test_the_penalty_is_that_of_the_sorted_mask_with_its_margin(codes: Tensor) -> None:
    family, areas = Pictures(224, 224, samples=0), torch.tensor([0.05, 0.1, 0.2])
    whole = soft_maximum(codes, 7, 7, margin=True)
    assert whole.shape == (3, 260, 260)  # TorchRay's shape at 224 pixels
    assert torch.allclose(whole[:, 21:245, 21:245].flatten(1), family.spread(codes), atol=1e-6)
    for row, area in enumerate(areas.tolist()):
        values = np.sort(whole[row].double().numpy().ravel())
        wanted = np.ones(values.size)
        wanted[:int(values.size * (1 - np.float32(area).astype(np.float64)))] = 0
        assert family.penalty(codes, areas, "mean")[row].item() == pytest.approx(np.square(values - wanted).mean(), abs=1e-5)
        assert family.penalty(codes, areas, "sum")[row].item() == pytest.approx(np.square(values - wanted).sum(), rel=1e-4)


def test_smoothing_keeps_constants_and_spreads_a_point() -> None:
    family = Pictures(64, 64)
    assert torch.allclose(family.smooth_gradient(torch.ones(1, GRID * GRID), 3.0), torch.ones(1, GRID * GRID), atol=1e-5)
    point = torch.zeros(1, GRID, GRID)
    point[0, 16, 16] = 1
    spread = family.smooth_gradient(point.flatten(1), 2.0).view(GRID, GRID)
    assert spread[16, 16] == spread.max()
    assert spread[16, 18] / spread[16, 16] == pytest.approx(np.exp(-0.5), rel=1e-4)
    assert torch.equal(family.smooth_gradient(point.flatten(1), 0.0), point.flatten(1))


def test_gradients_through_the_masks_are_right() -> None:
    family = Pictures(40, 40)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(40 * 40, generator=generator, dtype=torch.float64)

    def linear(masks: Tensor, rows: Tensor, gradient: bool) -> Scored:
        return Scored(masks.double() @ weights, weights.expand(len(masks), -1).to(masks.dtype) if gradient else masks.new_empty(0, 1600))

    score = through(family.spread, linear)
    code, row = torch.rand(1, GRID * GRID, generator=generator).double(), torch.zeros(1, dtype=torch.long)
    slopes = score(code, row, True).gradient
    for cell in (0, 37, 528, 1023):
        step = torch.zeros_like(code)
        step[0, cell] = 1e-4
        difference = (score(code + step, row, False).reward - score(code - step, row, False).reward) / 2e-4
        assert slopes[0, cell].item() == pytest.approx(difference.item(), abs=2e-3)


def test_every_step_holds_its_area_and_the_best_region_is_found() -> None:
    family, areas, seen = Pictures(64, 64), torch.tensor([0.05, 0.08]), {}  # the region is 0.098
    region = torch.zeros(64, 64)
    region[10:30, 34:54] = 1

    def linear(masks: Tensor, rows: Tensor, gradient: bool) -> Scored:
        return Scored(masks @ region.flatten(), region.flatten().expand(len(masks), -1))

    search = family.resolve(ca.ExactSearch(relaxed_steps=30))
    rows = torch.zeros(2, dtype=torch.long)
    values, _ = ascend([through(family.spread, linear)], family, areas, rows, search, steps=30,
                       watch=lambda step, codes: seen.update({step: family.area(codes)}))
    assert list(seen) == list(range(1, 31))
    held = torch.stack(list(seen.values()))
    assert (held.diff(dim=0) <= 2e-3).all()  # falls, then stays
    assert torch.allclose(held[15:], areas.expand(15, 2), atol=2e-3)
    masks = family.masks(family.finish(values, areas)).view(2, 64, 64)
    inside = (masks * region).sum((1, 2)) / masks.sum((1, 2))
    assert (inside > 0.8).all()


def test_a_hardened_mask_is_drawn_to_its_level_set_and_keeps_its_slope() -> None:
    ramp = torch.linspace(0, 1, 101, dtype=torch.float64)[None].requires_grad_()
    made = hardened(ramp)
    edge = 50  # half of the mask's area of a half lies above it
    expected = 1 / (1 + np.exp(-(ramp.detach().numpy() - ramp[0, edge].item()) / SOFTNESS))
    np.testing.assert_allclose(made.detach().numpy(), expected, rtol=1e-12)
    assert 4 * (made * (1 - made)).mean() < 0.7 * 4 * (ramp * (1 - ramp)).mean()
    slope = torch.autograd.grad(made.sum(), ramp)[0][0]
    assert slope.argmax() == edge
    assert slope.min() > 0


def test_the_penalty_has_torchrays_constants() -> None:
    """``extremal_perturbation`` of TorchRay: 800 steps from all ones, lambda 300 that grows by 1.0035 a step, rate 0.01."""
    search = Pictures(64, 64).resolve(ca.PenaltySearch())
    assert (search.steps, search.start, search.penalty, search.growth, search.learning_rate) == (800, 1.0, 300.0, 1.0035, 0.01)
    assert (search.momentum, search.dampening, search.reduction, search.ramp) == (0.9, 0.9, "mean", 0)


def test_the_exact_search_has_the_constants_that_its_documents_state() -> None:
    """docs/spatial.md: 80 steps, of which every fourth sees the hardened mask; smoothed from 4 cells down; 10 more for each a*."""
    search = Pictures(64, 64).resolve(ca.ExactSearch())
    assert (search.relaxed_steps, search.binary_steps, search.refine_steps, search.starts) == (80, 1, 10, 1)
    assert (search.hard_every, search.shifts) == (4, 4)
    assert (search.relaxed_rate, search.momentum, search.memory, search.anneal, search.smoothing) == (0.01, 0.9, 0.0, 0.5, 4.0)
    assert (search.exploration, search.border, search.sweeps) == (0.0, 0.0, 0)


def test_slopes_are_smoothed_from_coarse_to_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    cells: list[float] = []

    def noted(family: Pictures, gradient: Tensor, wide: float) -> Tensor:
        cells.append(wide)
        return gradient

    def flat(masks: Tensor, rows: Tensor, gradient: bool) -> Scored:
        return Scored(masks.sum(1), torch.ones_like(masks))

    monkeypatch.setattr(Pictures, "smooth_gradient", noted)
    family = Pictures(14, 14)
    search = family.resolve(ca.ExactSearch(smoothing=3.0))
    for begin, expected in ((None, (0, 0.25, 0.5, 0.75)), (0.6, (0.6, 0.7, 0.8, 0.9))):
        cells.clear()
        start = None if begin is None else Start(torch.ones(1, GRID * GRID), torch.ones(1), begin)
        ascend([through(family.spread, flat)], family, torch.tensor([0.5]), torch.zeros(1, dtype=torch.long), search, steps=4, start=start)
        assert cells == pytest.approx([3 * 0.1**progress for progress in expected])
