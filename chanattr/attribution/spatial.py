"""The question for each image: where must the network look? Extremal masks on the picture, or on a layer's grid."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chanattr.attribution.image import shard_size_of, to_f4, to_i4, to_numpy
from chanattr.attribution.inputs import check_finite, check_images, check_keys, check_model, check_targets, checked_reward, goal_of
from chanattr.attribution.perturbation import BLUR, LEVELS, Lookup, Perturbation, perturbation_of, pyramid_of
from chanattr.attribution.pictures import PictureScore, View, flipped, shifted
from chanattr.attribution.question import Asked, callable_name, default_batch_size, resolved_level
from chanattr.axes import concatenate
from chanattr.codes import GRID, SINGLE_DISC
from chanattr.errors import InputError, LayerError
from chanattr.network.fast import FastTail, fast
from chanattr.network.inputs import take_rows
from chanattr.network.layers import Layer
from chanattr.network.names import kind
from chanattr.network.outputs import Inputs
from chanattr.network.tail import Stem, Tail, bind
from chanattr.network.weights import model_sha256
from chanattr.progress import Progress, advance
from chanattr.records import NOT_REACHED, SpatialAttribution
from chanattr.search.ascent import Start, ascend
from chanattr.search.exact import FORWARDS
from chanattr.search.objective import Reward, Score, Scored, images_per_evaluation, level_of, play, reached, reward_function
from chanattr.search.penalty import penalised
from chanattr.search.pictures import LEVELS as CODE_LEVELS
from chanattr.search.pictures import Pictures, through
from chanattr.settings import PICTURE_AREAS, ExactSearch, Range, Search, Settings, check_number, check_shares

LOG = logging.getLogger(__name__)
INPUT = ":input"  # the layer that is the picture itself
NEAR, NEAR_SHARE = 0.005, 0.05  # a* is refined until its bracket is no wider than this share of the picture, or of itself
SHIFTS = 8  # views by jitter, taken in turn
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


def spatial(model: nn.Module, images: Inputs, *, targets: Sequence[int] | Tensor | None = None, areas: Sequence[float] = PICTURE_AREAS,
            layer: str = INPUT, search: Search | None = None, reward: str | Reward = "logit", game: str = "preserve",
            perturbation: str | Tensor | np.ndarray = "blur", levels: int = LEVELS, blur: float = BLUR, flip: bool | None = None,
            jitter: float = 0.0, samples: int | None = None, level: str | float | None = None, refine: bool | None = None,
            score: Callable[..., Tensor] | None = None, keys: Sequence[str] | None = None, channel_axis: int | None = None, seed: int = 0,
            batch_size: int | None = None, engine: str = "auto", precision: str = "auto",
            progress: Progress = False) -> SpatialAttribution:
    """The best smooth masks of every area for each image, and a*, the smallest that keeps the score.

    The area of a mask is the mean of its values inside the picture, and is what was asked (the paper's search gives about one and a half
    times as much). Masks are stored as codes of 32 x 32; scores are of the masks that the stored codes mean.

    Args:
        model: any module; left exactly as found.
        images: as the model takes them, [N, C, H, W] (or as for `per_image`).
        targets: class numbers [N]; None is the predicted class of each.
        areas: shares of the picture, in (0, 1].
        layer: where masks lie: ":input", the picture, or a dotted name, on whose grid they then are.
        search: `ExactSearch` (default; ``relaxed_steps=40`` is a draft) or `PenaltySearch`, which is TorchRay's, step for step.
        reward, game, level, score, keys, engine, precision, batch_size, progress: as for `per_image`.
        perturbation: what lies under a mask: "blur", "fade" (to zero), "mean" (the image's colour), "noise", a colour [C], or images.
        levels, blur: of the blur: how many, and the largest standard deviation as a share of the sides.
        flip: whether every second step sees the picture mirrored; None is True on the picture, False on a layer.
        jitter: largest shift at each step, as a share of the sides; 0 none.
        samples: of a mask in each cell while it is searched; None is 1, and for `PenaltySearch` all (0), as TorchRay has it.
        refine: search a* between the areas of the grid, to 0.005 of the picture or a twentieth of itself; None is True for `ExactSearch`.
        channel_axis: of the layer, where it is not found rightly.
        seed: of noise and jitter.

    Returns:
        A `SpatialAttribution` with one row an image.

    Raises:
        InputError: an argument cannot be used.
        LayerError: no such layer, or it has no grid of two sides.
        ModelError: the model gives no logits, or NaN.

    Source: Fong, Patrick and Vedaldi 2019, equations 2 to 4, and TorchRay. Departures: the default search holds the area exactly, inside
        the picture, and smooths the slopes from coarse to fine.

    Example:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 28 * 28, 5))
        >>> found = ca.spatial(model, torch.rand(1, 3, 32, 32), areas=(0.1, 0.2), search=ca.ExactSearch(relaxed_steps=4))
        >>> found.codes.shape, [f"{area:.3f}" for area in found.true_areas[0]]
        ((1, 2, 32, 32), ['0.100', '0.200'])
    """
    asked = Asked(search=search, reward=reward, game=game, level=level, refine=refine, score=score, seed=seed, batch_size=batch_size,
                  precision=precision)
    count = check_images(images)
    names, goal = check_keys(keys, count), None if targets is None else check_targets(targets, count)
    example = take_rows(images, slice(0, 2))
    check_model(model, example, score)
    tail = bind(model, example, [layer], engine=engine, score=score, channel_axis=channel_axis)[layer]
    under = perturbation_of(perturbation, levels=int(check_number(f"levels={levels!r}", levels, Range(2, whole=True))),
                            blur=check_number(f"blur={blur!r}", blur, Range(0, 1, without="low")), seed=seed)
    ready = make_ready(asked, model, tail.layer, under, areas=areas, flip=flip, jitter=jitter, samples=samples)
    size, records = shard_size_of(model), []
    with advance(progress, count, "images" if layer == INPUT else f"images at {layer}") as tell:
        for first in range(0, count, size):
            part = slice(first, first + size)
            stem = tail.stem(take_rows(images, part))
            own = ready._replace(perturbation=under.of(part, count))
            records.append(answer(own, tail, stem, keys=names[part], targets=None if goal is None else goal[part]))
            tell(len(stem.logits))
    return concatenate(records)


def make_ready(asked: Asked, model: nn.Module, layer: Layer, under: Perturbation, *, areas: Sequence[float], flip: bool | None = None,
               jitter: float = 0.0, samples: int | None = None, digest: str | None = None) -> Ready:
    """The question for one layer, with everything resolved.

    Args:
        asked: the caller's words, but for what only pictures have.
        model, layer: whose weights are digested, and where masks lie.
        under: what lies under masks.
        areas, flip, jitter, samples: as of `spatial`.
        digest: of the model, where it is known already.

    Raises:
        InputError: areas, jitter, flip or samples cannot be used.
        LayerError: the layer has no grid.
    """
    if layer.grid is None or min(layer.grid) < 1 or len(layer.shape) != 4:
        raise LayerError(f"layer {layer.name!r} gives {list(layer.shape)}, no channels on a grid of two sides; expected one that gives "
                         "[N, C, h, w]; leave layer out for the picture, or choose a convolutional layer")
    jitter = float(check_number(f"jitter={jitter!r}", jitter, Range(0, 0.5)))
    if flip is not None and not isinstance(flip, bool):
        raise InputError(f"flip={flip!r}; expected True, False or None; leave it out for the layer's own")
    if layer.name != INPUT and (flip or jitter):
        raise InputError(f"flip={flip!r}, jitter={jitter:g} at layer {layer.name!r}; expected neither, for a mirrored or moved activation "
                         "is not that of such a picture; leave both out")
    search = Pictures(*layer.grid).resolve(asked.search if asked.search is not None else ExactSearch())
    exact = isinstance(search, ExactSearch)
    per_cell = int(exact) if samples is None else int(check_number(f"samples={samples!r}", samples, Range(0, 16, whole=True)))
    settings = Settings(
        layer=layer.name, areas=check_shares(areas), search=search, reward=callable_name(asked.reward), game=asked.game,
        level=resolved_level(asked.level, asked.game), refine=exact if asked.refine is None else asked.refine, seed=asked.seed,
        score=callable_name(asked.score) if asked.score is not None else "", model=asked.model or kind(model),
        model_sha256=digest or model_sha256(model), preprocessing=asked.preprocessing, perturbation=under.name,
        perturbation_sha256=under.sha256, levels=under.levels, blur=under.blur if under.name == "blur" else 0.0,
        flip=layer.name == INPUT if flip is None else flip, jitter=jitter, samples=per_cell)
    small = [area for area in settings.areas if area < SINGLE_DISC]
    if small:
        LOG.info("areas %s: less than the disc of one cell (%g of the picture), so that away from its border no mask of them reaches 1 "
                 "(`peak` says what it reaches)", ", ".join(f"{area:g}" for area in small), SINGLE_DISC)
    reward = reward_function(asked.reward)
    return Ready(settings, Pictures(*layer.grid, samples=per_cell), under,
                 reward if isinstance(asked.reward, str) else checked_reward(reward, settings.reward),
                 int(asked.batch_size or default_batch_size(model)), asked.precision)


def answer(ready: Ready, tail: Tail, stem: Stem, *, keys: Sequence[str], targets: Sequence[int] | Tensor | None) -> SpatialAttribution:
    """The record of one shard of images.

    Args:
        ready: the question.
        tail, stem: of the layer.
        keys, targets: one an image.

    Raises:
        InputError: targets are not one class an image.
        ModelError: numbers of an image are not finite.
    """
    settings, family = ready.settings, ready.family
    check_finite(stem.logits, keys, "scores")
    check_finite(stem.activation, keys, f"values at {tail.layer.name!r}")
    goal = goal_of(targets, stem)
    asking = Asking.of(ready, tail, stem, goal)
    check_finite(asking.original, keys, "rewards of the whole picture", remedy="check the reward and the precision of the model")
    check_finite(asking.empty, keys, "scores of the wholly perturbed picture", remedy="choose another perturbation")
    count, grid = len(goal), torch.tensor(settings.areas, device=goal.device)
    rows, areas = torch.arange(count, device=goal.device).repeat_interleave(len(grid)), grid.repeat(count)
    codes = asking.search(areas, rows)
    final = asking.figures(codes, rows)
    check_finite(final.score.view(count, -1), keys, "masked scores")
    smallest, refined = asking.smallest(grid, codes.view(count, len(grid), -1), final)
    last = asking.figures(smallest.codes, torch.arange(count, device=goal.device))
    none = smallest.area < 0
    by_area = (count, len(grid))
    return SpatialAttribution(
        layer=tail.layer.name, settings=settings, engine=asking.score.quick.engine, size=(family.height, family.width), keys=tuple(keys),
        targets=to_i4(goal), predictions=to_i4(stem.logits.argmax(1)),
        probability=to_f4(stem.logits.float().softmax(1).gather(1, goal[:, None])[:, 0]), areas=to_f4(grid),
        codes=_bytes(codes).reshape(*by_area, GRID, GRID), true_areas=to_f4(final.area.view(by_area)),
        scores=to_f4(final.score.view(by_area)),
        view_scores=to_f4(final.view_score.view(by_area)), level_set_scores=to_f4(final.level_set_score.view(by_area)),
        greyness=to_f4(final.greyness.view(by_area)), peak=to_f4(final.peak.view(by_area)), top1=to_numpy(final.top1.view(by_area)),
        original=to_f4(asking.original), empty=to_f4(asking.empty),
        smallest_area=to_f4(torch.where(smallest.area > 0, last.area, smallest.area)),
        smallest_code=_bytes(smallest.codes).reshape(count, GRID, GRID),
        smallest_score=to_f4(last.score.masked_fill(none, torch.nan)), smallest_top1=to_numpy(last.top1 & ~none),
        evaluations=to_f4(torch.full((count,), len(grid) * asking.spent)), refine_evaluations=to_f4(refined))


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
    named: Bool[Tensor, "N"]

    @classmethod
    def of(cls, ready: Ready, tail: Tail, stem: Stem, goal: Tensor) -> Asking:
        """The score of a shard, with its ends and the level between."""
        quick = fast(tail, stem, precision=ready.precision)
        axis = tail.layer.channel_axis
        lookup = Lookup(pyramid_of(stem.activation.movedim(axis, 1).float(), ready.perturbation))
        score = PictureScore(tail=tail, stem=stem, quick=quick, quick_stem=quick.prepare(stem) if isinstance(quick, FastTail) else stem,
                             lookup=lookup, targets=goal, reward=ready.reward, batch_size=ready.batch_size,
                             to_layer=lambda made: made.movedim(1, axis).to(stem.activation.dtype))
        rows = torch.arange(len(goal), device=goal.device)
        ones = torch.ones(len(goal), ready.family.height * ready.family.width, device=goal.device)
        whole = score.judge(ones, rows)
        full, none = whole.reward, score.judge(0 * ones, rows).reward
        if ready.settings.game == "dual":
            full, none = full - none, none - full
        return cls(ready, score, full, none, level_of(ready.settings.level, full, none), whole.top1 > 0)

    @property
    def spent(self) -> float:
        """Evaluations of one mask on the grid."""
        search = self.ready.settings.search
        steps = search.relaxed_steps + search.binary_steps / FORWARDS if isinstance(search, ExactSearch) else search.steps
        return float(images_per_evaluation(self.ready.settings.game) * steps)

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
        played = [play(self.score.seen(view), settings.game) for view in turns]
        return [through(self.ready.family.spread, _as_masks(score)) for score in played]

    def search(self, areas: Float[Tensor, "P"], rows: Int[Tensor, "P"], start: Start | None = None) -> Float[Tensor, "P 1024"]:
        """Codes by the question's search, as they are stored."""
        family, search = self.ready.family, self.ready.settings.search
        if not isinstance(search, ExactSearch):
            return family.finish(penalised(self.views(), family, areas, rows, search))
        steps = search.relaxed_steps if start is None else search.refine_steps
        values, _ = ascend(self.views(), family, areas, rows, search, steps=steps, start=start)
        return family.finish(values, areas)

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
        area = torch.where(empty, 0.0, torch.where(some, grid[first], float(NOT_REACHED)))
        found = Smallest(area, codes[rows, first] * some[:, None])
        spent = torch.zeros(count)
        return self._refined(found, grid, spent) if self.ready.settings.refine else (found, spent)

    def _refined(self, found: Smallest, grid: Tensor, spent: Tensor) -> tuple[Smallest, Tensor]:
        """a* bisected between the smallest reaching area and the largest of the grid below it, each step warm from what reaches.

        The whole picture, where it reaches, is the upper end if no area of the grid does.
        """
        high, codes = found.area.clone(), found.codes.clone()
        everything = torch.ones_like(codes)
        whole = self.figures(everything, torch.arange(len(codes), device=grid.device))
        rescued = (high == NOT_REACHED) & self.reaches(whole.score, whole.top1, torch.arange(len(codes), device=grid.device))
        high, codes = torch.where(rescued, 1.0, high), torch.where(rescued[:, None], everything, codes)
        low = torch.where(grid[None] < high[:, None], grid[None], 0).amax(1)
        search = self.ready.family.resolve(ExactSearch()) if not isinstance(self.ready.settings.search, ExactSearch) \
            else self.ready.settings.search
        while len(rows := torch.nonzero((high > 0) & (high - low > (NEAR_SHARE * high).clamp(min=NEAR)))[:, 0]):
            middle = (low[rows] + high[rows]) / 2
            asking = self._replace(ready=self.ready._replace(settings=_with_search(self.ready.settings, search)))
            tried = asking.search(middle, rows, Start(codes[rows], high[rows], WARM))
            final = self.figures(tried, rows)
            good = self.reaches(final.score, final.top1, rows)
            codes[rows] = torch.where(good[:, None], tried, codes[rows])
            high[rows], low[rows] = torch.where(good, middle, high[rows]), torch.where(good, low[rows], middle)
            spent[rows.cpu()] += images_per_evaluation(self.ready.settings.game) * float(search.refine_steps)
        return Smallest(high, codes), spent


def _with_search(settings: Settings, search: Search) -> Settings:
    return dataclasses.replace(settings, search=search)


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


def _bytes(codes: Float[Tensor, "P 1024"]) -> np.ndarray:
    """Codes in steps of 1/255 as the bytes that are stored."""
    return to_numpy((codes * CODE_LEVELS).round().to(torch.uint8))
