"""The paper's search: gradient ascent on the reward less lambda times the area penalty (equation 8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chanattr.search.ascent import Watch
from chanattr.search.exact import Found
from chanattr.search.family import Family, Sets
from chanattr.search.objective import Score
from chanattr.settings import PenaltySearch


def penalty(score: Score, family: Sets, areas: Int[Tensor, "P"], rows: Int[Tensor, "P"], settings: PenaltySearch, *,
            watch: Watch | None = None, dtype: torch.dtype = torch.float32) -> Found:
    """The sets of equation 8 by the paper's protocol, cut to exactly their areas at the end.

    Args:
        score: what is maximised.
        family: the kind of set.
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
    masks = penalised([score], family, areas, rows, settings, watch=watch, dtype=dtype)
    chosen = family.finish(masks, areas)
    rewards = score(chosen.to(dtype), rows, False).reward
    return Found(chosen, rewards, torch.full(areas.shape, settings.steps + 1 / 3, device=areas.device, dtype=torch.float32))


def penalised(scores: Sequence[Score], family: Family, areas: Int[Tensor, "P"] | Float[Tensor, "P"], rows: Int[Tensor, "P"],
              settings: PenaltySearch, *, watch: Watch | None = None, dtype: torch.dtype = torch.float32) -> Float[Tensor, "P K"]:
    """The parameters at which the paper's search ends, as they are.

    Plain SGD with momentum (as `torch.optim.SGD` defines it), clamped to [0, 1] after each step. Lambda rises linearly from 0 at the first
    step to ``settings.penalty`` at step ``settings.ramp`` (at once, where that is 0), and by the factor ``settings.growth`` at every step.

    Args:
        scores: what is maximised: one a view, taken in turn.
        family, areas, rows, settings, watch, dtype: as for `penalty`.

    Source: Fong, Patrick and Vedaldi 2019, equations 4 and 8; TorchRay, ``extremal_perturbation``.
    """
    masks = settings.start * family.start(len(areas), device=areas.device, dtype=dtype)
    speed = torch.zeros_like(masks)
    for step in range(settings.steps):
        weight = settings.penalty * (min(1.0, step / settings.ramp) if settings.ramp else 1.0) * settings.growth**step
        slope = _penalty_gradient(family, masks, areas, settings.reduction)
        descent = weight * slope - scores[step % len(scores)](masks, rows, True).gradient
        fresh = 1.0 if step == 0 else 1 - settings.dampening  # torch's SGD starts its buffer with the first gradient
        speed = settings.momentum * speed + fresh * descent
        masks = (masks - settings.learning_rate * speed).clamp(0, 1)
        if watch is not None:
            watch(step + 1, masks)
    return masks


@torch.inference_mode(False)
def _penalty_gradient(family: Family, masks: Tensor, areas: Tensor, reduction: str) -> Tensor:
    with torch.enable_grad():
        leaf = masks.clone().requires_grad_()  # a clone: the masks may have been made in inference mode
        return torch.autograd.grad(family.penalty(leaf, areas, reduction).sum(), leaf)[0]
