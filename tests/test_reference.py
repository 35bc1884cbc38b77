"""The plain re-implementations against closed forms, so that they can be trusted to judge the package."""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference


def numeric_slope(function, point: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences."""
    slope = np.zeros_like(point)
    for k in range(len(point)):
        shift = np.zeros_like(point)
        shift[k] = step
        slope[k] = (function(point + shift) - function(point - shift)) / (2 * step)
    return slope


@pytest.mark.parametrize(("values", "area", "expected"), [
    ([0.2, 0.3, 0.5], 1, [0.2, 0.3, 0.5]),                 # already there
    ([1.0, 1.0, 1.0, 1.0], 1, [0.25, 0.25, 0.25, 0.25]),   # all alike: shared
    ([3.0, -3.0, 0.5], 1, [1.0, 0.0, 0.0]),                # one far above: a corner
    ([2.0, 0.6, 0.2], 2, [1.0, 0.7, 0.3]),                 # one at its cap, two shifted by 0.1
    ([5.0, 7.0], 2, [1.0, 1.0]),                           # the whole set
])
def test_projection_in_closed_form(values, area, expected):
    np.testing.assert_allclose(reference.project_capped_simplex(values, area), expected, atol=1e-12)


def test_projection_is_the_nearest_point():
    rng = np.random.default_rng(0)
    for _ in range(50):
        values, area = rng.normal(size=7) * 2, int(rng.integers(1, 7))
        nearest = reference.project_capped_simplex(values, area)
        assert nearest.sum() == pytest.approx(area, abs=1e-12)
        assert nearest.min() >= 0
        assert nearest.max() <= 1
        for _ in range(20):  # other feasible points: mixtures of sets of that size
            sets = np.array([rng.permutation(np.arange(7) < area) for _ in range(4)])
            other = rng.dirichlet(np.ones(4)) @ sets
            # the angle at a projection is never acute
            assert (values - nearest) @ (other - nearest) <= 1e-9


def test_sorts_are_stable():
    assert reference.ascending([2, 1, 2, 1]) == [1, 3, 0, 2]
    assert reference.largest([1, 1, 1, 1], 2).tolist() == [True, True, False, False]
    assert reference.largest([0, 2, 1, 2, 2], 2).tolist() == [False, True, False, True, False]


def test_penalty_in_closed_form():
    """All values v: area ones at distance 1 - v, the rest at distance v; zero for a binary mask of that area."""
    value, slope = reference.area_penalty([0.25] * 8, 2, "sum")
    assert value == pytest.approx(2 * 0.75**2 + 6 * 0.25**2)
    assert slope.tolist() == [0.5] * 6 + [-1.5] * 2
    assert reference.area_penalty([0.25] * 8, 2, "mean")[0] == pytest.approx(value / 8)
    value, slope = reference.area_penalty([1, 0, 0, 1], 2, "sum")
    assert value == 0
    assert not slope.any()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_penalty_gradient(reduction):
    mask = np.random.default_rng(1).uniform(size=9)
    expected = numeric_slope(lambda m: reference.area_penalty(m, 4, reduction)[0], mask)
    np.testing.assert_allclose(reference.area_penalty(mask, 4, reduction)[1], expected, atol=1e-7)


def test_penalty_search_without_penalty_is_momentum_in_closed_form():
    """A constant slope g from start s: after n steps s + lr g sum over i = 1..n of (1 - mu^i) / (1 - mu)."""
    slope = np.array([0.5, -0.25, 0.0])
    run = reference.penalty_search(lambda m: (float(slope @ m), slope), 3, 1, steps=6, penalty=0.0, momentum=0.5)
    travel = sum((1 - 0.5**i) / 0.5 for i in range(1, 7))
    np.testing.assert_allclose(run.steps[-1], 0.5 + 0.01 * slope * travel, atol=1e-12)
    assert run.mask.tolist() == [True, False, False]


def test_penalty_search_clamps_and_ramps():
    """The first step has no penalty, the second a ramp's first share of it; no mask leaves [0, 1]."""
    still = np.zeros(4)
    run = reference.penalty_search(lambda m: (0.0, still), 4, 2, steps=40, penalty=30.0, ramp=3, reduction="sum", momentum=0.0)
    assert run.steps[0].tolist() == [0.5] * 4
    np.testing.assert_allclose(run.steps[1], [0.4, 0.4, 0.6, 0.6])  # 0.5 -+ 0.01 * (30 / 3) * 2 * 0.5
    assert min(m.min() for m in run.steps) >= 0
    assert max(m.max() for m in run.steps) <= 1
    np.testing.assert_allclose(run.steps[-1], [0, 0, 1, 1], atol=1e-3)


def test_dampening_spares_the_first_step():
    slope = np.ones(1)
    run = reference.penalty_search(lambda m: (0.0, slope), 1, 1, steps=2, penalty=0.0, momentum=0.9, dampening=0.9, start=0.0)
    np.testing.assert_allclose(np.ravel(run.steps), [0.01, 0.01 + 0.01 * (0.9 + 0.1)])


def test_rewards_in_closed_form():
    assert reference.logit([3, 1, 2], 2)[0] == 2
    assert reference.contrastive([3, 1, 2], 2)[0] == -1
    assert reference.contrastive([3, 1, 2], 0)[0] == 1
    assert reference.log_probability([0, 0, 0, 0], 1)[0] == pytest.approx(-np.log(4))
    assert reference.log_probability([1000, 0], 0)[0] == 0  # no overflow


@pytest.mark.parametrize("name", sorted(reference.REWARDS))
def test_reward_gradients(name):
    logits = np.array([0.3, -1.2, 0.9, 0.1])
    for target in range(4):
        expected = numeric_slope(lambda v, t=target: reference.REWARDS[name](v, t)[0], logits)
        np.testing.assert_allclose(reference.REWARDS[name](logits, target)[1], expected, atol=1e-8)


def test_brute_force_finds_what_is_known():
    """Additive: the largest. A bonus for two together: they win although each alone is the least."""
    worth = np.array([0.3, 0.9, 0.1, 0.5, 0.7])
    best = reference.brute_force(lambda m: float(m @ worth), 5, 2)
    assert np.flatnonzero(best.mask).tolist() == [1, 4]
    assert best.reward == pytest.approx(1.6)
    best = reference.brute_force(lambda m: float(m @ worth + 5 * m[0] * m[2]), 5, 2)
    assert np.flatnonzero(best.mask).tolist() == [0, 2]


def test_smallest_area_by_definition():
    areas, scores = [1, 2, 5, 9], [0.0, 3.0, 2.0, 3.0]
    assert reference.smallest_area(areas, scores, level=3.0, empty=0.0) == 2
    assert reference.smallest_area(areas, scores, level=3.00002, empty=0.0) == 2   # within 1e-5 of the level's size
    assert reference.smallest_area(areas, scores, level=3.001, empty=0.0) == -1
    assert reference.smallest_area(areas, scores, level=0.0, empty=0.0) == 0
    assert reference.smallest_area(areas, [4, 3, 1, 0], level=1.0, empty=5.0, game="delete") == 5
