"""A question put to a network: masks searched over rows and areas, judged by the definition, and the smallest that reaches."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chanattr.attribution.inputs import check_finite
from chanattr.attribution.question import Question
from chanattr.attribution.score import Fill, Judged, Logits, NetworkScore, zeros
from chanattr.network.batches import anchor_of, needed_by
from chanattr.network.fast import FastTail, fast
from chanattr.network.inputs import outline
from chanattr.network.outputs import Inputs
from chanattr.network.stem import Stem
from chanattr.network.tail import Tail
from chanattr.search.exact import Enough, Found, exact
from chanattr.search.objective import images_per_evaluation, level_of, play, reached
from chanattr.search.penalty import penalty
from chanattr.search.smallest import Smallest, bracket, on_grid, refine
from chanattr.settings import ExactSearch, area_grid


class Asking(NamedTuple):
    """What is maximised over R rows, and what to reach: scores with everything and with nothing, the level between, top-1 shares."""

    score: NetworkScore
    question: Question
    original: Float[Tensor, "R"]
    empty: Float[Tensor, "R"]
    level: Float[Tensor, "R"]
    named: Float[Tensor, "R"]


def make_asking(question: Question, tail: Tail, stem: Stem, targets: Int[Tensor, "N"], fill: Fill,
                members: tuple[Tensor, ...] | None = None) -> Asking:
    """A question about channels: their sets scored over `members`; None is an image a row."""
    values, spread = fill.taken(targets.device), question.family.spread

    def logits(tail: Tail | FastTail, stem: Stem, masks: Tensor, images: Tensor) -> Tensor:
        return tail.logits(stem, spread(masks), images, values)

    return ask(question, tail, stem, targets, members, logits, question.family.size)


def ask(question: Question, tail: Tail, stem: Stem, targets: Int[Tensor, "N"], members: tuple[Tensor, ...] | None, logits: Logits,
        entries: int) -> Asking:
    """A score of masks with so many entries over `members`, its scores with everything and with nothing, and the level in between."""
    members = one_a_row(targets) if members is None else members
    at_once = masks_at_once(tail, stem, question.batch_size, question.memory_budget)
    quick = fast(tail, stem, precision=question.precision, evaluations=question.evaluations, at_once=at_once)
    quick_stem = quick.prepare(stem) if isinstance(quick, FastTail) else stem
    score = NetworkScore(tail=tail, stem=stem, quick=quick, quick_stem=quick_stem, logits=logits, targets=targets,
                         reward=question.reward, members=members,
                         batch_size=masks_at_once(quick, quick_stem, question.batch_size, question.memory_budget))
    rows = torch.arange(len(members), device=targets.device)
    every = torch.ones(len(members), entries, device=targets.device, dtype=torch.float32)
    whole = score.judge(every, rows)
    full, none = whole.score, score.judge(0 * every, rows).score
    if question.settings.game == "dual":
        full, none = full - none, none - full
    return Asking(score, question, full, none, level_of(question.settings.level, full, none), whole.top1)


def ask_predicted(question: Question, tail: Tail, images: Inputs) -> Asking:
    """The question about the class that the network predicts for each of some images, dropped channels being zero."""
    stem = tail.stem(images)
    goal = stem.logits.argmax(1)
    return make_asking(question, tail, stem, goal, zeros(tail.layer))


def some_rows(asking: Asking, rows: Int[Tensor, "S"]) -> Asking:
    """The same question for some of its rows."""
    members = tuple(asking.score.members[row] for row in rows.tolist())
    return asking._replace(score=dataclasses.replace(asking.score, members=members), original=asking.original[rows],
                           empty=asking.empty[rows], level=asking.level[rows], named=asking.named[rows])


def one_a_row(targets: Int[Tensor, "N"]) -> tuple[Tensor, ...]:
    """The members of rows that have an image each."""
    return tuple(torch.arange(len(targets), device=targets.device)[:, None])


def masks_at_once(tail: Tail | FastTail, stem: Stem, batch_size: int, budget: int | None) -> int:
    """Masked images run together: as many as asked, or fewer where a budget of memory holds fewer, but one at least."""
    return batch_size if budget is None else max(1, min(batch_size, budget // mask_bytes(tail, stem)))


def mask_bytes(tail: Tail | FastTail, stem: Stem) -> int:
    """Bytes that a masked image needs on its way through a tail, forward and backward."""

    def run(count: int) -> Tensor:
        masks = torch.ones(count, tail.layer.channels, device=stem.logits.device, requires_grad=True, dtype=torch.float32)
        return tail.logits(stem, masks, torch.zeros(count, dtype=torch.long, device=masks.device))

    with torch.inference_mode(False):
        return needed_by(anchor_of(tail), run, (tail.layer.name, tuple(stem.activation.shape[1:]), outline(stem.images)))


def check_ends(asking: Asking, names: Sequence[str], unit: str = "image") -> None:
    """Refuses rows whose score with every channel or with none is not finite.

    Raises:
        ModelError: so; names the rows.
    """
    check_finite(asking.original, names, "rewards with every channel", unit=unit, remedy="check the reward and the precision of the model")
    check_finite(asking.empty, names, "scores with every channel dropped", unit=unit,
                 remedy="drop channels to another fill, such as fill='mean', or choose another layer")


def search_grid(asking: Asking, grid: Int[Tensor, "A"]) -> tuple[Bool[Tensor, "R A K"], Float[Tensor, "R"]]:
    """The best masks of every row and area, rows searched side by side; the full area needs no search."""
    family, settings = asking.question.family, asking.question.settings
    rows, areas = len(asking.original), grid.repeat(len(asking.original))
    row = torch.arange(rows, device=grid.device).repeat_interleave(len(grid))
    masks = torch.ones(len(areas), family.size, dtype=torch.bool, device=grid.device)
    spent = torch.zeros(len(areas), device=grid.device, dtype=torch.float32)
    open_ = torch.nonzero(areas < family.size)[:, 0]
    if len(open_):
        found = search_pairs(asking, areas[open_], row[open_])
        masks[open_], spent[open_] = found.masks, found.evaluations
    cost = images_per_evaluation(settings.game)
    return masks.view(rows, len(grid), family.size), cost * spent.view(rows, len(grid)).sum(1)


def search_pairs(asking: Asking, areas: Int[Tensor, "P"], rows: Int[Tensor, "P"], start: Float[Tensor, "P K"] | None = None, *,
                 level: Float[Tensor, "R"] | None = None) -> Found:
    """The question's own search, over pairs.

    Args:
        asking: whose rows they are.
        areas, rows: of each pair.
        start: sets to begin from.
        level: reward of each row at which its search is over; None spends all evaluations. The paper's knows neither starts nor levels.
    """
    settings, family = asking.question.settings, asking.question.family
    score = play(asking.score, settings.game)
    if not isinstance(settings.search, ExactSearch):
        return penalty(score, family, areas, rows, settings.search)
    enough = None if level is None else Enough(level[rows], functools.partial(reaches_level, asking))
    return exact(score, family, areas, rows, settings.search, start=start, seed=settings.seed, enough=enough)


def find_smallest(asking: Asking, grid: Int[Tensor, "A"], masks: Bool[Tensor, "R A K"], reached_at: Bool[Tensor, "R A"]) -> Smallest:
    """a* on the grid, refined where the settings say so; without a grid, bracketed first."""
    settings, family = asking.question.settings, asking.question.family
    count = len(asking.original)
    rows = torch.arange(count, device=grid.device)
    nothing = torch.zeros(count, family.size, dtype=torch.bool, device=grid.device)
    empty_reached = reaches_level(asking, nothing, rows)
    level, judged = level_reward(asking), functools.partial(reaches_level, asking)
    if len(grid):
        found = on_grid(grid, masks, reached_at, empty_reached)
    else:
        grid = torch.tensor(area_grid(family.size), device=rows.device)
        found = bracket(grid, empty_reached, ~nothing, functools.partial(search_pairs, asking, level=level), judged)
    if not settings.refine:
        return found
    steps = settings.search if isinstance(settings.search, ExactSearch) else ExactSearch()
    score = play(asking.score, settings.game)
    better = refine(found, grid, score, family, steps, judged, seed=settings.seed, level=None if settings.areas else level)
    return better._replace(evaluations=images_per_evaluation(settings.game) * better.evaluations)


def level_reward(asking: Asking) -> Float[Tensor, "R"]:
    """The level as a reward of the game; minus infinity where it is none: being the top class."""
    if asking.question.settings.level == "top1":
        return torch.full_like(asking.level, -torch.inf)
    return -asking.level if asking.question.settings.game == "delete" else asking.level


def judge(asking: Asking, masks: Bool[Tensor, "P K"] | Float[Tensor, "P K"], rows: Int[Tensor, "P"]) -> Judged:
    """Float32 figures of masks: *preserve* kept, *delete* dropped, *dual* the difference (top-1 of the kept half)."""
    game, kept = asking.question.settings.game, masks.float()
    main = asking.score.judge(1 - kept if game == "delete" else kept, rows)
    return main._replace(score=main.score - asking.score.judge(1 - kept, rows).score) if game == "dual" else main


def judge_sets(asking: Asking, masks: Bool[Tensor, "R A K"]) -> Judged:
    """The same of every row's masks, figures [R, A]."""
    rows = torch.arange(len(masks), device=masks.device).repeat_interleave(masks.shape[1])
    return Judged(*(figures.view(masks.shape[:2]) for figures in judge(asking, masks.flatten(0, 1), rows)))


def reaches(asking: Asking, scores: Tensor, top1: Tensor, rows: Tensor | None = None) -> Tensor:
    """Whether figures reach their rows' level; with "top1" whether the target is (*delete*: is no longer) the top class.

    Args:
        asking: whose rows they are.
        scores, top1: from `judge`, or from `judge_sets`.
        rows: of each figure; None is as `judge_sets` gives them, [R, A].
    """
    settings = asking.question.settings
    if rows is None:
        rows = torch.arange(len(scores), device=scores.device)[:, None].expand_as(scores)
    if settings.level == "top1":
        return top1 <= 0 if settings.game == "delete" else (top1 >= asking.named[rows]) & (top1 > 0)
    return reached(scores, asking.level[rows], settings.game)


def reaches_level(asking: Asking, masks: Bool[Tensor, "P K"] | Float[Tensor, "P K"], rows: Int[Tensor, "P"]) -> Bool[Tensor, "P"]:
    """Whether masks reach their rows' level, by the definition."""
    final = judge(asking, masks, rows)
    return reaches(asking, final.score, final.top1, rows)
