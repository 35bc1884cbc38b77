"""Certificates of a* sets: every member dropped, exchanges of one member, and all smaller sets counted out where they are few."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chanattr.search.family import Sets
from chanattr.search.objective import TOLERANCE
from chanattr.settings import SEED

EXCHANGES = 2000  # tried of a row at most
SETS = 4096  # counted out of a row at most: all sets of 12 members
ENTRIES = 2**26  # of the masks that are handed to a judge at once


class Verdict(NamedTuple):
    """What the definition says of P binary masks: how good they are (larger is better, in every game), and whether they reach."""

    worth: Float[Tensor, "P"]
    reaches: Bool[Tensor, "P"]


Judge = Callable[[Bool[Tensor, "P K"], Int[Tensor, "P"]], Verdict]


class Pruned(NamedTuple):
    """Irreducible sets of N rows, and the masks that were judged for each."""

    masks: Bool[Tensor, "N K"]
    judged: Int[Tensor, "N"]


class Exchanges(NamedTuple):
    """Of N rows: the largest gain by one exchange (0: none found), the share of all exchanges tried, and the masks judged."""

    gain: Float[Tensor, "N"]
    share: Float[Tensor, "N"]
    judged: Int[Tensor, "N"]


class Optimum(NamedTuple):
    """Of N rows: the smallest set known, what is proved of it (`Certified.optimal`), and the masks judged."""

    masks: Bool[Tensor, "N K"]
    proved: Int[Tensor, "N"]
    judged: Int[Tensor, "N"]


class Certified(NamedTuple):
    """a* of N rows after its certification, and what that found; fields as in `chanattr.records.ImageAttribution`.

    `judged` counts the masks that the judge saw for each row.
    """

    area: Int[Tensor, "N"]
    mask: Bool[Tensor, "N K"]
    irreducible: Int[Tensor, "N"]
    pruned: Int[Tensor, "N"]
    swap_gain: Float[Tensor, "N"]
    swap_share: Float[Tensor, "N"]
    optimal: Int[Tensor, "N"]
    judged: Int[Tensor, "N"]


def certify(areas: Int[Tensor, "N"], masks: Bool[Tensor, "N K"], family: Sets, judge: Judge, *, exchanges: int = EXCHANGES,
            sets: int = SETS, seed: int = SEED) -> Certified:
    """a* sets made as small as can be proved, and their certificates.

    Members that need not be there are dropped, until each is needed. Then all sets of 1, 2, ... members are counted out while they are at
    most `sets` together: the smallest that reaches takes the place of a* (its best one, by the score). Then exchanges are tried.

    Args:
        areas, masks: a* as found; rows without one (areas below 0), or whose set does not reach, have no certificate.
        family: the kind of mask.
        judge: by the definition (float32), of masks [P, K] for rows [P].
        exchanges: tried a row at most; a sample where there are more.
        sets: counted out a row at most.
        seed: of that sample, the same for every row: no answer depends on what is certified beside it.
    """
    found = (areas >= 0) & judge(masks, torch.arange(len(masks), device=masks.device)).reaches
    small = prune(masks & found[:, None], judge)
    best = count_out(small.masks, found, family, judge, sets)
    swaps = exchange(best.masks, judge, most=exchanges, seed=seed)
    size = best.masks.sum(1)
    return Certified(
        area=torch.where(found, size, areas), mask=torch.where(found[:, None], best.masks, masks), irreducible=torch.where(found, 1, -1),
        pruned=torch.where(found, areas - size, 0),
        swap_gain=swaps.gain.masked_fill(~found, torch.nan), swap_share=swaps.share.masked_fill(~found, torch.nan),
        optimal=torch.where(found, best.proved, -1), judged=1 + small.judged + best.judged + swaps.judged)


def irreducible(masks: Bool[Tensor, "N K"], judge: Judge) -> Bool[Tensor, "N"]:
    """Whether no member of a row's set can be dropped and the rest still reaches: all members of all rows tried in one go."""
    rows, members = torch.nonzero(masks, as_tuple=True)
    free = torch.zeros(len(masks), dtype=torch.bool, device=masks.device)
    free[rows[_changed(masks, rows, members, None, judge).reaches]] = True
    return ~free


def prune(masks: Bool[Tensor, "N K"], judge: Judge) -> Pruned:
    """The sets with members dropped one by one until each is needed, all rows side by side.

    Each round tries every member of every row that is still reducible, and drops the one without which the score is best, of those
    without which the set still reaches; ties go to the lower number. So what comes back is irreducible by exhaustion.

    Args:
        masks: sets that reach; an empty one stays.
        judge: by the definition.
    """
    masks, judged = masks.clone(), torch.zeros(len(masks), dtype=torch.long, device=masks.device)
    going = torch.nonzero(masks.any(1))[:, 0]
    while len(going):
        place, members = torch.nonzero(masks[going], as_tuple=True)
        rows = going[place]
        judged += torch.bincount(rows, minlength=len(masks))
        verdict = _changed(masks, rows, members, None, judge)
        worth = torch.full(masks.shape, -torch.inf, dtype=verdict.worth.dtype, device=masks.device)
        worth[rows, members] = torch.where(verdict.reaches, _finite(verdict.worth), -torch.inf)
        best, member = worth[going].max(1)
        going, member = going[best > -torch.inf], member[best > -torch.inf]
        masks[going, member] = False
        going = going[masks[going].any(1)]
    return Pruned(masks, judged)


