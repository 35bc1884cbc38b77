"""A question about pictures put to a network: how a tail sees masks, codes searched, judged by the definition, and the smallest area."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chanattr.attribution.asking import Asking, ask, judge, reaches, reaches_level
from chanattr.attribution.perturbation import Lookup, Perturbation, pyramid_of
from chanattr.attribution.question import Question
from chanattr.network.fast import FastTail
from chanattr.network.stem import Stem
from chanattr.network.tail import Tail
from chanattr.records import NOT_REACHED
from chanattr.search.ascent import Start, ascend
from chanattr.search.exact import FORWARDS
from chanattr.search.objective import Score, images_per_evaluation, play
from chanattr.search.penalty import penalised
from chanattr.search.pictures import ONE_PLACE, Pictures, hardened, through
from chanattr.settings import ExactSearch

NEAR, NEAR_SHARE = 0.005, 0.05  # a* is refined until its bracket is no wider than this share of the picture, or of itself
SHIFTS = 8  # views by jitter, taken in turn
COARSER = 1.5  # smoothing of the next start, where there are several
WAYS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right)
WARM = 0.5  # of the schedule is passed over by a warm start
View = Callable[[Tensor], Tensor]


class Figures(NamedTuple):
    """What is reported of masks."""

    score: Float[Tensor, "*S"]
    view_score: Float[Tensor, "*S"]
    level_set_score: Float[Tensor, "*S"]
    top1: Float[Tensor, "*S"]
    area: Float[Tensor, "*S"]
    greyness: Float[Tensor, "*S"]
    peak: Float[Tensor, "*S"]


class SmallestMasks(NamedTuple):
    """a* of N rows: its area as asked of the search (-1 not reached, 0 the empty mask reaches), its code, and what refining it cost."""

    area: Float[Tensor, "N"]
    codes: Float[Tensor, "N 1024"]
    evaluations: Float[Tensor, "N"]


@dataclass(frozen=True)
class Seen:
    """What a tail makes of masks [M, H * W] on pictures, as a `NetworkScore` asks.

    Attributes:
        lookup: the pictures' pyramid.
        channel_axis: of the layer, where a picture under a mask is put.
        view: how a perturbed picture is seen; None is as it is.
    """

    lookup: Lookup
    channel_axis: int
    view: View | None = None

    def __call__(self, tail: Tail | FastTail, stem: Stem, masks: Float[Tensor, "M P"], images: Int[Tensor, "M"]) -> Float[Tensor, "M C"]:
        made = self.lookup.perturbed(masks, images)
        made = made if self.view is None else self.view(made)
        return tail.logits_from(stem, made.movedim(1, self.channel_axis).to(stem.activation.dtype), images)


def ask_pictures(question: Question, tail: Tail, stem: Stem, targets: Int[Tensor, "N"], under: Perturbation) -> Asking:
    """A question about pictures, each a row: masks of them scored over what lies under them."""
    axis, family = tail.layer.channel_axis, question.family
    lookup = Lookup(pyramid_of(stem.activation.movedim(axis, 1).float(), under))
    return ask(question, tail, stem, targets, None, Seen(lookup, axis), family.height * family.width)


def spent(question: Question, grid: Float[Tensor, "A"]) -> float:
    """Evaluations of one image at all areas of a grid."""
    search, each = question.settings.search, images_per_evaluation(question.settings.game)
    if not isinstance(search, ExactSearch):
        return float(len(grid) * each * search.steps)
    steps, views = search.starts * search.relaxed_steps + search.binary_steps / FORWARDS, 1 + question.settings.flip
    if search.starts > 1:
        steps += search.starts * views / FORWARDS
    shifting = (3 + len(WAYS) * int(search.shifts).bit_length()) * views / FORWARDS if search.shifts else 0.0
    return float(each * (len(grid) * steps + int((grid < ONE_PLACE).sum()) * shifting))


def search_codes(asking: Asking, areas: Float[Tensor, "P"], rows: Int[Tensor, "P"], start: Start | None = None) -> Float[Tensor, "P 1024"]:
    """Codes by the question's search, as they are stored."""
    family: Pictures = asking.question.family
    search = asking.question.settings.search
    if not isinstance(search, ExactSearch):
        return family.finish(penalised(turns_of(asking), family, areas, rows, search))
    if start is not None:
        return family.finish(ascend(turns_of(asking), family, areas, rows, search, steps=search.refine_steps, start=start)[0], areas)
    coarser = [replace(search, smoothing=search.smoothing * COARSER**number) for number in range(search.starts)]
    ends = [ascend(turns_of(asking), family, areas, rows, one, steps=one.relaxed_steps)[0] for one in coarser]
    codes = _best(asking, torch.stack([family.finish(values, areas) for values in ends]), rows)
    small = areas < ONE_PLACE
    if search.shifts and small.any():
        codes[small] = _shifted(asking, codes[small], areas[small], rows[small], int(search.shifts))
    return codes


