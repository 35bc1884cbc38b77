"""The default search finds planted sets, and comes close to the best of all subsets where these can be counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import chanattr as ca
from chanattr.search.exact import exact
from chanattr.search.family import Channels
from chanattr.search.objective import Scored
from tests import planted, reference

SEEDS = range(50)
SMALL = [seed for seed in SEEDS if planted.channels_of(seed) <= 16]
FOUND = 1e-6  # a set this close to the planted one's score is as good
# Of 50 networks every additive one is wanted and 48 of each other kind; and 0.99 of the way to the best of all subsets, on average over the
# planted kinds and over random networks. One conjunctive one is missed (seed 23), and of those counted 0.985 of the way is gone.
ENOUGH = {"additive": 50, "saturating": 48, "redundant": 48, "conjunctive": 48}
NEAR = (tuple(planted.KINDS), ("random",))
REACHED = 0.99

Formula = Callable[[np.ndarray], np.ndarray]
Module = Callable[[Tensor], Tensor]


class Problem(NamedTuple):
    """A score of masks [M, K], twice: the formula in float64 and the network in float32."""

    channels: int
    formula: Formula
    module: Module


def planted_problem(net: planted.Planted) -> Problem:
    module, image = planted.Network(net), planted.image(net)
    return Problem(len(net.mask), lambda masks: planted.score(net, masks), lambda masks: module(image * masks[:, :, None, None])[:, 0])


def random_problem(seed: int) -> Problem:
    """Two layers with a ReLU between, weights at random, 8 to 14 channels: no structure to find, every channel matters to every other."""
    rng = np.random.default_rng([5, seed])
    channels = int(rng.integers(8, 15))
    slopes = rng.normal(size=(channels, 2 * channels)) * rng.uniform(0.2, 2, (channels, 1))
    shift, out = rng.normal(size=(2, 2 * channels))
    a, b, c = (torch.tensor(v, dtype=torch.float32) for v in (slopes, shift, out))
    return Problem(channels, lambda masks: np.maximum(masks @ slopes + shift, 0) @ out, lambda masks: (masks @ a + b).relu() @ c)


def problems(kind: str) -> list[Problem]:
    """The networks of a kind whose subsets can be counted."""
    if kind == "random":
        return [random_problem(seed) for seed in SEEDS]
    return [planted_problem(planted.KINDS[kind](seed)) for seed in SMALL]


def subsets(channels: int) -> np.ndarray:
    """All 2^K masks."""
    return (np.arange(2**channels)[:, None] >> np.arange(channels)) & 1


def best_by_area(problem: Problem) -> np.ndarray:
    """The best score of all subsets of each size 0 .. K."""
    masks = subsets(problem.channels)
    scores, sizes = problem.formula(masks), masks.sum(1)
    return np.array([scores[sizes == area].max() for area in range(problem.channels + 1)])


def search(modules: Sequence[Module], channels: int, areas: Tensor, rows: Tensor) -> np.ndarray:
    """Masks that the default search finds; row r asks module r, rows increase."""
    def score(masks: Tensor, rows: Tensor, gradient: bool) -> Scored:
        leaf = masks.detach().requires_grad_()
        reward = torch.cat([module(leaf[rows == row]) for row, module in enumerate(modules)])
        return Scored(reward.detach(), torch.autograd.grad(reward.sum(), leaf)[0] if gradient else leaf.new_empty(0, channels))
    return exact(score, Channels(channels), areas, rows, ca.ExactSearch()).masks.numpy()


def ways(problems: Sequence[Problem]) -> np.ndarray:
    """Share of the way from the empty score to the best that the search goes, at areas 1 .. K - 1 of every problem.

    Left out are areas where the way is under 1/20 of the longest of any area. Problems of as many channels are searched together.
    """
    shares = []
    for channels in sorted({problem.channels for problem in problems}):
        alike = [problem for problem in problems if problem.channels == channels]
        areas = torch.arange(1, channels)
        found = search([problem.module for problem in alike], channels, areas.repeat(len(alike)),
                       torch.arange(len(alike)).repeat_interleave(len(areas)))
        for problem, masks in zip(alike, found.reshape(len(alike), len(areas), channels), strict=True):
            assert masks.sum(1).tolist() == areas.tolist()
            best = best_by_area(problem)
            height = best[1:-1] - best[0]
            far = height > 0.05 * (best.max() - best[0])
            shares.append((problem.formula(masks) - best[0])[far] / height[far])
    return np.concatenate(shares)


def test_generators_give_what_they_say() -> None:
    for make in planted.KINDS.values():
        for seed in SEEDS:
            net = make(seed)
            channels = len(net.linear)
            assert channels == planted.channels_of(seed)
            grouped = np.concatenate([np.zeros(0, int), *(group.members for group in net.groups)])
            assert len(set(grouped)) == len(grouped)
            assert not net.linear[grouped].any()
            assert net.activation[net.mask].max() < net.activation[~net.mask].min()
    assert {planted.channels_of(seed) for seed in SEEDS} == set(planted.CHANNELS)


@pytest.mark.parametrize("kind", planted.KINDS)
def test_the_planted_set_is_the_best_of_its_area(kind: str) -> None:
    for seed in SMALL:
        net = planted.KINDS[kind](seed)
        assert planted.score(net, net.mask[None]) == pytest.approx(best_by_area(planted_problem(net))[net.area], abs=1e-9), f"seed {seed}"


@pytest.mark.parametrize("kind", planted.KINDS)
def test_the_planted_set_holds_against_exchanges(kind: str) -> None:
    """In the networks too large to count: no channel for another, no random third for another."""
    rng = np.random.default_rng(0)
    for seed in (s for s in SEEDS if planted.channels_of(s) in (64, 512)):
        net = planted.KINDS[kind](seed)
        own = planted.score(net, net.mask[None])[0]
        for exchanged in (1, 1, max(1, net.area // 3)):
            others = np.repeat(net.mask[None], 300, axis=0)
            for mask in others:
                mask[rng.permutation(np.flatnonzero(net.mask))[:exchanged]] = False
                mask[rng.permutation(np.flatnonzero(~net.mask))[:exchanged]] = True
            assert planted.score(net, others).max() <= own + 1e-9, f"seed {seed}"


@pytest.mark.parametrize("kind", planted.KINDS)
def test_the_network_is_the_formula(kind: str) -> None:
    rng = np.random.default_rng(0)
    for seed in range(13):
        net = planted.KINDS[kind](seed)
        masks = np.concatenate([net.mask[None], rng.uniform(size=(3, len(net.mask)))])
        images = planted.image(net) * torch.tensor(masks, dtype=torch.float32)[:, :, None, None]
        np.testing.assert_allclose(planted.Network(net)(images)[:, 0], planted.score(net, masks), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ENOUGH)
def test_exact_search_finds_the_planted_set(kind: str) -> None:
    failures = []
    for channels in planted.CHANNELS:
        seeds = [seed for seed in SEEDS if planted.channels_of(seed) == channels]
        nets = [planted.KINDS[kind](seed) for seed in seeds]
        masks = search([planted_problem(net).module for net in nets], channels, torch.tensor([net.area for net in nets]),
                       torch.arange(len(nets)))
        for seed, net, mask in zip(seeds, nets, masks, strict=True):
            assert mask.sum() == net.area
            mine, best = planted.score(net, np.stack([mask, net.mask]))
            if mine < best - FOUND:
                failures.append(f"seed {seed} (K = {channels}, area {net.area}): {mine:.6f} of {best:.6f}")
    assert len(SEEDS) - len(failures) >= ENOUGH[kind], f"{len(failures)} {kind} networks of {len(SEEDS)}: " + "; ".join(failures)


@pytest.mark.parametrize("kind", ENOUGH)
@pytest.mark.parametrize("seed", [4, 6])
def test_per_image_finds_the_planted_set(kind: str, seed: int) -> None:
    net = planted.KINDS[kind](seed)
    found = ca.per_image(planted.Network(net).eval(), planted.image(net), "body", targets=[0], areas=(net.area,), refine=False)
    mine, best = planted.score(net, np.stack([found.masks[0, 0], net.mask]))
    assert mine >= best - FOUND
    assert found.scores[0, 0] == pytest.approx(mine, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("kinds", NEAR)
def test_near_the_best_of_all_subsets(kinds: tuple[str, ...], record_property: Callable[[str, object], None]) -> None:
    means = {kind: float(ways(problems(kind)).mean()) for kind in kinds}
    record_property("share of the way to the best", means)
    assert np.mean(list(means.values())) >= REACHED, means


def test_counting_all_subsets_agrees_with_the_plain_one() -> None:
    problem = random_problem(1)
    best = best_by_area(problem)
    for area in (1, 2, 5):
        plain = reference.brute_force(lambda mask: float(problem.formula(mask[None])[0]), problem.channels, area)
        assert plain.reward == pytest.approx(best[area], abs=1e-12)
