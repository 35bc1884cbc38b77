"""The equations again: slow, plain numpy in float64, one mask at a time, sharing no line with the package.

A *score* here is ``score(mask [K]) -> (reward, gradient [K])`` or, for the brute force, ``score(mask [K]) -> reward``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Score = Callable[[np.ndarray], tuple[float, np.ndarray]]


def project_capped_simplex(values: Sequence[float], area: float) -> np.ndarray:
    """The nearest point of ``{0 <= m <= 1, sum m = area}``: ``clip(values - t, 0, 1)`` for one threshold t.

    The sum falls in straight pieces as t grows, with corners where an entry meets a cap (t = v - 1, t = v): find the
    piece that holds `area`, and the point on it.
    """
    def total(threshold: float) -> float:
        return math.fsum(min(max(v - threshold, 0.0), 1.0) for v in values)

    corners = sorted([v - 1 for v in values] + list(values))
    threshold = corners[0]
    for left, right in itertools.pairwise(corners):
        above, below = total(left), total(right)
        if above >= area >= below:
            share = 0.0 if above == below else (above - area) / (above - below)
            threshold = left + share * (right - left)
            break
    return np.array([min(max(v - threshold, 0.0), 1.0) for v in values])


def ascending(values: Sequence[float]) -> list[int]:
    """Positions from the smallest value to the largest; equals stay in order (insertion sort)."""
    order: list[int] = []
    for position, value in enumerate(values):
        place = len(order)
        while place > 0 and values[order[place - 1]] > value:
            place -= 1
        order.insert(place, position)
    return order


def largest(values: Sequence[float], count: int) -> np.ndarray:
    """Marks the `count` largest; among equals the lower position wins. Picks one after the other."""
    chosen = np.zeros(len(values), bool)
    for _ in range(count):
        best = -1
        for position, value in enumerate(values):
            if not chosen[position] and (best < 0 or value > values[best]):
                best = position
        chosen[best] = True
    return chosen


def area_penalty(mask: Sequence[float], area: int, reduction: str) -> tuple[float, np.ndarray]:
    """Equation 4 and its gradient: squared distance of the sorted mask from K - area zeros, then `area` ones."""
    channels = len(mask)
    total, gradient = 0.0, np.zeros(channels)
    for rank, position in enumerate(ascending(mask)):
        wanted = 1.0 if rank >= channels - area else 0.0
        total += (mask[position] - wanted) ** 2
        gradient[position] = 2 * (mask[position] - wanted)
    return (total, gradient) if reduction == "sum" else (total / channels, gradient / channels)


class PenaltyRun(NamedTuple):
    """What the paper's search went through."""

    steps: list[np.ndarray]  # the mask after every step
    mask: np.ndarray         # binary, exactly the area


def penalty_search(score: Score, channels: int, area: int, *, steps: int = 300, learning_rate: float = 0.01,
                   penalty: float = 1500.0, ramp: int = 150, momentum: float = 0.9, dampening: float = 0.0,
                   start: float = 0.5, reduction: str = "mean", growth: float = 1.0) -> PenaltyRun:
    """Equation 8, step by step: ``maximise score(m) - lambda R_a(m)`` by SGD, clamped to [0, 1] after each step.

    SGD is torch's: the first step's velocity is the gradient itself, whatever the dampening. Lambda is 0 in the first
    step, rises in a straight line and is `penalty` from step number `ramp` (counted from 0) on; TorchRay's grows by a factor at every step.
    """
    mask = np.full(channels, float(start))
    velocity = np.zeros(channels)
    history = []
    for step in range(steps):
        weight = (penalty * min(1.0, step / ramp) if ramp else penalty) * growth**step
        _, reward_slope = score(mask)
        _, penalty_slope = area_penalty(mask, area, reduction)
        for k in range(channels):
            slope = -reward_slope[k] + weight * penalty_slope[k]  # of the loss, which falls
            velocity[k] = slope if step == 0 else momentum * velocity[k] + (1 - dampening) * slope
        mask = np.array([min(max(mask[k] - learning_rate * velocity[k], 0.0), 1.0) for k in range(channels)])
        history.append(mask.copy())
    return PenaltyRun(history, largest(mask, area))


def logit(logits: Sequence[float], target: int) -> tuple[float, np.ndarray]:
    """The target's logit, and its gradient in the logits."""
    gradient = np.zeros(len(logits))
    gradient[target] = 1.0
    return float(logits[target]), gradient


def contrastive(logits: Sequence[float], target: int) -> tuple[float, np.ndarray]:
    """The target's logit less the largest other, and its gradient (where the largest is one class alone)."""
    rival = max((c for c in range(len(logits)) if c != target), key=lambda c: logits[c])
    gradient = np.zeros(len(logits))
    gradient[target], gradient[rival] = 1.0, -1.0
    return float(logits[target] - logits[rival]), gradient


def log_probability(logits: Sequence[float], target: int) -> tuple[float, np.ndarray]:
    """The target's log-softmax, and its gradient: one less the softmax at the target, minus the softmax elsewhere."""
    top = max(logits)
    mass = math.fsum(math.exp(v - top) for v in logits)
    gradient = np.array([-math.exp(v - top) / mass for v in logits])
    gradient[target] += 1.0
    return float(logits[target] - top - math.log(mass)), gradient


REWARDS = {"logit": logit, "contrastive": contrastive, "log_probability": log_probability}


class Best(NamedTuple):
    """The optimum over all sets of one size."""

    mask: np.ndarray
    reward: float


def brute_force(score: Callable[[np.ndarray], float], channels: int, area: int) -> Best:
    """Tries every set of `area` channels; the first of equals in lexical order wins."""
    best = Best(np.zeros(channels, bool), -math.inf)
    for chosen in itertools.combinations(range(channels), area):
        mask = np.zeros(channels, bool)
        mask[list(chosen)] = True
        reward = score(mask)
        if reward > best.reward:
            best = Best(mask, reward)
    return best


def reaches(score: float, level: float, game: str = "preserve") -> bool:
    """At or above the level, within 1e-5 of its scale; in *delete* at or below it."""
    slack = 1e-5 * max(1.0, abs(level))
    return score <= level + slack if game == "delete" else score >= level - slack


def smallest_area(areas: Sequence[int], scores: Sequence[float], level: float, empty: float,
                  game: str = "preserve") -> int:
    """a* on the areas given (equation 9): 0 if the empty set reaches, else the smallest that does, else -1."""
    if reaches(empty, level, game):
        return 0
    return min((a for a, s in zip(areas, scores, strict=True) if reaches(s, level, game)), default=-1)