def _views(asking: Asking) -> list[View | None]:
    """The picture as it is and, where that is asked for, mirrored."""
    return [None, flipped] if asking.question.settings.flip else [None]


def _seen_by(asking: Asking, view: View | None) -> Asking:
    """The same question by a view of the pictures."""
    return asking._replace(score=replace(asking.score, logits=replace(cast(Seen, asking.score.logits), view=view)))


def _played(asking: Asking, view: View | None) -> Score:
    """What the game maximises by a view; masks at loop sampling may leave [0, 1] by rounding."""
    score = play(_seen_by(asking, view).score, asking.question.settings.game)
    return lambda masks, rows, gradient: score(masks.clamp(0, 1), rows, gradient)


def turns_of(asking: Asking) -> list[Score]:
    """What steps take in turn: the plain and the mirrored picture, moved where that is asked for; TorchRay begins mirrored."""
    settings, family, turns = asking.question.settings, asking.question.family, _views(asking)
    if not isinstance(settings.search, ExactSearch):
        turns.reverse()
    if settings.jitter:
        generator = torch.Generator().manual_seed(settings.seed)
        far = [round(settings.jitter * side) for side in (family.height, family.width)]
        drawn = [[int(torch.randint(-most, most + 1, (1,), generator=generator)) for most in far] for _ in range(SHIFTS)]
        turns = [_both(turns[number % len(turns)], shifted(*moved)) for number, moved in enumerate(drawn)]
    played = [_played(asking, view) for view in turns]
    every = int(settings.search.hard_every) if isinstance(settings.search, ExactSearch) else 0

    def hard(values: Tensor) -> Tensor:
        return hardened(family.spread(values).clamp(0, 1))

    return [through(hard if every and step % every == every - 1 else family.spread, played[step % len(played)])
            for step in range(len(played) * max(1, every))]


def _shifted(asking: Asking, codes: Float[Tensor, "S 1024"], areas: Float[Tensor, "S"], rows: Int[Tensor, "S"],
             cells: int) -> Float[Tensor, "S 1024"]:
    """Small masks moved as a whole, by ever fewer cells, to where they score higher: slopes tell of no place but a mask's own."""
    family = asking.question.family
    played = [through(family.spread, _played(asking, view)) for view in _views(asking)]

    def score(values: Tensor) -> Tensor:
        return torch.stack([one(values, rows, False).reward for one in played]).mean(0)

    here, best, everyone = codes, score(codes), torch.arange(len(rows), device=rows.device)
    while cells:
        tried = torch.stack([family.project(family.shift(here, down * cells, right * cells), areas) for down, right in WAYS])
        scores, way = torch.stack([score(values) for values in tried]).max(0)  # one at a time: masks are 49 times their codes
        here = torch.where((scores > best)[:, None], tried[way, everyone], here)
        best, cells = torch.maximum(scores, best), cells // 2
    return _best(asking, torch.stack([codes, family.finish(here, areas)]), rows)  # as they are stored: rounding may lose what was won


def _best(asking: Asking, tried: Float[Tensor, "S P 1024"], rows: Int[Tensor, "P"]) -> Float[Tensor, "P 1024"]:
    """Of several codes for each pair the one that scores best, over the views."""
    if len(tried) == 1:
        return tried[0]
    seen = [_seen_by(asking, view) for view in _views(asking)]
    masks = [asking.question.family.masks(codes) for codes in tried]
    scores = torch.stack([torch.stack([judge(by, one, rows).score for by in seen]).mean(0) for one in masks])
    best = (-scores if asking.question.settings.game == "delete" else scores).argmax(0)
    return tried[best, torch.arange(len(rows), device=rows.device)]


