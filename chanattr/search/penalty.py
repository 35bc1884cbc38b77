"""The paper's search: gradient ascent on the reward less lambda times the area penalty (equation 8)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chanattr.search.exact import Found
from chanattr.search.family import Family
from chanattr.search.objective import Score, area_penalty
from chanattr.settings import PenaltySearch


def penalty(score: Score, family: Family, areas: Int[Tensor, "P"], rows: Int[Tensor, "P"], settings: PenaltySearch, *,
            watch: Callable[[int, Float[Tensor, "P K"]], None] | None = None, dtype: torch.dtype = torch.float32) -> Found:
    """The masks of equation 8 by the paper's protocol, cut to exactly their areas at the end.

    Plain SGD with momentum (as `torch.optim.SGD` defines it) on the mask, clamped to [0, 1] after each step; lambda rises linearly
    from 0 at the first step to ``settings.penalty`` at step ``settings.ramp`` and stays.

    Args:
        score: what is maximised.
        family: the kind of mask.
        areas: area of each pair.
        rows: image or class of each pair.
        settings: resolved by ``family.resolve``.
        watch: called with the step's number (from 1) and the masks after it.
        dtype: of the masks; float64 for comparisons.

    Returns:
        Binary masks of exactly `areas`, and their rewards (one more forward each).

    Source: Fong, Patrick and Vedaldi 2019, equations 4 and 8, section 5. Departure: the soft mask is cut to its largest
    `area` entries, so that scores at one area can be compared; momentum, start and reduction are not stated there.
    """
    settings = family.resolve(settings)
    masks = settings.start * family.start(len(areas), device=areas.device, dtype=dtype)
    speed = torch.zeros_like(masks)
    for step in range(settings.steps):
        slope = _penalty_gradient(masks, areas, settings.reduction)
        descent = settings.penalty * min(1.0, step / max(1, settings.ramp)) * slope - score(masks, rows, True).gradient
        fresh = 1.0 if step == 0 else 1 - settings.dampening  # torch's SGD starts its buffer with the first gradient
        speed = settings.momentum * speed + fresh * descent
        masks = (masks - settings.learning_rate * speed).clamp(0, 1)
        if watch is not None:
            watch(step + 1, masks)
    chosen = family.finish(masks, areas)
    rewards = score(chosen.to(dtype), rows, False).reward
    return Found(chosen, rewards, torch.full(areas.shape, settings.steps + 1 / 3, device=areas.device))


@torch.inference_mode(False)
def _penalty_gradient(masks: Tensor, areas: Tensor, reduction: str) -> Tensor:
    with torch.enable_grad():
        leaf = masks.clone().requires_grad_()  # a clone: the masks may have been made in inference mode
        return torch.autograd.grad(area_penalty(leaf, areas, reduction).sum(), leaf)[0]
