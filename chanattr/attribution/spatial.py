"""The question for each image where the network must look: extremal masks on the picture, or on the grid of a layer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from chanattr.arguments import Range, check_number, listed
from chanattr.attribution.image import shard_size_of, shards_of, to_f4, to_i4, to_numpy
from chanattr.attribution.inputs import check_finite, check_images, check_keys, check_targets, goal_of, tail_at
from chanattr.attribution.perturbation import BLUR, LEVELS, Perturbation, perturbation_of
from chanattr.attribution.question import Asked, Question, complete
from chanattr.attribution.spatial_asking import Figures, ask_pictures, figures, find_smallest, search_codes, spent
from chanattr.axes import concatenate
from chanattr.codes import GRID, SINGLE_DISC
from chanattr.errors import InputError, LayerError
from chanattr.network.inputs import take_rows
from chanattr.network.layers import Layer
from chanattr.network.outputs import Inputs
from chanattr.network.stem import Stem
from chanattr.network.tail import Tail
from chanattr.progress import Progress, advance
from chanattr.records import SpatialAttribution
from chanattr.search.objective import Reward
from chanattr.search.pictures import LEVELS as CODE_LEVELS
from chanattr.search.pictures import Pictures
from chanattr.settings import FILLS, PICTURE, PICTURE_AREAS, PenaltySearch, Search

LOG = logging.getLogger(__name__)


def spatial(model: nn.Module, images: Inputs, *, targets: Sequence[int] | Tensor | None = None, areas: Sequence[float] = PICTURE_AREAS,
            layer: str = ":input", search: Search | None = None, reward: str | Reward = "logit", game: str = "preserve",
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
        search: `ExactSearch` (default; ``relaxed_steps=40, hard_every=0, shifts=0`` is a draft), or `PenaltySearch`: TorchRay's, step
            for step.
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

    Examples:
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
    tail = tail_at(model, images, layer, engine=engine, score=score, channel_axis=channel_axis)
    under = perturbation_of(perturbation, levels=levels, blur=blur, seed=seed)
    question = picture_question(asked, model, tail.layer, under, areas=areas, flip=flip, jitter=jitter, samples=samples)
    records = []
    with advance(progress, count, "images" if layer == PICTURE else f"images at {layer}") as tell:
        for part in shards_of(count, shard_size_of(model)):
            stem = tail.stem(take_rows(images, part))
            records.append(answer(question, tail, stem, keys=names[part], targets=None if goal is None else goal[part],
                                  under=under.of(part, count)))
            tell(len(stem.logits))
    return concatenate(records)


def picture_question(asked: Asked, model: nn.Module, layer: Layer, under: Perturbation, *, areas: Sequence[float],
                     flip: bool | None = None, jitter: float = 0.0, samples: int | None = None, digest: str | None = None) -> Question:
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
    if layer.name != PICTURE and (flip or jitter):
        raise InputError(f"flip={flip!r}, jitter={jitter:g} at layer {layer.name!r}; expected neither, for a mirrored or moved activation "
                         "is not that of such a picture; leave both out")
    if samples is None:
        samples = 0 if isinstance(asked.search, PenaltySearch) else 1
    samples = int(check_number(f"samples={samples!r}", samples, Range(0, 16, whole=True)))
    family, shares = Pictures(*layer.grid, samples=samples), check_shares(areas)
    _note_areas(shares, family)
    return complete(asked, model, layer, family, digest=digest, areas=shares, fill=FILLS[0], fill_sha256="",  # which no channel has
                    perturbation=under.name, perturbation_sha256=under.sha256, levels=under.levels,
                    blur=under.blur if under.name == "blur" else 0.0,
                    flip=layer.name == PICTURE if flip is None else flip, jitter=jitter, samples=samples)


def _note_areas(areas: Sequence[float], family: Pictures) -> None:
    """A word to the log where masks of an area cannot be quite what is asked."""
    small = [area for area in areas if area < SINGLE_DISC]
    if small:
        LOG.info("areas %s: less than the disc of one cell (%g of the picture), so that away from its border no mask of them reaches 1 "
                 "(`peak` says what it reaches)", ", ".join(f"{area:g}" for area in small), SINGLE_DISC)
    most = float(replace(family, samples=1).area(torch.ones(1, family.size, dtype=torch.float32)))
    large = [area for area in areas if area > most]
    if large:
        LOG.info("areas %s: more than the largest mask of these, which falls off towards the border: its mean is %.3f (`true_areas` says "
                 "what each mask has)", ", ".join(f"{area:g}" for area in large), most)


def answer(question: Question, tail: Tail, stem: Stem, *, keys: Sequence[str], targets: Sequence[int] | Tensor | None,
           under: Perturbation) -> SpatialAttribution:
    """The record of one shard of images.

    Args:
        question: complete.
        tail, stem: of the layer.
        keys, targets: one an image.
        under: what lies under masks of these images.

    Raises:
        InputError: targets are not one class an image.
        ModelError: numbers of an image are not finite.
    """
    settings, family = question.settings, question.family
    check_finite(stem.logits, keys, "scores")
    check_finite(stem.activation, keys, f"values at {tail.layer.name!r}")
    goal = goal_of(targets, stem)
    asking = ask_pictures(question, tail, stem, goal, under)
    check_finite(asking.original, keys, "rewards of the whole picture", remedy="check the reward and the precision of the model")
    check_finite(asking.empty, keys, "scores of the wholly perturbed picture", remedy="choose another perturbation")
    count, grid = len(goal), torch.tensor(settings.areas, device=goal.device, dtype=torch.float32)
    rows, areas = torch.arange(count, device=goal.device).repeat_interleave(len(grid)), grid.repeat(count)
    codes = search_codes(asking, areas, rows)
    final = Figures(*(values.view(count, len(grid)) for values in figures(asking, codes, rows)))
    check_finite(final.score, keys, "masked scores")
    smallest = find_smallest(asking, grid, codes.view(count, len(grid), -1), final)
    last = figures(asking, smallest.codes, torch.arange(count, device=goal.device))
    none = smallest.area < 0
    return SpatialAttribution(
        layer=tail.layer.name, settings=settings, engine=asking.score.quick.engine, size=(family.height, family.width), keys=tuple(keys),
        targets=to_i4(goal), predictions=to_i4(stem.logits.argmax(1)),
        probability=to_f4(stem.logits.float().softmax(1).gather(1, goal[:, None])[:, 0]), areas=to_f4(grid),
        codes=_bytes(codes).reshape(count, -1, GRID, GRID), true_areas=to_f4(final.area), scores=to_f4(final.score),
        view_scores=to_f4(final.view_score), level_set_scores=to_f4(final.level_set_score), greyness=to_f4(final.greyness),
        peak=to_f4(final.peak), top1=to_numpy(final.top1 > 0), original=to_f4(asking.original), empty=to_f4(asking.empty),
        smallest_area=to_f4(torch.where(smallest.area > 0, last.area, smallest.area)),
        smallest_code=_bytes(smallest.codes).reshape(count, GRID, GRID),
        smallest_score=to_f4(last.score.masked_fill(none, torch.nan)), smallest_top1=to_numpy((last.top1 > 0) & ~none),
        evaluations=to_f4(torch.full((count,), spent(question, grid), dtype=torch.float32)),
        refine_evaluations=to_f4(smallest.evaluations))


def _bytes(codes: Float[Tensor, "P 1024"]) -> np.ndarray:
    """Codes in steps of 1/255 as the bytes that are stored."""
    return to_numpy((codes * CODE_LEVELS).round().to(torch.uint8))


def check_shares(areas: object) -> tuple[float, ...]:
    """Areas as increasing shares of a picture.

    Raises:
        InputError: none, or one that is not above 0 and at most 1.
    """
    given = listed("areas", areas, f"shares of the picture such as {PICTURE_AREAS}", "for one area give a list of one")
    allowed, remedy = Range(0, 1, without="low"), "areas are shares of the picture"
    return tuple(sorted({check_number(f"area {area!r}", area, allowed, remedy) for area in given}))