def figures(asking: Asking, codes: Float[Tensor, "P 1024"], rows: Int[Tensor, "P"]) -> Figures:
    """What is reported of codes, in float32 by the definition."""
    masks = asking.question.family.masks(codes)
    judged = [judge(_seen_by(asking, view), masks, rows) for view in _views(asking)]
    level_set = judge(asking, _level_sets(masks), rows)
    area = masks.double().mean(1)
    grey = (4 * masks * (1 - masks)).double().mean(1) / area.clamp(min=1e-12)
    return Figures(judged[0].score, torch.stack([one.score for one in judged]).mean(0), level_set.score, judged[0].top1, area.float(),
                   grey.float(), masks.amax(1))


def find_smallest(asking: Asking, grid: Float[Tensor, "A"], codes: Float[Tensor, "N A 1024"], final: Figures) -> SmallestMasks:
    """a* on the grid, refined where that is asked for; figures are [N, A]."""
    count, settings, family = len(codes), asking.question.settings, asking.question.family
    rows = torch.arange(count, device=grid.device)
    reaching = reaches(asking, final.score, final.top1)
    empty = reaches_level(asking, torch.zeros(count, family.height * family.width, device=grid.device, dtype=torch.float32), rows)
    first = reaching.to(torch.int8).argmax(1)
    some = reaching.any(1) & ~empty
    exact = isinstance(settings.search, ExactSearch)
    held = grid.expand(count, -1) if exact else final.area  # the paper's masks have other areas than asked
    area = torch.where(empty, 0.0, torch.where(some, held[rows, first], float(NOT_REACHED)))
    found = SmallestMasks(area, codes[rows, first] * some[:, None], torch.zeros(count, dtype=torch.float32))
    return _refined(asking, found, held) if settings.refine else found


def _refined(asking: Asking, found: SmallestMasks, held: Float[Tensor, "N A"]) -> SmallestMasks:
    """a* bisected between the smallest reaching area and the largest that masks have below it, each step warm from what reaches.

    Where no area of the grid does, the upper end is everything: the whole picture reaches, though no mask of the family is quite that
    (it falls off towards a border), so that only an area below it can be the answer.
    """
    settings, family = asking.question.settings, asking.question.family
    search = settings.search if isinstance(settings.search, ExactSearch) else family.resolve(ExactSearch())
    question = replace(asking.question, settings=replace(settings, search=search))
    lost = found.area == NOT_REACHED
    high, codes = torch.where(lost, 1.0, found.area), torch.where(lost[:, None], 1.0, found.codes)
    low = torch.where(held < high[:, None], held, 0).amax(1)
    while len(rows := torch.nonzero((high > 0) & (high - low > (NEAR_SHARE * high).clamp(min=NEAR)))[:, 0]):
        middle = (low[rows] + high[rows]) / 2
        tried = search_codes(asking._replace(question=question), middle, rows, Start(codes[rows], high[rows], WARM))
        good = reaches_level(asking, family.masks(tried), rows)
        codes[rows] = torch.where(good[:, None], tried, codes[rows])
        high[rows], low[rows] = torch.where(good, middle, high[rows]), torch.where(good, low[rows], middle)
        found.evaluations[rows.cpu()] += images_per_evaluation(settings.game) * float(search.refine_steps)
    never = lost & (high == 1)
    return SmallestMasks(torch.where(never, float(NOT_REACHED), high), torch.where(never[:, None], 0.0, codes), found.evaluations)


def flipped(images: Float[Tensor, "M C H W"]) -> Float[Tensor, "M C H W"]:
    """Images mirrored left to right."""
    return images.flip(-1)


def shifted(down: int, right: int) -> View:
    """A view of images moved by so many pixels; what comes in at a border is what was next to it."""

    def view(images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        padded = torch.nn.functional.pad(images, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)), mode="replicate")
        return padded[:, :, max(-down, 0):max(-down, 0) + height, max(-right, 0):max(-right, 0) + width]

    return view


def _both(first: View | None, second: View) -> View:
    """One view after another."""
    return second if first is None else lambda images: second(first(images))


def _level_sets(masks: Float[Tensor, "P HW"]) -> Float[Tensor, "P HW"]:
    """The hard masks of the same areas: their highest pixels; ties go to the earlier."""
    count = (masks.double().mean(1) * masks.shape[1]).round()
    order = masks.sort(dim=1, descending=True, stable=True).indices
    chosen = (torch.arange(masks.shape[1], device=masks.device)[None] < count[:, None]).to(masks.dtype)
    return torch.zeros_like(masks).scatter(1, order, chosen)
