"""What is maximised: rewards, games and levels, and the paper's area penalty; one function an equation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chanattr.arguments import check_name
from chanattr.errors import InputError
from chanattr.settings import GAMES

Reward = Callable[[Tensor, Tensor], Tensor]
TOLERANCE = 1e-5


class Scored(NamedTuple):
    """Rewards of M masks, and where asked their gradients (otherwise ``gradient`` is empty, [0, K])."""

    reward: Float[Tensor, "M"]
    gradient: Float[Tensor, "G K"]


class Score(Protocol):
    """The mean reward of each mask over the images of its row; differentiable or not as asked."""

    def __call__(self, masks: Float[Tensor, "M K"], rows: Int[Tensor, "M"], gradient: bool) -> Scored: ...


def logit(logits: Float[Tensor, "B C"], targets: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    """The target's logit (the paper's reward)."""
    return logits.gather(1, targets[:, None])[:, 0]


def contrastive(logits: Float[Tensor, "B C"], targets: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    """The target's logit less the largest other logit.

    Raises:
        InputError: the model has a single class.
    """
    if logits.shape[1] < 2:
        raise InputError("reward 'contrastive' on a model with 1 class; expected two or more; use reward='logit'")
    others = logits.scatter(1, targets[:, None], -torch.inf)
    return logit(logits, targets) - others.amax(1)


def log_probability(logits: Float[Tensor, "B C"], targets: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    """The target's log-probability (log-softmax)."""
    return logit(logits.log_softmax(1), targets)


# Their names are `settings.REWARDS`, which the command line's help lists.
REWARD_FUNCTIONS: dict[str, Reward] = {"logit": logit, "contrastive": contrastive, "log_probability": log_probability}


def reward_function(reward: str | Reward) -> Reward:
    """A reward by its name, or the callable given: ``reward(logits [B, C], targets [B]) -> [B]``, larger is better.

    Raises:
        InputError: no such name.
    """
    if callable(reward):
        return reward
    check_name("reward", reward, REWARD_FUNCTIONS, ", or a callable (logits, targets) -> [B]")
    return REWARD_FUNCTIONS[reward]


def check_game(game: str) -> None:
    """Refuses what is no game.

    Raises:
        InputError: so.
    """
    check_name("game", game, GAMES)


def play(score: Score, game: str) -> Score:
    """The score that a game maximises over the selected set: kept (*preserve*), less dropped (*delete*), or both (*dual*).

    Raises:
        InputError: no such game.
    """
    check_game(game)

    def delete(masks: Tensor, rows: Tensor, gradient: bool) -> Scored:
        dropped = score(1 - masks, rows, gradient)
        return Scored(-dropped.reward, dropped.gradient)

    def dual(masks: Tensor, rows: Tensor, gradient: bool) -> Scored:
        kept, dropped = score(masks, rows, gradient), score(1 - masks, rows, gradient)
        return Scored(kept.reward - dropped.reward, kept.gradient + dropped.gradient)

    return {"preserve": score, "delete": delete, "dual": dual}[game]


def images_per_evaluation(game: str) -> int:
    """Masked images that one evaluation of a game runs: two in *dual*."""
    return 2 if game == "dual" else 1


def level_of(level: str | float, original: Float[Tensor, "N"], empty: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Phi_0 as a score: the original, or a fraction of the way to it from the empty score.

    Raises:
        InputError: not "original", "top1" or a fraction in [0, 1].
    """
    if level in ("original", "top1"):
        return original
    if isinstance(level, str) or not 0 <= level <= 1:
        raise InputError(f"level={level!r}; expected 'original', 'top1' or a fraction from 0 to 1")
    return empty + level * (original - empty)


def reached(scores: Float[Tensor, "*S"], level: Float[Tensor, "*S"], game: str) -> Bool[Tensor, "*S"]:
    """Whether scores reach their level: at or above it, within 1e-5 of its scale; in *delete* at or below it."""
    slack = TOLERANCE * level.abs().clamp(min=1)
    return scores <= level + slack if game == "delete" else scores >= level - slack


def area_penalty(masks: Float[Tensor, "P K"], areas: Int[Tensor, "P"], reduction: str) -> Float[Tensor, "P"]:
    """Equation 4: squared distance of the sorted mask from ``K - area`` zeros followed by `area` ones.

    Summed as in the paper, or averaged over channels as in TorchRay. The sort is stable, so that equal values are
    treated by channel number.
    """
    channels = masks.shape[1]
    ones = torch.arange(channels, device=masks.device)[None] >= channels - areas[:, None]
    distance = (masks.sort(dim=1, stable=True).values - ones.to(masks.dtype)).square()
    return distance.sum(1) if reduction == "sum" else distance.mean(1)