def exchange(masks: Bool[Tensor, "N K"], judge: Judge, *, most: int = EXCHANGES, seed: int = SEED) -> Exchanges:
    """The largest gain in worth by exchanging one member for one that is not, over exchanges after which the set still reaches.

    Args:
        masks: sets.
        judge: by the definition.
        most: exchanges tried a row; where there are more, so many are drawn without repetition.
        seed: of the draw.
    """
    count = len(masks)
    pairs = [_pairs(mask, most, seed) for mask in masks]
    tried = torch.tensor([len(dropped) for dropped, _ in pairs], device=masks.device)
    rows = torch.arange(count, device=masks.device).repeat_interleave(tried)
    now = judge(masks, torch.arange(count, device=masks.device)).worth
    gain = torch.zeros_like(now)
    if len(rows):
        verdict = _changed(masks, rows, torch.cat([dropped for dropped, _ in pairs]), torch.cat([added for _, added in pairs]), judge)
        better = torch.where(verdict.reaches, verdict.worth - now[rows], 0).nan_to_num(nan=0)
        gain = gain.scatter_reduce(0, rows, better, "amax")
    total = masks.sum(1) * (~masks).sum(1)
    share = torch.where(total > 0, tried / total.clamp(min=1), 1)
    return Exchanges(gain, share, tried + 1)


def count_out(masks: Bool[Tensor, "N K"], found: Bool[Tensor, "N"], family: Sets, judge: Judge, most: int = SETS) -> Optimum:
    """The smallest set that reaches, proved by trying all of 1, 2, ... members, as far as they are at most `most` together.

    A row is done with at the first size of which some set reaches. The set of no members is known not to reach where a* is not 0.

    Args:
        masks: sets that reach, of any size.
        found: rows that have one.
        family: whose sets are counted out.
        judge: by the definition.
        most: sets a row.
    """
    masks, sizes = masks.clone(), masks.sum(1)
    proved, judged = torch.where(sizes == 0, 2, torch.where(sizes == 1, 1, -1)), torch.zeros_like(sizes)
    going = torch.nonzero(found & (sizes > 0))[:, 0]
    size, left = 1, most
    while len(going) and len(sets := family.every(size, left).to(masks.device)):
        judged[going] += len(sets) + 1
        now = judge(masks[going], going).worth
        verdict = _every(sets, going, judge)
        worth = torch.where(verdict.reaches, _finite(verdict.worth), -torch.inf)
        best, number = worth.max(1)
        same, some = sizes[going] == size, best > -torch.inf
        better = some & (~same | (best > now + TOLERANCE * now.abs().clamp(min=1)))
        masks[going[better]] = sets[number[better]]
        proved[going] = torch.where(same | some, 2, torch.where(sizes[going] == size + 1, 1, -1))
        going = going[~(same | some)]
        size, left = size + 1, left - len(sets)
    return Optimum(masks, proved, judged)


def _pairs(mask: Bool[Tensor, "K"], most: int, seed: int) -> tuple[Int[Tensor, "E"], Int[Tensor, "E"]]:
    """Members to drop and others to take in: all pairs, or `most` of them drawn at random."""
    members, others = torch.nonzero(mask)[:, 0], torch.nonzero(~mask)[:, 0]
    total = len(members) * len(others)
    chosen = torch.arange(total)
    if total > most:
        chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:most]
    chosen = chosen.to(mask.device)
    return members[chosen // max(1, len(others))], others[chosen % max(1, len(others))]


def _changed(masks: Bool[Tensor, "N K"], rows: Int[Tensor, "P"], dropped: Int[Tensor, "P"], added: Int[Tensor, "P"] | None,
             judge: Judge) -> Verdict:
    """Verdicts on the sets of `rows` without one member each, and with another where `added` names it; in blocks, for their memory."""
    parts = []
    for part in torch.arange(len(rows), device=rows.device).split(max(1, ENTRIES // masks.shape[1])):
        tried, place = masks[rows[part]], torch.arange(len(part), device=rows.device)
        tried[place, dropped[part]] = False
        if added is not None:
            tried[place, added[part]] = True
        parts.append(judge(tried, rows[part]))
    return Verdict(*(torch.cat(figures) for figures in zip(*parts, strict=True)))


def _every(sets: Bool[Tensor, "S K"], rows: Int[Tensor, "R"], judge: Judge) -> Verdict:
    """Verdicts on all sets for each row, [R, S]."""
    parts = [judge(sets.repeat(len(part), 1), part.repeat_interleave(len(sets))) for part in rows.split(max(1, ENTRIES // sets.numel()))]
    return Verdict(*(torch.cat(figures).view(len(rows), len(sets)) for figures in zip(*parts, strict=True)))


def _finite(worth: Tensor) -> Tensor:
    """The worth of sets with no infinity in it, which marks those that do not reach."""
    return worth.nan_to_num(nan=torch.finfo(worth.dtype).min)
