"""A question about pictures put to a network: codes searched over images and areas, judged by the definition, and the smallest area."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chanattr.attribution.perturbation import Lookup, Perturbation, pyramid_of
from chanattr.attribution.pictures import PictureScore, View, flipped, shifted
from chanattr.network.fast import FastTail, fast
from chanattr.network.stem import Stem
from chanattr.network.tail import Tail
from chanattr.records import NOT_REACHED
from chanattr.search.ascent import Start, ascend
from chanattr.search.exact import FORWARDS
from chanattr.search.objective import Reward, Score, Scored, images_per_evaluation, level_of, play, reached
from chanattr.search.penalty import penalised
from chanattr.search.pictures import ONE_PLACE, Pictures, hardened, through
from chanattr.settings import ExactSearch, Settings

NEAR, NEAR_SHARE = 0.005, 0.05  # a* is refined until its bracket is no wider than this share of the picture, or of itself
SHIFTS = 8  # views by jitter, taken in turn
COARSER = 1.5  # smoothing of the next start, where there are several
WAYS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right)
WARM = 0.5  # of the schedule is passed over by a warm start


class Ready(NamedTuple):
    """A question about pictures with all that it needs: settings, family, what lies under masks, and what changes no answer."""

    settings: Settings
    family: Pictures
    perturbation: Perturbation
    reward: Reward
    batch_size: int
    precision: str


class Figures(NamedTuple):
    """What is reported of P masks."""

    score: Float[Tensor, "P"]
    view_score: Float[Tensor, "P"]
    level_set_score: Float[Tensor, "P"]
    top1: Bool[Tensor, "P"]
    area: Float[Tensor, "P"]
    greyness: Float[Tensor, "P"]
    peak: Float[Tensor, "P"]


class Smallest(NamedTuple):
    """a* of N rows: its area as asked of the search (-1 not reached, 0 the empty mask reaches), and its code."""

    area: Float[Tensor, "N"]
    codes: Float[Tensor, "N 1024"]


class Asking(NamedTuple):
    """A question put to a network for N images: what is maximised, and what to reach."""

    ready: Ready
    score: PictureScore
    original: Float[Tensor, "N"]
    empty: Float[Tensor, "N"]
    level: Float[Tensor, "N"]

    @classmethod
    def of(cls, ready: Ready, tail: Tail, stem: Stem, goal: Tensor) -> Asking:
        """The score of a shard, with its ends and the level between."""
        quick = fast(tail, stem, precision=ready.precision, at_once=ready.batch_size)
        axis = tail.layer.channel_axis
        lookup = Lookup(pyramid_of(stem.activation.movedim(axis, 1).float(), ready.perturbation))
        score = PictureScore(tail=tail, stem=stem, quick=quick, quick_stem=quick.prepare(stem) if isinstance(quick, FastTail) else stem,
                             lookup=lookup, targets=goal, reward=ready.reward, batch_size=ready.batch_size,
                             to_layer=lambda made: made.movedim(1, axis).to(stem.activation.dtype))
        rows = torch.arange(len(goal), device=goal.device)
        ones = torch.ones(len(goal), ready.family.height * ready.family.width, device=goal.device)
        full, none = score.judge(ones, rows).reward, score.judge(0 * ones, rows).reward
        if ready.settings.game == "dual":
            full, none = full - none, none - full
        return cls(ready, score, full, none, level_of(ready.settings.level, full, none))

    def spent(self, grid: Float[Tensor, "A"]) -> float:
        """Evaluations of one image at all areas of a grid."""
        search, each = self.ready.settings.search, images_per_evaluation(self.ready.settings.game)
        if not isinstance(search, ExactSearch):
            return float(len(grid) * each * search.steps)
        steps, views = search.starts * search.relaxed_steps + search.binary_steps / FORWARDS, 1 + self.ready.settings.flip
        if search.starts > 1:
            steps += search.starts * views / FORWARDS
        shifting = (3 + len(WAYS) * int(search.shifts).bit_length()) * views / FORWARDS if search.shifts else 0.0
        return float(each * (len(grid) * steps + int((grid < ONE_PLACE).sum()) * shifting))

    def views(self) -> list[Score]:
        """What steps take in turn: the plain and the mirrored picture, moved where that is asked for; TorchRay begins mirrored."""
        settings, generator = self.ready.settings, torch.Generator().manual_seed(self.ready.settings.seed)
        turns: list[View | None] = [None, flipped] if settings.flip else [None]
        if not isinstance(settings.search, ExactSearch):
            turns.reverse()
        if settings.jitter:
            far = [round(settings.jitter * side) for side in (self.ready.family.height, self.ready.family.width)]
            drawn = [[int(torch.randint(-most, most + 1, (1,), generator=generator)) for most in far] for _ in range(SHIFTS)]
            turns = [_both(turns[number % len(turns)], shifted(*moved)) for number, moved in enumerate(drawn)]
        played = [_as_masks(play(self.score.seen(view), settings.game)) for view in turns]
        every = int(settings.search.hard_every) if isinstance(settings.search, ExactSearch) else 0
        spread = self.ready.family.spread

        def hard(values: Tensor) -> Tensor:
            return hardened(spread(values).clamp(0, 1))

        return [through(hard if every and step % every == every - 1 else spread, played[step % len(played)])
                for step in range(len(played) * max(1, every))]

    def search(self, areas: Float[Tensor, "P"], rows: Int[Tensor, "P"], start: Start | None = None) -> Float[Tensor, "P 1024"]:
        """Codes by the question's search, as they are stored."""
        family, search = self.ready.family, self.ready.settings.search
        if not isinstance(search, ExactSearch):
            return family.finish(penalised(self.views(), family, areas, rows, search))
        if start is not None:
            return family.finish(ascend(self.views(), family, areas, rows, search, steps=search.refine_steps, start=start)[0], areas)
        coarser = [dataclasses.replace(search, smoothing=search.smoothing * COARSER**number) for number in range(search.starts)]
        ends = [ascend(self.views(), family, areas, rows, one, steps=one.relaxed_steps)[0] for one in coarser]
        tried = torch.stack([family.finish(values, areas) for values in ends])
        codes = tried[0] if search.starts == 1 else tried[self._best(tried, rows), torch.arange(len(rows), device=rows.device)]
        small = areas < ONE_PLACE
        if search.shifts and small.any():
            codes[small] = self._shifted(codes[small], areas[small], rows[small], int(search.shifts))
        return codes

    def _shifted(self, codes: Float[Tensor, "S 1024"], areas: Float[Tensor, "S"], rows: Int[Tensor, "S"],
                 cells: int) -> Float[Tensor, "S 1024"]:
        """Small masks moved as a whole, by ever fewer cells, to where they score higher: slopes tell of no place but a mask's own."""
        family, settings = self.ready.family, self.ready.settings
        views = [through(family.spread, _as_masks(play(self.score.seen(view), settings.game)))
                 for view in ([None, flipped] if settings.flip else [None])]

        def score(values: Tensor) -> Tensor:
            return torch.stack([view(values, rows, False).reward for view in views]).mean(0)

        here, best, everyone = codes, score(codes), torch.arange(len(rows), device=rows.device)
        while cells:
            tried = torch.stack([family.project(family.shift(here, down * cells, right * cells), areas) for down, right in WAYS])
            scores, way = torch.stack([score(values) for values in tried]).max(0)  # one at a time: masks are 49 times their codes
            here = torch.where((scores > best)[:, None], tried[way, everyone], here)
            best, cells = torch.maximum(scores, best), cells // 2
        made = torch.stack([codes, family.finish(here, areas)])  # judged as they are stored: rounding may lose what was won
        return made[self._best(made, rows), everyone]

    def _best(self, tried: Float[Tensor, "S P 1024"], rows: Int[Tensor, "P"]) -> Int[Tensor, "P"]:
        """Which of several starts scores best for each pair, over the views."""
        masks = [self.ready.family.masks(codes) for codes in tried]
        seen = [self.score, self.score.seen(flipped)] if self.ready.settings.flip else [self.score]
        scores = torch.stack([torch.stack([self.judge(score, one, rows)[0] for score in seen]).mean(0) for one in masks])
        return (-scores if self.ready.settings.game == "delete" else scores).argmax(0)

    def figures(self, codes: Float[Tensor, "P 1024"], rows: Int[Tensor, "P"]) -> Figures:
        """What is reported of codes, in float32 by the definition."""
        masks = self.ready.family.masks(codes)
        hard = _level_sets(masks)
        plain, level_set = self.judge(self.score, masks, rows), self.judge(self.score, hard, rows)
        mirrored = self.judge(self.score.seen(flipped), masks, rows) if self.ready.settings.flip else plain
        area = masks.double().mean(1)
        grey = (4 * masks * (1 - masks)).double().mean(1) / area.clamp(min=1e-12)
        return Figures(plain[0], (plain[0] + mirrored[0]) / 2, level_set[0], plain[1] > 0, area.float(), grey.float(), masks.amax(1))

    def judge(self, score: PictureScore, masks: Float[Tensor, "P HW"], rows: Int[Tensor, "P"]) -> tuple[Tensor, Tensor]:
        """Scores and top-1 of masks by the game's meaning, [P] and [P]."""
        game = self.ready.settings.game
        main = score.judge(1 - masks if game == "delete" else masks, rows)
        return main.reward - score.judge(1 - masks, rows).reward if game == "dual" else main.reward, main.top1

    def reaches(self, scores: Float[Tensor, "P"], top1: Bool[Tensor, "P"], rows: Int[Tensor, "P"]) -> Bool[Tensor, "P"]:
        """Whether figures reach their rows' level."""
        settings = self.ready.settings
        if settings.level == "top1":
            return ~top1 if settings.game == "delete" else top1
        return reached(scores, self.level[rows], settings.game)

    def smallest(self, grid: Float[Tensor, "A"], codes: Float[Tensor, "N A 1024"], final: Figures) -> tuple[Smallest, Float[Tensor, "N"]]:
        """a* on the grid, refined where that is asked for; and the evaluations that refining took."""
        count, rows = len(codes), torch.arange(len(codes), device=grid.device)
        reaching = self.reaches(final.score, final.top1, rows.repeat_interleave(len(grid))).view(count, len(grid))
        nothing = torch.zeros(count, self.score.lookup.height * self.score.lookup.width, device=grid.device)
        empty = self.reaches(*_bools(self.judge(self.score, nothing, rows)), rows)
        first = reaching.to(torch.int8).argmax(1)
        some = reaching.any(1) & ~empty
        exact = isinstance(self.ready.settings.search, ExactSearch)
        held = grid.expand(count, -1) if exact else final.area.view(count, -1)  # the paper's masks have other areas than asked
        area = torch.where(empty, 0.0, torch.where(some, held[rows, first], float(NOT_REACHED)))
        found = Smallest(area, codes[rows, first] * some[:, None])
        spent = torch.zeros(count)
        return self._refined(found, held, spent) if self.ready.settings.refine else (found, spent)

    def _refined(self, found: Smallest, held: Float[Tensor, "N A"], spent: Tensor) -> tuple[Smallest, Tensor]:
        """a* bisected between the smallest reaching area and the largest that masks have below it, each step warm from what reaches.

        Where no area of the grid does, the upper end is everything: the whole picture reaches, though no mask of the family is quite that
        (it falls off towards a border), so that only an area below it can be the answer.
        """
        search = self.ready.settings.search
        search = search if isinstance(search, ExactSearch) else self.ready.family.resolve(ExactSearch())
        asking = self._replace(ready=self.ready._replace(settings=dataclasses.replace(self.ready.settings, search=search)))
        lost = found.area == NOT_REACHED
        high, codes = torch.where(lost, 1.0, found.area), torch.where(lost[:, None], 1.0, found.codes)
        low = torch.where(held < high[:, None], held, 0).amax(1)
        while len(rows := torch.nonzero((high > 0) & (high - low > (NEAR_SHARE * high).clamp(min=NEAR)))[:, 0]):
            middle = (low[rows] + high[rows]) / 2
            tried = asking.search(middle, rows, Start(codes[rows], high[rows], WARM))
            final = self.figures(tried, rows)
            good = self.reaches(final.score, final.top1, rows)
            codes[rows] = torch.where(good[:, None], tried, codes[rows])
            high[rows], low[rows] = torch.where(good, middle, high[rows]), torch.where(good, low[rows], middle)
            spent[rows.cpu()] += images_per_evaluation(self.ready.settings.game) * float(search.refine_steps)
        never = lost & (high == 1)
        return Smallest(torch.where(never, float(NOT_REACHED), high), torch.where(never[:, None], 0.0, codes)), spent


def _both(first: View | None, second: View) -> View:
    """One view after another."""
    return second if first is None else lambda images: second(first(images))


def _as_masks(score: Score) -> Score:
    """A score of masks at loop sampling, whose values may leave [0, 1] by rounding."""

    def clamped(masks: Tensor, rows: Tensor, gradient: bool) -> Scored:
        return score(masks.clamp(0, 1), rows, gradient)

    return clamped


def _bools(judged: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return judged[0], judged[1] > 0


def _level_sets(masks: Float[Tensor, "P HW"]) -> Float[Tensor, "P HW"]:
    """The hard masks of the same areas: their highest pixels; ties go to the earlier."""
    count = (masks.double().mean(1) * masks.shape[1]).round()
    order = masks.sort(dim=1, descending=True, stable=True).indices
    chosen = (torch.arange(masks.shape[1], device=masks.device)[None] < count[:, None]).to(masks.dtype)
    return torch.zeros_like(masks).scatter(1, order, chosen)
