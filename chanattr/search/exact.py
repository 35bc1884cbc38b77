"""The default search: every mask holds its area exactly, first relaxed, then binary, over a row's areas from large to small and back."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chanattr.search.ascent import ascend
from chanattr.search.family import Sets
from chanattr.search.objective import Score
from chanattr.search.worth import Past, Seen, standardised
from chanattr.settings import ExactSearch

FORWARDS = 3  # that cost as much as one evaluation with its gradient
APART = 1.3  # ratio of areas from which each has all its evaluations; the sets of closer ones are nearly found by their neighbours
WARM = 0.5  # of ``settings.exchange`` where a walk goes on: it begins at a set that is good already
FIRST = 0.6  # of an even share of an area's evaluations are spent in the first sweep, which knows least; one or two members have all of it
LEAST = 5  # evaluations of an area in one sweep; settings of fewer are gone over in fewer sweeps
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
    relaxed phase follows the slopes by projected ascent while the area is annealed from everything down to the row's largest; then masks
    are binary, and at each step the least worthy members are exchanged for worthier others: many at first, one at the end. What a channel
    is worth is told by the slopes seen with it in *and* with it out, the newest and those of sets like this one before others
    (`chanattr.search.worth`), with some noise at first; before an exchange the channels in question are seen halfway, partly in and partly
    out (`softened`), where slopes tell what the exchange will do. The best binary mask seen is kept (its score comes with each
    evaluation). Of the sets of one member, and on the way down of two, those of the worthiest are tried, each by a forward.

    The areas of a row are one walk, ``settings.sweeps`` times over them: from the largest down, then up again, and so on. An area's best
    set, cut or grown to the next area by what its channels are worth, is where that area goes on, with all that was seen of the slopes.
    Areas closer than a ratio of `APART` have fewer evaluations (`visits`). So answers depend on the areas that a row is asked for
    together, and on no other row.

    Args:
        score: what is maximised.
        family: the kind of mask.
        areas: exact area of each pair.
        rows: image or class of each pair.
        settings: resolved by ``family.resolve``.
        start: masks to start from, of areas at or above those asked; the first slopes are taken at them.
        steps: evaluations after a `start`, in place of ``settings.binary_steps``.
        seed: of the noise, which is the same for every row.
        enough: a pair whose set is so is not searched on, where only a* is wanted, and every pair is a walk of its own; None spends all
            evaluations.

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
    found = _blank(family, areas)
    few = torch.zeros_like(areas, dtype=torch.bool)
    for area in areas.unique().tolist():
        masks = family.every(area, FORWARDS * (relaxed + steps)).to(areas.device)
        if len(masks):
            here = areas == area
            few |= here
            _put(found, here, _best_of(score, masks.expand(int(here.sum()), -1, -1), rows[here]))
    if (~few).any():
        warm = None if start is None else start[~few]
        until = None if enough is None else enough._replace(level=enough.level[~few])
        _put(found, ~few, _search(score, family, areas[~few], rows[~few], settings, warm, steps, seed, until))
    return found


def _blank(family: Sets, areas: Int[Tensor, "P"]) -> Found:
    """Room for what is found of all pairs."""
    nothing = torch.zeros(len(areas), device=areas.device, dtype=torch.float32)
    return Found(torch.zeros(len(areas), family.size, dtype=torch.bool, device=areas.device), nothing, nothing.clone())


def _put(found: Found, where: Bool[Tensor, "P"] | Int[Tensor, "S"], part: Found) -> None:
    for whole, values in zip(found, part, strict=True):
        whole[where] = values.to(whole.dtype)


def _best_of(score: Score, masks: Bool[Tensor, "R S K"], rows: Int[Tensor, "R"]) -> Found:
    """The best of some masks of each row, by forwards alone; among equals the first."""
    rewards = score(masks.flatten(0, 1).float(), rows.repeat_interleave(masks.shape[1]), False).reward.view(masks.shape[:2])
    best = rewards.argmax(1)
    spent = torch.full(rows.shape, masks.shape[1] / FORWARDS, device=rows.device, dtype=torch.float32)
    return Found(masks[torch.arange(len(rows), device=rows.device), best], rewards.gather(1, best[:, None])[:, 0], spent)


def _search(score: Score, family: Sets, areas: Tensor, rows: Tensor, settings: ExactSearch, start: Tensor | None, steps: int,
            seed: int, enough: Enough | None) -> Found:
    if start is None:
        return _walks(score, family, areas, rows, settings, seed, enough)
    slopes = standardised(score(start, rows, True).gradient)
    past = Past(Seen.nothing(start), settings.memory, steps)
    past.add(start, slopes)
    here = Here(_resized(family, start > 0, slopes, areas), past, None)
    left = min(1.0, (steps - 1) / settings.binary_steps)  # a warm start enters the schedule where this many steps are left
    found = _exchanges(score, areas, rows, here, steps - 1, left, settings, torch.Generator().manual_seed(seed), enough)
    return found._replace(evaluations=found.evaluations + 1)


def _walks(score: Score, family: Sets, areas: Tensor, rows: Tensor, settings: ExactSearch, seed: int, enough: Enough | None) -> Found:
    """A walk over the areas of each row, or each pair a walk; rows of the same visits walk side by side."""
    owners = rows if settings.sweeps and enough is None else torch.arange(len(areas), device=areas.device)
    downwards = areas.argsort(descending=True, stable=True)
    order = downwards[owners[downwards].argsort(stable=True)]
    lengths = torch.bincount(owners)[owners]
    found = _blank(family, areas)
    for length in lengths.unique().tolist():
        pairs = order[lengths[order] == length].view(-1, length)
        ways = [tuple(visits(row, settings)) for row in areas[pairs].tolist()]
        for way in dict.fromkeys(ways):
            alike = pairs[torch.tensor([one == way for one in ways], device=pairs.device)]
            until = None if enough is None else enough._replace(level=enough.level[alike[:, 0]])
            for place, part in enumerate(_walk(score, family, areas[alike], rows[alike[:, 0]], way, settings, seed, until)):
                _put(found, alike[:, place], part)
    return found


def _walk(score: Score, family: Sets, areas: Int[Tensor, "R A"], rows: Int[Tensor, "R"], way: Sequence[Visit], settings: ExactSearch,
          seed: int, enough: Enough | None) -> list[Found]:
    """The best masks of each place among decreasing `areas`."""
    found: list[Found | None] = [None] * areas.shape[1]
    generator, last, past = torch.Generator().manual_seed(seed), None, None
    for place, steps, left, counted in way:
        area, before = areas[:, place], 0
        if last is None or past is None:
            before = steps * settings.relaxed_steps // (settings.relaxed_steps + settings.binary_steps)
            values, seen = ascend([score], family, area, rows, settings, steps=before)
            masks = family.binary(family.project(values, area), area)
            past = Past(seen, settings.memory, max(1, sum(visit.steps for visit in way if not visit.counted) - before))
        else:
            masks = _resized(family, last.masks, past.worth(last.masks), area)
        if counted:
            last = _best_of(score, _worthiest(past.worth(masks), counted, FORWARDS * (steps - before)), rows)
            last = last if (earlier := found[place]) is None else _better(earlier, last)
        else:
            here = Here(masks, past, found[place])
            paced = settings if last is None else dataclasses.replace(settings, exchange=WARM * settings.exchange)
            last = _exchanges(score, area, rows, here, steps - before, left, paced, generator, enough)
        found[place] = last = last._replace(evaluations=last.evaluations + before)
    return [one for one in found if one is not None]


def _worthiest(worth: Float[Tensor, "R K"], area: int, most: int) -> Bool[Tensor, "R S K"]:
    """All sets of `area` members among the worthiest, of whom there are as many as `most` sets allow."""
    pool = max(size for size in range(area, worth.shape[1] + 1) if math.comb(size, area) <= most)
    tried = worth.argsort(dim=1, descending=True, stable=True)[:, torch.tensor(list(itertools.combinations(range(pool), area)))]
    return torch.zeros(*tried.shape[:2], worth.shape[1], dtype=torch.bool, device=worth.device).scatter(2, tried, True)


class Visit(NamedTuple):
    """A stop of a walk over decreasing areas.

    Attributes:
        place: of its area among them.
        steps: evaluations there.
        left: how much of the schedule is left at first.
        counted: sets of this many of the worthiest are tried, each by a forward, which tells what one or two members do alone; slopes at
            other sets do not. 0 makes exchanges.
    """

    place: int
    steps: int
    left: float
    counted: int


def visits(areas: Sequence[int], settings: ExactSearch) -> list[Visit]:
    """The way of a walk over decreasing areas.

    The first sweep has fewer evaluations (`FIRST`). Where a sweep turns, its last area goes on without a break. Sets of one member are
    counted out among the worthiest, sets of two on the way down, where a larger area has told of the slopes. An area that lies close
    below another has fewer evaluations, as the logarithm of their ratio: the cost of a walk grows with how far it goes, not with its
    stops.

    Example:
        >>> from chanattr.search.family import CHANNEL_EXACT
        >>> [(place, steps) for place, steps, *_ in visits((64, 16, 4), CHANNEL_EXACT)]
        [(0, 12), (1, 12), (2, 40), (1, 28), (0, 28)]
        >>> [(place, steps) for place, steps, *_ in visits((50, 45, 40), CHANNEL_EXACT)]
        [(0, 12), (1, 5), (2, 18), (1, 11), (0, 28)]
    """
    each = settings.relaxed_steps + settings.binary_steps
    sweeps = max(1, min(settings.sweeps, each // LEAST))
    closer = [round(each * math.log(larger / area) / math.log(APART)) for larger, area in itertools.pairwise(areas)]
    budgets = [each, *(min(each, max(2 * sweeps, steps)) for steps in closer)]  # two a sweep at least
    way: list[Visit] = []
    for sweep in range(sweeps):
        left = 1 - sweep / sweeps
        for place in range(len(areas)) if sweep % 2 == 0 else reversed(range(len(areas))):
            few = areas[place] == 1 or (areas[place] == 2 and place > 0 and sweep % 2 == 0)
            counted = areas[place] if settings.sweeps and few else 0
            steps = _share(budgets[place], sweep, sweeps, FIRST if areas[place] > 2 else 1)
            if way and way[-1].place == place and way[-1].counted == counted:
                way[-1] = way[-1]._replace(steps=way[-1].steps + steps)
            else:
                way.append(Visit(place, steps, left, counted))
    return way


def _share(budget: int, sweep: int, sweeps: int, first: float) -> int:
    """Of an area's evaluations those of one sweep: in the first so much of an even share, in the others all the rest, evenly."""
    if sweeps == 1:
        return budget
    begun = round(first * budget / sweeps)
    return begun if sweep == 0 else (budget - begun) * sweep // (sweeps - 1) - (budget - begun) * (sweep - 1) // (sweeps - 1)


