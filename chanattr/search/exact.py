"""The default search: every mask holds its area exactly, first relaxed and annealed, then binary."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chanattr.search.ascent import ascend
from chanattr.search.family import Sets
from chanattr.search.objective import Score
from chanattr.search.worth import Seen, standardised
from chanattr.settings import ExactSearch

FORWARDS = 3  # that cost as much as one evaluation with its gradient
NEAR = 0.02  # of the level's scale: rewards this far below it are worth a look by the definition (a search may run in half precision)


class Found(NamedTuple):
    """What a search returns for P (row, area) pairs."""

    masks: Bool[Tensor, "P K"]
    rewards: Float[Tensor, "P"]
    evaluations: Float[Tensor, "P"]


class Enough(NamedTuple):
    """When a set is good enough to stop at: its reward is near the level, and by the definition it reaches.

    Attributes:
        level: reward of each pair to be near to; minus infinity has every better set looked at.
        reaches: tells of binary masks [M, K] of rows [M] whether they do, [M].
    """

    level: Float[Tensor, "P"]
    reaches: Callable[[Tensor, Tensor], Tensor]


def exact(score: Score, family: Sets, areas: Int[Tensor, "P"], rows: Int[Tensor, "P"], settings: ExactSearch, *,
          start: Float[Tensor, "P K"] | None = None, steps: int | None = None, seed: int = 0, enough: Enough | None = None) -> Found:
    """The best mask found of each pair's exact area.

    Where all masks of an area can be scored with the evaluations at hand, they are, and the answer is the best there is. Elsewhere a
    relaxed phase follows the slopes by projected ascent while the area is annealed from everything down to the one asked; then masks are
    binary, and at each step the least worthy members are exchanged for worthier others: many at first, one at the end. What a channel is
    worth is told by the slopes seen with it in *and* with it out (`chanattr.search.worth`), with some noise at first. The best binary mask
    seen is kept (its score comes with each evaluation).

    Args:
        score: what is maximised.
        family: the kind of mask.
        areas: exact area of each pair.
        rows: image or class of each pair.
        settings: resolved by ``family.resolve``.
        start: masks to start from, of areas at or above those asked; the first slopes are taken at them.
        steps: evaluations after a `start`, in place of ``settings.binary_steps``.
        seed: of the noise, which is the same for every pair: no answer depends on what is searched beside it.
        enough: a pair whose set is so is not searched on, where only a* is wanted; None spends all evaluations.

    Returns:
        Binary masks of exactly `areas`, the rewards seen, and the evaluations spent on each pair.

    Source: this project (``scripts/solver_table`` has the comparison with equation 8 of Fong et al. 2019).
    """
    settings = family.resolve(settings)
    found = _from_start(score, family, areas, rows, settings, start, steps, seed, enough)
    for number in range(1, settings.starts if start is None else 1):
        found = _better(found, _from_start(score, family, areas, rows, settings, None, steps, seed + number, enough))
    return found


def _better(one: Found, other: Found) -> Found:
    """Of two searches the better, pair by pair; what both cost."""
    take = other.rewards > one.rewards
    return Found(torch.where(take[:, None], other.masks, one.masks), torch.where(take, other.rewards, one.rewards),
                 one.evaluations + other.evaluations)


def _from_start(score: Score, family: Sets, areas: Tensor, rows: Tensor, settings: ExactSearch, start: Tensor | None, steps: int | None,
                seed: int, enough: Enough | None) -> Found:
    """One search of all pairs: counted out where that can be, searched elsewhere."""
    steps = settings.binary_steps if steps is None else steps
    relaxed = settings.relaxed_steps if start is None else 0
    found = Found(torch.zeros(len(areas), family.size, dtype=torch.bool, device=areas.device),
                  torch.zeros(len(areas), device=areas.device), torch.full(areas.shape, float(relaxed + steps), device=areas.device))
    few = torch.zeros_like(areas, dtype=torch.bool)
    for area in areas.unique().tolist():
        masks = family.every(area, FORWARDS * (relaxed + steps)).to(areas.device)
        if len(masks):
            here = areas == area
            few |= here
            _put(found, here, _count(score, masks, rows[here]))
    if (~few).any():
        warm = None if start is None else start[~few]
        until = None if enough is None else enough._replace(level=enough.level[~few])
        _put(found, ~few, _search(score, family, areas[~few], rows[~few], settings, warm, steps, seed, until))
    return found


def _put(found: Found, where: Bool[Tensor, "P"], part: Found) -> None:
    for whole, values in zip(found, part, strict=True):
        whole[where] = values.to(whole.dtype)


def _count(score: Score, masks: Bool[Tensor, "S K"], rows: Int[Tensor, "R"]) -> Found:
    """The best of all masks for each row; among equals the first."""
    tried = masks.float().repeat(len(rows), 1)
    rewards = score(tried, rows.repeat_interleave(len(masks)), False).reward.view(len(rows), len(masks))
    best = rewards.argmax(1)
    spent = torch.full(rows.shape, len(masks) / FORWARDS, device=rows.device)
    return Found(masks[best], rewards.gather(1, best[:, None])[:, 0], spent)


def _search(score: Score, family: Sets, areas: Tensor, rows: Tensor, settings: ExactSearch, start: Tensor | None, steps: int,
            seed: int, enough: Enough | None) -> Found:
    if start is None:
        before = settings.relaxed_steps
        values, seen = ascend([score], family, areas, rows, settings, steps=settings.relaxed_steps)
        masks = family.binary(family.project(values, areas), areas)
        left = 1.0
    else:
        before = 1
        masks, seen = _cut(score, family, areas, rows, start, settings)
        steps -= 1
        left = min(1.0, steps / settings.binary_steps)  # a warm start enters the schedule where this many steps are left
    found = _exchanges(score, areas, rows, masks, seen, steps, left, settings, seed, enough)
    return found._replace(evaluations=found.evaluations + before)


def _cut(score: Score, family: Sets, areas: Tensor, rows: Tensor, start: Tensor, settings: ExactSearch) -> tuple[Tensor, Seen]:
    """The members of the start that its own slopes call worthiest: a cut to a smaller area is not by channel number."""
    slopes = standardised(score(start, rows, True).gradient)
    last = slopes.amin(1, keepdim=True) - 1  # below every member
    return family.binary(torch.where(start > 0, slopes, last), areas), Seen.nothing(start).add(start, slopes, settings.memory)


def _exchanges(score: Score, areas: Tensor, rows: Tensor, masks: Tensor, seen: Seen, steps: int, left: float, settings: ExactSearch,
               seed: int, enough: Enough | None) -> Found:
    """The best of the binary masks met on a walk of ever smaller exchanges; pairs that have enough leave it."""
    generator = torch.Generator().manual_seed(seed)
    going = torch.arange(len(areas), device=areas.device)
    best = Found(masks.clone(), torch.full(areas.shape, -torch.inf, device=areas.device), torch.zeros(areas.shape, device=areas.device))
    for step in range(steps):
        scored = score(masks.float(), rows[going], True)
        best.evaluations[going] += 1
        better = scored.reward > best.rewards[going]
        best.masks[going[better]], best.rewards[going[better]] = masks[better], scored.reward[better]
        if step == steps - 1:
            break
        seen = seen.add(masks.float(), standardised(scored.gradient), settings.memory)
        if enough is not None and (done := _done(best, going, rows, better, enough)).any():
            going, masks, seen = going[~done], masks[~done], Seen(seen.slopes[:, ~done], seen.times[:, ~done])
            if not len(going):
                break
        share = left * (1 - (step + 1) / steps)
        noise = settings.exploration * share * torch.randn(masks.shape[1], generator=generator).to(masks.device)
        room = torch.minimum(areas[going], masks.shape[1] - areas[going])
        count = (settings.exchange * share * room).round().clamp(min=1)
        masks = exchanged(masks, standardised(seen.worth()) + noise, count)
    return best


def _done(best: Found, going: Tensor, rows: Tensor, better: Tensor, enough: Enough) -> Bool[Tensor, "G"]:
    """Which of the pairs still searched have enough; a look at one costs a forward."""
    level = enough.level[going]
    look = better & (best.rewards[going] >= level - NEAR * level.abs().clamp(min=1))
    pairs = going[look]
    done = torch.zeros_like(look)
    if len(pairs):
        done[look] = enough.reaches(best.masks[pairs], rows[pairs])
        best.evaluations[pairs] += 1 / FORWARDS
    return done


def exchanged(masks: Bool[Tensor, "P K"], worth: Float[Tensor, "P K"], counts: Float[Tensor, "P"]) -> Bool[Tensor, "P K"]:
    """The masks with at most `counts` of the least worthy members exchanged for as many worthier others; ties stay as they are."""
    members = torch.where(masks, worth, torch.inf).sort(dim=1, stable=True)
    others = torch.where(masks, -torch.inf, worth).sort(dim=1, descending=True, stable=True)
    place = torch.arange(masks.shape[1], device=masks.device)
    gains = (others.values > members.values) & (place < counts[:, None])
    nobody = torch.zeros_like(masks)
    return (masks & ~nobody.scatter(1, members.indices, gains)) | nobody.scatter(1, others.indices, gains)
