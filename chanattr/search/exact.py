"""The default search: every mask holds its area exactly, first relaxed and annealed, then binary."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chanattr.search.family import Family
from chanattr.search.objective import Score
from chanattr.settings import ExactSearch


class Found(NamedTuple):
    """What a search returns for P (row, area) pairs."""

    masks: Bool[Tensor, "P K"]
    rewards: Float[Tensor, "P"]
    evaluations: Float[Tensor, "P"]


def exact(score: Score, family: Family, areas: Int[Tensor, "P"], rows: Int[Tensor, "P"], settings: ExactSearch, *,
          start: Float[Tensor, "P K"] | None = None, steps: int | None = None) -> Found:
    """The best mask found of each pair's exact area.

    Projected gradient ascent: the gradient is divided by its standard deviation over a mask, smoothed by momentum, and the
    step falls linearly to 0. Without `start` a relaxed phase anneals the area from everything down to the one asked; then
    gradients are taken at binary masks, and the best binary mask seen is kept (its score comes with each evaluation).

    Args:
        score: what is maximised.
        family: the kind of mask.
        areas: exact area of each pair.
        rows: image or class of each pair.
        settings: resolved by ``family.resolve``.
        start: masks to start from, of areas at or above those asked; the first gradient is taken at them.
        steps: evaluations after a `start`, in place of ``settings.binary_steps``.

    Returns:
        Binary masks of exactly `areas`, the rewards seen, and the evaluations spent on each pair.

    Source: this project (``scripts/solver_table`` has the comparison with equation 8 of Fong et al. 2019).
    """
    settings = family.resolve(settings)
    steps = settings.binary_steps if steps is None else steps
    spent = steps
    if start is None:
        values = _relaxed(score, family, areas, rows, settings)
        spent += settings.relaxed_steps
    else:
        values = _warm(score, family, areas, rows, start, settings)
        steps -= 1
    masks, rewards = _binary(score, family, areas, rows, values, steps, settings)
    return Found(masks, rewards, torch.full(areas.shape, float(spent), device=areas.device))


def _relaxed(score: Score, family: Family, areas: Tensor, rows: Tensor, settings: ExactSearch) -> Tensor:
    values = family.start(len(areas), device=areas.device, dtype=torch.float32)
    speed = torch.zeros_like(values)
    full = values.sum(1)
    for step in range(settings.relaxed_steps):
        progress = step / settings.relaxed_steps
        gradient = score(values, rows, True).gradient
        speed = _follow(family, speed, gradient, progress, settings.momentum)
        left = 1 - min(1.0, (step + 1) / max(1.0, settings.anneal * settings.relaxed_steps))
        area = areas * (full / areas) ** left  # geometric: from everything to the area asked
        values = family.project(values + settings.relaxed_rate * (1 - progress) * speed, area)
    return values


def _warm(score: Score, family: Family, areas: Tensor, rows: Tensor, start: Tensor, settings: ExactSearch) -> Tensor:
    """The start moved one step along its own gradient, so that the cut to a smaller area is not by channel number."""
    gradient = score(start, rows, True).gradient
    speed = _follow(family, torch.zeros_like(start), gradient, 0.0, settings.momentum)
    return family.project(start + settings.binary_rate * speed, areas)


def _binary(score: Score, family: Family, areas: Tensor, rows: Tensor, values: Tensor, steps: int,
            settings: ExactSearch) -> tuple[Tensor, Tensor]:
    values = family.project(values, areas)
    speed = torch.zeros_like(values)
    best = family.binary(values, areas)
    best_reward = torch.full(areas.shape, -torch.inf, device=values.device)
    for step in range(steps):
        progress = step / steps
        masks = family.binary(values, areas)
        scored = score(masks.to(values.dtype), rows, True)
        better = scored.reward > best_reward
        best = torch.where(better[:, None], masks, best)
        best_reward = torch.where(better, scored.reward, best_reward)
        speed = _follow(family, speed, scored.gradient, progress, settings.momentum)
        values = family.project(values + settings.binary_rate * (1 - progress) * speed, areas)
    return best, best_reward


def _follow(family: Family, speed: Tensor, gradient: Tensor, progress: float, momentum: float) -> Tensor:
    """The momentum of the normalised gradient: its unit is one standard deviation over the mask's parameters."""
    gradient = family.smooth_gradient(gradient, progress)
    scale = gradient.flatten(1).std(1, correction=0)
    tiny = torch.finfo(gradient.dtype).tiny
    return momentum * speed + gradient / scale.clamp(min=tiny)[:, None]