def _resized(family: Sets, members: Bool[Tensor, "P K"], worth: Float[Tensor, "P K"], areas: Int[Tensor, "P"]) -> Bool[Tensor, "P K"]:
    """The worthiest of the members, or all of them and the worthiest others: no cut is by channel number."""
    span = worth.amax(1, keepdim=True) - worth.amin(1, keepdim=True) + 1
    return family.binary(torch.where(members, worth, worth - span), areas)


class Here(NamedTuple):
    """Where a walk of exchanges begins: at `masks`, with what was seen in the `past`, and with what an earlier visit `found`."""

    masks: Bool[Tensor, "P K"]
    past: Past
    found: Found | None


def _exchanges(score: Score, areas: Tensor, rows: Tensor, here: Here, steps: int, left: float, settings: ExactSearch,
               generator: torch.Generator, enough: Enough | None) -> Found:
    """The best of the binary masks met on a walk of ever smaller exchanges; what is seen goes to the past; pairs that have enough leave.

    Where an earlier visit found better than `masks`, the walk goes on from that.
    """
    masks, past, earlier = here
    going = torch.arange(len(areas), device=areas.device)
    nothing = torch.zeros(areas.shape, device=areas.device, dtype=torch.float32)
    best = earlier or Found(masks.clone(), nothing - torch.inf, nothing)
    step = 0
    while step < steps:
        scored = score(masks.float(), rows[going], True)
        best.evaluations[going] += 1
        better = scored.reward > best.rewards[going]
        best.masks[going[better]], best.rewards[going[better]] = masks[better], scored.reward[better]
        past.add(masks.float(), standardised(scored.gradient))
        step += 1
        if step == steps:
            break
        if step == 1 and earlier is not None:
            masks = best.masks[going]
        if enough is not None and (done := _done(best, going, rows, better, enough)).any():
            going, masks = going[~done], masks[~done]
            past.keep(~done)
            if not len(going):
                break
        share = left * (1 - step / steps)
        noise = settings.exploration * share * torch.randn(masks.shape[1], generator=generator, dtype=torch.float32).to(masks.device)
        room = torch.minimum(areas[going], masks.shape[1] - areas[going]).float()
        count = (settings.exchange * share * room).round().clamp(min=1)
        if settings.border and step + 3 <= steps:  # the last two exchanges follow masks without a border
            between = softened(masks, standardised(past.worth(masks)) + noise, torch.minimum(settings.border * count, room))
            past.add(between, standardised(score(between, rows[going], True).gradient))
            best.evaluations[going] += 1
            step += 1
        masks = exchanged(masks, standardised(past.worth(masks)) + noise, count)
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
    members, others = _ranked(masks, worth)
    place = torch.arange(masks.shape[1], device=masks.device)
    gains = (others.values > members.values) & (place < counts[:, None])
    nobody = torch.zeros_like(masks)
    return (masks & ~nobody.scatter(1, members.indices, gains)) | nobody.scatter(1, others.indices, gains)


def softened(masks: Bool[Tensor, "P K"], worth: Float[Tensor, "P K"], widths: Float[Tensor, "P"]) -> Float[Tensor, "P K"]:
    """The masks falling from one to zero across the border of the set, of the same area.

    The `widths` least worthy members and as many of the worthiest others lie between, in the order of their worth: the least worthy
    member is a little above a half, the worthiest other a little below.
    """
    place = torch.arange(masks.shape[1], device=masks.device, dtype=worth.dtype)
    outside = 0.5 - 0.5 * ((place + 0.5) / widths[:, None]).clamp(max=1)
    members, others = _ranked(masks, worth)
    nothing = torch.zeros_like(worth)
    return torch.where(masks, nothing.scatter(1, members.indices, 1 - outside), nothing.scatter(1, others.indices, outside))


def _ranked(masks: Bool[Tensor, "P K"], worth: Float[Tensor, "P K"]) -> tuple[torch.return_types.sort, torch.return_types.sort]:
    """The members, the least worthy first, and the others, the worthiest first; the rest of each row comes last."""
    return (torch.where(masks, worth, torch.inf).sort(dim=1, stable=True),
            torch.where(masks, -torch.inf, worth).sort(dim=1, descending=True, stable=True))
