"""Channels as a family: projection on the capped simplex, the binary cut, defaults."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import chanattr as ca
from chanattr.search.family import CHANNEL_EXACT, CHANNEL_PENALTY, Channels, Family, largest, nested_masks, project_capped_simplex
from tests import reference

CHANNELS = 9


def project(values: np.ndarray, areas: list[float]) -> np.ndarray:
    """In float64."""
    return project_capped_simplex(torch.tensor(values, dtype=torch.float64), torch.tensor(areas, dtype=torch.float64)).numpy()


def check_optimal(values: np.ndarray, nearest: np.ndarray, area: float) -> None:
    """The Karush-Kuhn-Tucker conditions: one threshold t with v - t = m inside, <= 0 where m is 0, >= 1 where m is 1."""
    tolerance = 1e-7 * (1 + np.ptp(values))
    assert nearest.min() >= 0
    assert nearest.max() <= 1
    assert nearest.sum() == pytest.approx(area, abs=1e-9 * len(values))
    shift = values - nearest
    floor, roof = shift[nearest > 0], shift[nearest < 1]  # v - m is at least t where m > 0, at most t where m < 1
    if len(floor) and len(roof):
        assert roof.max() <= floor.min() + tolerance


@pytest.mark.parametrize("scale", [1e-3, 1, 30])
@pytest.mark.parametrize("seed", range(5))
def test_projection_is_the_plain_one(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    areas = [1.0, 2.0, 3.7, 0.25, 8.999, 5.0, CHANNELS]
    values = rng.normal(size=(len(areas), CHANNELS)) * scale
    found = project(values, areas)
    for row, area in enumerate(areas):
        np.testing.assert_allclose(found[row], reference.project_capped_simplex(values[row], area), atol=1e-9)
        check_optimal(values[row], found[row], area)


@pytest.mark.parametrize("channels", [1, 2, 512])
def test_projection_for_any_number_of_channels(channels: int) -> None:
    values = np.random.default_rng(channels).normal(size=(4, channels)) * 2
    areas = [1.0, channels / 2, channels, channels * 0.9]
    found = project(values, areas)
    for row, area in enumerate(areas):
        check_optimal(values[row], found[row], area)


def test_ties_share_what_is_left() -> None:
    np.testing.assert_allclose(project(np.full((3, 4), 7.0), [1, 2.5, 4]), [[0.25] * 4, [0.625] * 4, [1.0] * 4], atol=1e-12)
    np.testing.assert_allclose(project(np.array([[2.0, 0.5, 0.5, -1]]), [2]), [[1, 0.5, 0.5, 0]], atol=1e-9)


def test_what_fits_already_stays() -> None:
    values = np.array([[0.2, 0.3, 0.5, 1.0, 0.0]])
    np.testing.assert_allclose(project(values, [2]), values, atol=1e-9)


def test_everything_is_all_ones() -> None:
    values = np.array([[-5.0, 0.0, 3.0, 0.9]])
    np.testing.assert_allclose(project(values, [4]), np.ones((1, 4)), atol=1e-9)


@pytest.mark.parametrize("size", [1e3, 1e6])
def test_values_far_apart_give_the_set_itself(size: float) -> None:
    values = torch.tensor([[size, -size, 0.0, size / 2, -size / 3]])
    found = project_capped_simplex(values, torch.tensor([2]))
    assert found.tolist() == [[1, 0, 0, 1, 0]]


@pytest.mark.parametrize("scale", [1, 10])
def test_in_float32_sums_are_exact_to_rounding(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values = scale * torch.randn(64, 512, generator=generator)
    areas = torch.randint(1, 513, (64,), generator=generator)
    found = project_capped_simplex(values, areas)
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_allclose(found.double().sum(1), areas, rtol=1e-5)


def test_rows_do_not_see_each_other() -> None:
    values = torch.randn(6, 20, generator=torch.Generator().manual_seed(1))
    areas = torch.tensor([1, 3, 5, 8, 13, 20])
    together = project_capped_simplex(values, areas)
    for row in range(6):
        assert torch.equal(together[row], project_capped_simplex(values[row:row + 1], areas[row:row + 1])[0])


def test_projecting_twice_is_projecting_once() -> None:
    values = np.random.default_rng(3).normal(size=(5, 30)) * 3
    areas = [1, 4.5, 10, 29, 30]
    once = project(values, areas)
    np.testing.assert_allclose(project(once, areas), once, atol=1e-8)


def values_with_ties(seed: int) -> Tensor:
    return torch.randint(0, 4, (40, 12), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("seed", range(3))
def test_largest_is_the_plain_one_ties_to_the_lower_index(seed: int) -> None:
    values = values_with_ties(seed)
    areas = torch.arange(40) % 13
    for row, found in enumerate(largest(values, areas)):
        assert found.tolist() == reference.largest(values[row].tolist(), int(areas[row])).tolist()


def test_largest_of_equals_are_the_first() -> None:
    assert largest(torch.zeros(3, 4), torch.tensor([0, 1, 3])).int().tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]
    assert largest(torch.tensor([[1.0, 2, 1, 2, 1]]), torch.tensor([3])).int().tolist() == [[1, 1, 0, 1, 0]]


def test_channels_are_a_family() -> None:
    family: Family = Channels(CHANNELS)
    assert family.size == CHANNELS
    start = family.start(2, device=torch.device("cpu"), dtype=torch.float64)
    assert (start.tolist(), start.dtype) == ([[1] * CHANNELS] * 2, torch.float64)
    values, areas = torch.rand(3, CHANNELS, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 4, 9])
    assert torch.equal(family.project(values, areas), project_capped_simplex(values, areas))
    assert torch.equal(family.binary(values, areas), largest(values, areas))
    assert torch.equal(family.finish(values, areas), largest(values, areas))
    assert torch.equal(family.smooth_gradient(values, 0.5), values)


def test_fields_left_none_take_the_familys_values() -> None:
    family = Channels(CHANNELS)
    assert family.resolve(ca.ExactSearch()) == CHANNEL_EXACT
    assert family.resolve(ca.PenaltySearch()) == CHANNEL_PENALTY
    mine = family.resolve(ca.ExactSearch(relaxed_steps=0, momentum=0.5))
    assert (mine.relaxed_steps, mine.momentum, mine.binary_steps) == (0, 0.5, CHANNEL_EXACT.binary_steps)
    assert family.resolve(mine) == mine


def test_the_papers_protocol_is_the_penaltys_default() -> None:
    assert (CHANNEL_PENALTY.steps, CHANNEL_PENALTY.learning_rate, CHANNEL_PENALTY.penalty, CHANNEL_PENALTY.ramp) == (300, 0.01, 1500, 150)
    assert (CHANNEL_PENALTY.momentum, CHANNEL_PENALTY.dampening, CHANNEL_PENALTY.start, CHANNEL_PENALTY.reduction) == (0.9, 0, 0.5, "mean")


def test_refinement_takes_at_most_ten_evaluations_a_step() -> None:
    assert CHANNEL_EXACT.refine_steps <= 10


@pytest.mark.parametrize(("search", "message"), [
    (ca.ExactSearch(binary_steps=0), r"ExactSearch\(binary_steps=0\); expected a whole number from 1; leave it out for the default"),
    (ca.ExactSearch(refine_steps=11), r"ExactSearch\(refine_steps=11\); expected a whole number from 1 to 10; leave it out"),
    (ca.PenaltySearch(learning_rate=-0.1), r"PenaltySearch\(learning_rate=-0.1\); expected a number above 0; leave it out"),
    (ca.PenaltySearch(reduction="median"), r"PenaltySearch\(reduction='median'\); expected 'mean' or 'sum'"),
])
def test_settings_that_make_no_sense_are_refused(search: ca.ExactSearch | ca.PenaltySearch, message: str) -> None:
    with pytest.raises(ca.InputError, match=message):
        Channels(CHANNELS).resolve(search)


def test_nested_masks_are_the_largest_values_of_each_row() -> None:
    values, areas = np.random.default_rng(2).normal(size=(4, CHANNELS)), [1, 2, 5, 8, CHANNELS]
    found = nested_masks(torch.tensor(values), torch.tensor(areas))
    assert found.shape == (4, 5, CHANNELS)
    for row in range(4):
        for place, area in enumerate(areas):
            assert found[row, place].tolist() == reference.largest(values[row].tolist(), area).tolist()


def test_the_exact_search_of_channels_has_the_constants_that_its_documents_state() -> None:
    """docs/search.md: 15 relaxed evaluations and 25 of exchanges, half of the set at first, five times as many halfway; down and up."""
    search = Channels(CHANNELS).resolve(ca.ExactSearch())
    assert (search.relaxed_steps, search.binary_steps, search.refine_steps, search.starts) == (15, 25, 10, 1)
    assert (search.exchange, search.border, search.sweeps, search.exploration, search.memory) == (0.5, 5.0, 2, 0.4, 0.8)
    assert (search.anneal, search.relaxed_rate, search.momentum, search.smoothing) == (0.5, 0.3, 0.5, 0.0)
