"""a*: the smallest area found that reaches its level, on a grid, and refined by bisection to the exact count."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chanattr.records import NOT_REACHED
from chanattr.search.exact import Enough, Found, exact
from chanattr.search.family import Sets, largest
from chanattr.search.objective import Score
from chanattr.settings import ExactSearch

Judge = Callable[[Bool[Tensor, "P K"], Int[Tensor, "P"]], Bool[Tensor, "P"]]
SearchFrom = Callable[[Int[Tensor, "P"], Int[Tensor, "P"], Float[Tensor, "P K"] | None], Found]


class Smallest(NamedTuple):
    """a* of N rows: its area (-1 not reached, 0 the empty set), its mask (all False without one), and what finding it cost."""

    area: Int[Tensor, "N"]
    mask: Bool[Tensor, "N K"]
    evaluations: Float[Tensor, "N"]


def on_grid(areas: Int[Tensor, "A"], masks: Bool[Tensor, "N A K"], reached: Bool[Tensor, "N A"],
            empty_reached: Bool[Tensor, "N"]) -> Smallest:
    """The smallest of increasing `areas` that reaches (equation 9), for each row."""
    rows = torch.arange(len(masks), device=masks.device)
    some = reached.any(1)
    first = reached.to(torch.int8).argmax(1)
    area = torch.where(some, areas[first], NOT_REACHED)
    mask = masks[rows, first] & some[:, None]
    area = torch.where(empty_reached, 0, area)
    return Smallest(area, mask & ~empty_reached[:, None], torch.zeros(len(masks), device=masks.device, dtype=torch.float32))


def bracket(areas: Int[Tensor, "A"], empty_reached: Bool[Tensor, "N"], full: Bool[Tensor, "N K"], search: SearchFrom,
            judge: Judge) -> Smallest:
    """The smallest reaching area of a grid by bisection over the grid: a few searches in place of all.

    The score is not monotone in the area, so the answer may be another than the smallest of a whole grid searched.

    Args:
        areas: the grid, increasing, up to K.
        empty_reached: rows that need no channel.
        full: the mask with everything, of each row.
        search: ``search(areas [P], rows [P], start [P, K] or None)``; a start is a set of a larger area that reaches.
        judge: tells by the definition (float32) whether binary masks reach their rows' level.
    """
    top, every = len(areas) - 1, torch.arange(len(full), device=areas.device)
    low, high = torch.full_like(every, -1), torch.where(empty_reached, 0, top)
    ends = _Ends(low, high, full.clone(), torch.zeros(len(full), device=areas.device, dtype=torch.float32))
    _bisect(ends, lambda middle, rows: search(areas[middle], rows, None), judge, start=top)  # from everything, until some set reaches
    _bisect(ends, lambda middle, rows: search(areas[middle], rows, ends.mask[rows].float()), judge)
    reached_top = (high < top) | judge(full, every)
    area = torch.where(empty_reached, 0, torch.where(reached_top, areas[high], NOT_REACHED))
    return Smallest(area, ends.mask & (area > 0)[:, None], ends.spent)


def refine(found: Smallest, areas: Int[Tensor, "A"], score: Score, family: Sets, settings: ExactSearch, judge: Judge, *,
           seed: int = 0, level: Float[Tensor, "N"] | None = None) -> Smallest:
    """a* bisected between the smallest reaching grid area and the largest grid area below it.

    The full set, where it reaches, is the upper end where no grid area does. Each step searches all rows side by side at their
    own middle area, warm-started from the set at the upper end, with at most ``refine_steps`` evaluations.

    Args:
        found: from `on_grid`.
        areas: the grid, increasing (may be empty).
        score: what is maximised.
        family: the kind of mask.
        settings: resolved.
        judge: tells by the definition (float32) whether binary masks reach their rows' level.
        seed: of the searches' noise.
        level: reward of each row at which a step's set is looked at, to go on at once if it reaches; None spends all evaluations.
    """
    settings = family.resolve(settings)
    ends = _ends_of(found, areas, judge)

    def search(middle: Tensor, rows: Tensor) -> Found:
        enough = None if level is None else Enough(level[rows], judge)
        return exact(score, family, middle, rows, settings, start=ends.mask[rows].float(), steps=settings.refine_steps, seed=seed,
                     enough=enough)

    _bisect(ends, search, judge)
    return Smallest(ends.high, ends.mask, ends.spent)


def nested(found: Smallest, areas: Int[Tensor, "A"], values: Float[Tensor, "N K"], judge: Judge) -> Smallest:
    """a* of sets that lie in one another, the first k of an order: bisected as by `refine`, where nothing has to be searched.

    Args:
        found: from `on_grid`, of the order's sets.
        areas: the grid, increasing.
        values: what orders the channels, the largest first.
        judge: as for `refine`.
    """
    ends = _ends_of(found, areas, judge)

    def first(middle: Tensor, rows: Tensor) -> Found:
        free = torch.zeros(len(rows), device=values.device, dtype=torch.float32)
        return Found(largest(values[rows], middle), free, free)

    _bisect(ends, first, judge)
    return Smallest(ends.high, ends.mask, ends.spent)


class _Ends(NamedTuple):
    """Between what a* of N rows lies, changed in place: above `low`, at `high` at most, whose mask it is; and the evaluations spent."""

    low: Int[Tensor, "N"]
    high: Int[Tensor, "N"]
    mask: Bool[Tensor, "N K"]
    spent: Float[Tensor, "N"]


def _ends_of(found: Smallest, areas: Tensor, judge: Judge) -> _Ends:
    """The ends between which a* of a grid is refined; everything, where it reaches, is the upper one if no grid area does."""
    full = torch.ones_like(found.mask)
    rescued = (found.area == NOT_REACHED) & judge(full, torch.arange(len(full), device=full.device))
    high = torch.where(rescued, full.shape[1], found.area)
    mask = torch.where(rescued[:, None], full, found.mask)
    return _Ends(_largest_below(areas, high), high, mask, found.evaluations.clone())


def _bisect(ends: _Ends, search: Callable[[Tensor, Tensor], Found], judge: Judge, start: int | None = None) -> None:
    """Searches at the middle of each row's ends until nothing lies between them; with a `start`, as long as its upper end is still that."""
    low, high, mask, spent = ends
    while len(rows := torch.nonzero((high - low > 1) & ((high == start) if start is not None else True))[:, 0]):
        middle = (low[rows] + high[rows]) // 2
        found = search(middle, rows)
        reaches = judge(found.masks, rows)
        mask[rows] = torch.where(reaches[:, None], found.masks, mask[rows])
        high[rows] = torch.where(reaches, middle, high[rows])
        low[rows] = torch.where(reaches, low[rows], middle)
        spent[rows] += found.evaluations


def _largest_below(areas: Tensor, high: Tensor) -> Tensor:
    """The largest area below each of `high`, 0 where there is none; where there is nothing to bisect, `high` itself."""
    below = torch.where(areas[None] < high[:, None], areas[None], 0)
    low = below.amax(1) if len(areas) else torch.zeros_like(high)
    return torch.where(high > 0, low, high)
