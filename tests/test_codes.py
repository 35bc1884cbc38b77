"""Codes of smooth masks: the generator against its equations written again, sizes and areas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chanattr.codes import GRID, level_sets, masks_of


def smooth_mask(code: np.ndarray, row: float, column: float) -> float:
    """One point of a mask, from the equations: cells within 4 of the cell that the point lies in, in float64, by loops."""
    values, weights = [], []
    for cell_row in range(math.floor(row) - 4, math.floor(row) + 5):
        for cell_column in range(math.floor(column) - 4, math.floor(column) + 5):
            inside = 0 <= cell_row < GRID and 0 <= cell_column < GRID
            away = math.hypot(row - cell_row, column - cell_column) / 3
            value = (float(code[cell_row, cell_column]) if inside else 0.0) * math.exp(-2 * max(0.0, away - 0.5) ** 2)
            values.append(value)
            weights.append(math.exp(20 * value))
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


@pytest.fixture
def code() -> np.ndarray:
    generator = np.random.default_rng(3)
    return generator.random((GRID, GRID)) * (generator.random((GRID, GRID)) > 0.8)


def test_a_mask_is_what_its_equations_say(code: np.ndarray) -> None:
    made = masks_of(code, (224, 224))
    for row, column in [*np.random.default_rng(0).integers(0, 224, (60, 2)).tolist(), [0, 0], [223, 223], [0, 223], [112, 0]]:
        assert made[row, column] == pytest.approx(smooth_mask(code, row / 7, column / 7), abs=1e-5)


def test_between_samples_a_mask_is_linear(code: np.ndarray) -> None:
    made = masks_of(code, (100, 160))  # 4 samples a cell down, 5 across
    for row, column in [(0, 0), (33, 50), (99, 159), (64, 7)]:
        position = row * GRID / 100 * 4
        low = math.floor(position)
        ends = [smooth_mask(code, sample / 4, column * GRID / 160) for sample in (low, low + 1)]
        assert made[row, column] == pytest.approx(ends[0] + (position - low) * (ends[1] - ends[0]), abs=1e-5)


def test_a_grid_coarser_than_the_code_has_means(code: np.ndarray) -> None:
    fine, coarse = masks_of(code, (32 * 16, 32 * 16)), masks_of(code, (8, 8))
    blocks = fine.reshape(8, 64, 8, 64).mean((1, 3))
    assert np.abs(coarse - blocks).max() < 0.03  # one sample a cell against sixteen
    assert np.corrcoef(coarse.ravel(), blocks.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("size", [(224, 224), (100, 160), (227, 64), (14, 14), (32, 32), (1, 1), (7, 300)])
def test_everything_nothing_and_ranges_at_any_size(size: tuple[int, int], code: np.ndarray) -> None:
    assert masks_of(np.zeros((2, GRID, GRID), np.uint8), size).max() == 0
    assert masks_of(np.full((GRID, GRID), 255, np.uint8), size).min() > 0.85
    made = masks_of(code, size)
    assert made.shape == size
    assert made.dtype == np.float32
    assert made.min() >= 0
    assert made.max() <= 1


def test_bytes_are_shares_of_255(code: np.ndarray) -> None:
    whole = np.rint(code * 255).astype(np.uint8)
    assert np.array_equal(masks_of(whole, (64, 64)), masks_of((whole / np.float32(255)).astype(np.float32), (64, 64)))


def test_one_cell_is_a_disc_of_its_area() -> None:
    single = np.zeros((GRID, GRID), np.uint8)
    single[16, 16] = 255
    corner = np.zeros((GRID, GRID), np.uint8)
    corner[0, 0] = 255
    assert masks_of(single, (224, 224)).mean() == pytest.approx(0.033, abs=0.0015)
    assert masks_of(corner, (224, 224)).mean() < 0.012


def test_level_sets_have_the_area_and_the_highest_pixels(code: np.ndarray) -> None:
    made = masks_of(np.stack([code, code[::-1]]), (40, 50))
    hard = level_sets(made)
    for soft, chosen in zip(made, hard, strict=True):
        assert chosen.sum() == round(float(soft.mean(dtype=np.float64)) * soft.size)
        assert soft[chosen].min() >= soft[~chosen].max()


def test_equals_are_taken_by_place() -> None:
    assert level_sets(np.full((2, 4), 0.5)).tolist() == [[True] * 4, [False] * 4]
