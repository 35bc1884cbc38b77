"""Rewards, games, levels and the area penalty against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import chanattr as ca
from chanattr.search.objective import (
    REWARD_FUNCTIONS,
    Scored,
    area_penalty,
    contrastive,
    images_per_evaluation,
    level_of,
    play,
    reached,
    reward_function,
)
from chanattr.settings import GAMES
from tests import reference

CHANNELS = 7


def logits(count: int = 12, classes: int = 5) -> Tensor:
    return 4 * torch.randn(count, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", REWARD_FUNCTIONS)
def test_rewards_and_their_slopes_are_the_plain_ones(name: str) -> None:
    values, targets = logits().requires_grad_(), torch.arange(12) % 5
    found = REWARD_FUNCTIONS[name](values, targets)
    slopes = torch.autograd.grad(found.sum(), values)[0]
    for row in range(12):
        reward, slope = reference.REWARDS[name](values[row].tolist(), int(targets[row]))
        assert found[row].item() == pytest.approx(reward, abs=1e-12)
        np.testing.assert_allclose(slopes[row], slope, atol=1e-12)


def test_every_named_reward_is_there() -> None:
    assert set(REWARD_FUNCTIONS) == set(reference.REWARDS)
    assert all(reward_function(name) is REWARD_FUNCTIONS[name] for name in REWARD_FUNCTIONS)


def test_a_callable_is_its_own_reward() -> None:
    def mine(logits: Tensor, targets: Tensor) -> Tensor:
        return logits[:, 0]
    assert reward_function(mine) is mine


def test_no_such_reward() -> None:
    with pytest.raises(ca.InputError, match="reward='margin'; expected one of logit, contrastive, log_probability, or a callable"):
        reward_function("margin")


def test_contrastive_refuses_one_class() -> None:
    with pytest.raises(ca.InputError, match="'contrastive' on a model with 1 class; expected two or more; use reward='logit'"):
        contrastive(logits(classes=1), torch.zeros(12, dtype=torch.long))
    assert contrastive(torch.tensor([[3.0, 1.0]]), torch.tensor([0])).tolist() == [2]


def test_large_logits_do_not_overflow() -> None:
    values = torch.tensor([[1000.0, 0.0, -1000.0]])
    assert REWARD_FUNCTIONS["log_probability"](values, torch.tensor([0])).tolist() == [0]
    assert REWARD_FUNCTIONS["log_probability"](values, torch.tensor([2])).tolist() == [-2000]


def curved(masks: Tensor) -> Tensor:
    weight = torch.linspace(-1, 2, CHANNELS, dtype=masks.dtype)
    return (masks @ weight).tanh() + (masks * weight).square().sum(1)


def score(masks: Tensor, rows: Tensor, gradient: bool) -> Scored:
    leaf = masks.detach().requires_grad_()
    reward = curved(leaf) + rows
    return Scored(reward.detach(), torch.autograd.grad(reward.sum(), leaf)[0] if gradient else leaf.new_empty(0, CHANNELS))


def of_game(game: str, masks: Tensor, rows: Tensor) -> Tensor:
    kept, dropped = curved(masks) + rows, curved(1 - masks) + rows
    return {"preserve": kept, "delete": -dropped, "dual": kept - dropped}[game]


@pytest.mark.parametrize("game", GAMES)
def test_games_by_definition(game: str) -> None:
    masks = torch.rand(6, CHANNELS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = torch.tensor([0, 1, 2, 0, 1, 2])
    leaf = masks.clone().requires_grad_()
    expected = of_game(game, leaf, rows)
    found = play(score, game)(masks, rows, True)
    torch.testing.assert_close(found.reward, expected.detach())
    torch.testing.assert_close(found.gradient, torch.autograd.grad(expected.sum(), leaf)[0])
    plain = play(score, game)(masks, rows, False)
    torch.testing.assert_close(plain.reward, expected.detach())
    assert plain.gradient.numel() == 0


def test_an_evaluation_of_dual_runs_two_masked_images() -> None:
    assert [images_per_evaluation(game) for game in GAMES] == [1, 1, 2]


def test_no_such_game() -> None:
    with pytest.raises(ca.InputError, match="game='hybrid'; expected one of preserve, delete, dual"):
        play(score, "hybrid")


ORIGINAL, EMPTY = torch.tensor([10.0, -2.0, 0.5]), torch.tensor([1.0, -4.0, 0.5])


@pytest.mark.parametrize(("level", "expected"), [
    ("original", [10, -2, 0.5]), ("top1", [10, -2, 0.5]), (1.0, [10, -2, 0.5]), (1, [10, -2, 0.5]), (0.0, [1, -4, 0.5]),
    (0.5, [5.5, -3, 0.5]),
])
def test_level_is_the_original_or_a_share_of_the_way(level: str | float, expected: list[float]) -> None:
    torch.testing.assert_close(level_of(level, ORIGINAL, EMPTY), torch.tensor(expected))


@pytest.mark.parametrize("level", ["Original", "0.5", 1.01, -0.01, float("nan"), float("inf")])
def test_no_such_level(level: str | float) -> None:
    with pytest.raises(ca.InputError, match="expected 'original', 'top1' or a fraction from 0 to 1"):
        level_of(level, ORIGINAL, EMPTY)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("level", [0.0, 0.3, -0.3, 1.0, 250.0, -250.0, 1e6])
def test_reached_within_a_hundred_thousandth_of_the_levels_size(game: str, level: float) -> None:
    slack = 1e-5 * max(1.0, abs(level))
    offsets = [-2 * slack, -1.01 * slack, -0.99 * slack, 0, 0.99 * slack, 1.01 * slack, 2 * slack]
    scores = torch.tensor([level + offset for offset in offsets], dtype=torch.float64)
    found = reached(scores, torch.full_like(scores, level), game)
    below_counts = [True] * 5 + [False] * 2
    assert found.tolist() == (below_counts if game == "delete" else below_counts[::-1])
    assert found.tolist() == [reference.reaches(float(s), level, game) for s in scores]


def test_not_a_number_never_reaches() -> None:
    assert not any(reached(torch.tensor([torch.nan]), torch.tensor([0.0]), game).any() for game in GAMES)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("seed", range(3))
def test_the_area_penalty_and_its_slope_are_the_plain_ones(reduction: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 5, (9, CHANNELS), generator=generator).double() / 4  # many ties
    areas = torch.arange(9) % (CHANNELS + 1)
    leaf = masks.clone().requires_grad_()
    found = area_penalty(leaf, areas, reduction)
    slopes = torch.autograd.grad(found.sum(), leaf)[0]
    for row in range(9):
        value, slope = reference.area_penalty(masks[row].tolist(), int(areas[row]), reduction)
        assert found[row].item() == pytest.approx(value, abs=1e-12)
        np.testing.assert_allclose(slopes[row], slope, atol=1e-12)


def test_the_penalty_is_nothing_at_a_set_of_its_area() -> None:
    masks = torch.tensor([[1.0, 0, 0, 1, 0, 0, 1]])
    assert area_penalty(masks, torch.tensor([3]), "sum").tolist() == [0]
    assert area_penalty(masks, torch.tensor([5]), "sum").tolist() == [2]
    assert area_penalty(masks, torch.tensor([1]), "mean").tolist() == pytest.approx([2 / 7])
