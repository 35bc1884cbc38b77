"""Projected ascent while the area is annealed: how the exact search begins on channels, and all of it on pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chanattr.search.family import Family
from chanattr.search.objective import Score
from chanattr.search.worth import Seen, standardised
from chanattr.settings import ExactSearch

SHARPENED = 0.1  # of the first smoothing is left at the end
Watch = Callable[[int, Tensor], None]


class Start(NamedTuple):
    """Where a warm ascent begins.

    Attributes:
        values: parameters of larger areas.
        areas: of their masks.
        progress: how far along the schedule of steps and smoothing it enters, in [0, 1].
    """

    values: Float[Tensor, "P K"]
    areas: Float[Tensor, "P"]
    progress: float


def ascend(scores: Sequence[Score], family: Family, areas: Int[Tensor, "P"] | Float[Tensor, "P"], rows: Int[Tensor, "P"],
           settings: ExactSearch, *, steps: int, start: Start | None = None,
           watch: Watch | None = None) -> tuple[Float[Tensor, "P K"], Seen]:
    """Parameters whose masks have exactly their areas at every step, and what was seen of the slopes on the way.

    The area falls by equal ratios from everything (or the start's) to the one asked over ``settings.anneal`` of the steps. Slopes are
    smoothed over a picture's grid from coarse to fine, taken in their standard deviations, and followed with momentum; the steps shrink to
    nothing.

    Args:
        scores: what is maximised: one a view, taken in turn.
        family: the kind of mask.
        areas: exact area of each pair.
        rows: image or class of each pair.
        settings: resolved by ``family.resolve``.
        steps: evaluations.
        start: where to begin; None is everything.
        watch: called with the step's number (from 1) and the parameters after it.

    Source: this project (docs/performance.md and docs/evidence.md have what was measured).
    """
    begin = start or Start(family.start(len(areas), device=areas.device, dtype=torch.float32),
                           torch.full(areas.shape, float(family.full), device=areas.device, dtype=torch.float32), 0.0)
    values, speed, seen = begin.values, torch.zeros_like(begin.values), Seen.nothing(begin.values)
    for step in range(steps):
        progress = begin.progress + (1 - begin.progress) * step / steps
        seen = seen.add(values, standardised(scores[step % len(scores)](values, rows, True).gradient), settings.memory)
        slopes = family.smooth_gradient(seen.worth(), settings.smoothing * SHARPENED**progress)
        speed = settings.momentum * speed + standardised(slopes)
        left = 1 - min(1.0, (step + 1) / max(1.0, settings.anneal * steps))
        values = family.project(values + settings.relaxed_rate * (1 - progress) * speed, areas * (begin.areas / areas) ** left)
        if watch is not None:
            watch(step + 1, values)
    return values, seen
