"""`evaluate`: answers held against the baselines, with the same masks, areas, reward, game, level and fill."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from chanattr.attribution.asking import Asking, find_smallest, judge, make_asking, one_a_row, reaches, reaches_level
from chanattr.attribution.image import shard_size_of, to_f4, to_i4, to_numpy
from chanattr.attribution.inputs import check_found, check_images, check_model
from chanattr.attribution.question import Question
from chanattr.attribution.score import Fill
from chanattr.errors import InputError
from chanattr.evidence.again import fill_again, question_again
from chanattr.evidence.baselines import BASELINES, SAMPLED, Baseline, Subject, in_float32
from chanattr.evidence.evaluation import Evaluation, join
from chanattr.evidence.peers import PEERS
from chanattr.network.clock import wait
from chanattr.network.inputs import take_rows
from chanattr.network.outputs import Inputs, device_of
from chanattr.network.tail import Stem, Tail, bind
from chanattr.progress import Progress, advance
from chanattr.records import NOT_RUN, ImageAttribution
from chanattr.search.family import largest
from chanattr.search.objective import Reward
from chanattr.search.smallest import nested, on_grid
from chanattr.settings import area_grid


def evaluate(model: nn.Module, images: Inputs, found: ImageAttribution, *, methods: Sequence[str] | Mapping[str, Baseline] | None = None,
             reward: str | Reward | None = None, score: Callable[..., Tensor] | None = None, channel_axis: int | None = None,
             seed: int = 0, batch_size: int | None = None, engine: str = "auto", progress: Progress = False) -> Evaluation:
    """How good answers are beside those of other methods.

    A baseline ranks the channels; its sets are the first k of its order, at the areas of `found`; its a* is bisected from the same grid as
    the search's. The deletion area is the fewest channels found whose removal loses the target as top class: for a baseline the first k
    of its order, for the search a search of its own in the game *delete*, whose evaluations are not counted here.

    Args:
        model, images: as given to `per_image`, rows in the order of `found`.
        found: answers to hold against the others; rows that were not run are left out.
        methods: names of `BASELINES` and `PEERS`, or a mapping of names to functions of a `Subject`; None is all of `BASELINES` but
            Shapley and Banzhaf values.
        reward, score: the callables that `found` was asked with, where it was asked with some.
        channel_axis: of the layer's output, where `found` was asked with one.
        seed: of what baselines draw.
        batch_size: masked images run at once, at most.
        engine: as in `per_image`.
        progress: True for a bar, False, or ``f(done, total)``.

    Raises:
        InputError: `found` is not of these images or this model, or no such method.

    Example:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 5))
        >>> images = torch.rand(2, 3, 8, 8)
        >>> found = ca.per_image(model, images, "1", areas=(2, 4, 8))
        >>> ca.evaluate(model, images, found, methods=["random"]).methods
        ('exact', 'random')
    """
    baselines = baselines_of(methods)
    count = check_images(images)
    check_model(model, take_rows(images, slice(0, 2)), score)
    if len(found) != count:
        raise InputError(f"found has {len(found)} rows for {count} images; expected one row an image; pass what per_image gave for them")
    tail = bind(model, take_rows(images, slice(0, 2)), [found.layer], engine=engine, score=score, channel_axis=channel_axis)[found.layer]
    ran = np.flatnonzero(found.smallest_area != NOT_RUN)
    if not len(ran):
        raise InputError(f"none of the {len(found)} rows of found was run; expected answers; attribute these images first")
    question, parts = None, []
    with advance(progress, len(ran), f"images at {found.layer}") as tell:
        for rows in np.array_split(ran, -(-len(ran) // shard_size_of(model))):
            own, shard = found[rows], take_rows(images, torch.from_numpy(rows).to(device_of(model)))
            stem = tail.stem(shard)
            fill = fill_again(own, stem.activation, tail.layer)
            question = question or question_again(own, model, tail.layer, fill, reward=reward, score=score, batch_size=batch_size)
            parts.append(evaluate_rows(Here(model, tail, stem, shard, question, fill, score), own, baselines, seed=seed))
            tell(len(rows))
    return join(parts)


class Here(NamedTuple):
    """A shard of images at one layer, and the question about them."""

    model: nn.Module
    tail: Tail
    stem: Stem
    images: Inputs
    question: Question
    fill: Fill
    output_score: Callable[..., Tensor] | None


class Sets(NamedTuple):
    """What a method gives: figures at the areas, a* and the deletion area, and what they cost an image."""

    scores: np.ndarray
    top1: np.ndarray
    smallest: np.ndarray
    deletion: np.ndarray
    evaluations: np.ndarray
    seconds: np.ndarray


def evaluate_rows(here: Here, found: ImageAttribution, baselines: Mapping[str, Baseline], *, seed: int = 0) -> Evaluation:
    """The evaluation of one shard of images whose activations are at hand; all rows of `found` were run.

    Raises:
        InputError: `found` is not of these images, model or question.
    """
    goal = torch.from_numpy(found.targets.astype(np.int64)).to(here.stem.logits.device)
    check_found(found, here.question.settings, goal, here.stem.logits)
    asking = make_asking(here.question, here.tail, here.stem, goal, here.fill, one_a_row(goal))
    subject = Subject(in_float32(asking), here.model, here.images, here.output_score, found.keys, seed)
    gone = deletion_of(asking)
    sets = [_searched(asking, gone, found)] + [_ranked(subject, gone, found, baseline) for baseline in baselines.values()]

    def stack(name: str) -> np.ndarray:
        return np.stack([getattr(one, name) for one in sets])

    return Evaluation(layer=found.layer, settings=found.settings, methods=(found.settings.search.name, *baselines), keys=found.keys,
                      areas=found.areas, scores=stack("scores"), top1=stack("top1"), smallest_area=stack("smallest"),
                      deletion_area=stack("deletion"), evaluations=stack("evaluations"), seconds=stack("seconds"),
                      original=to_f4(asking.original), empty=to_f4(asking.empty), entries=asking.question.family.size)


def deletion_of(asking: Asking) -> Asking:
    """The question for the smallest set whose removal loses the target as top class, of the same images and family."""
    question = asking.question
    settings = dataclasses.replace(question.settings, game="delete", level="top1", refine=True, areas=())
    return asking._replace(question=dataclasses.replace(question, settings=settings))


def _searched(asking: Asking, gone: Asking, found: ImageAttribution) -> Sets:
    """The answers as they are stored, scored again here, and a deletion search."""
    device = asking.original.device
    masks = torch.from_numpy(found.masks).to(device)
    scores, top1 = _figures(asking, masks)
    nothing = torch.zeros(len(found), 0, dtype=torch.bool, device=device)
    none = masks.new_zeros(len(found), 0, asking.question.family.size)
    lost = find_smallest(gone, torch.zeros(0, dtype=torch.long, device=device), none, nothing)
    return Sets(scores, top1, found.smallest_area, to_i4(lost.area), found.evaluations, np.full(len(found), np.nan, np.float32))


def _ranked(subject: Subject, gone: Asking, found: ImageAttribution, baseline: Baseline) -> Sets:
    """A baseline's sets, scored as the answers are; timed."""
    asking, count = subject.asking, len(found)
    wait(asking.original.device)
    start = time.perf_counter()
    worth = baseline(subject)
    wait(asking.original.device)
    seconds = (time.perf_counter() - start) / count
    values = checked_worth(worth.values, count, asking.question.family.size, baseline)
    scores, top1 = _figures(asking, nested_masks(values, torch.from_numpy(found.areas.astype(np.int64)).to(values.device)))
    smallest, lost = (_first_that_reaches(one, values, found.areas) for one in (asking, gone))
    return Sets(scores, top1, smallest, lost, np.full(count, worth.evaluations, np.float32), np.full(count, seconds, np.float32))


def nested_masks(values: Float[Tensor, "N K"], areas: Tensor) -> Bool[Tensor, "N A K"]:
    """The first `areas[a]` of every order; ties go to the lower channel."""
    rows, sizes = values.repeat_interleave(len(areas), 0), areas.repeat(len(values))
    return largest(rows, sizes).view(len(values), len(areas), values.shape[1])


def _figures(asking: Asking, masks: Bool[Tensor, "N A K"]) -> tuple[np.ndarray, np.ndarray]:
    """Scores and top-1 of masks, [N, A] each."""
    count, areas = masks.shape[:2]
    if not areas:
        return np.zeros((count, 0), np.float32), np.zeros((count, 0), bool)
    row = torch.arange(count, device=masks.device).repeat_interleave(areas)
    final = judge(asking, masks.flatten(0, 1), row)
    return to_f4(final.score.view(count, areas)), to_numpy(final.top1.view(count, areas) > 0.5)


def _first_that_reaches(asking: Asking, values: Float[Tensor, "N K"], areas: np.ndarray) -> np.ndarray:
    """a* along an order: on the grid, then bisected to the exact count where the question is so."""
    size, count = values.shape[1], len(values)
    grid = torch.tensor(areas if len(areas) else area_grid(size), dtype=torch.long, device=values.device)
    masks = nested_masks(values, grid)
    row = torch.arange(count, device=values.device).repeat_interleave(len(grid))
    final = judge(asking, masks.flatten(0, 1), row)
    reached_at = reaches(asking, final.score, final.top1, row).view(count, len(grid))
    empty = reaches_level(asking, torch.zeros_like(masks[:, 0]), torch.arange(count, device=values.device))
    found = on_grid(grid, masks, reached_at, empty)
    if asking.question.settings.refine:
        found = nested(found, grid, values, lambda masks, rows: reaches_level(asking, masks, rows))
    return to_i4(found.area)


def baselines_of(methods: Sequence[str] | Mapping[str, Baseline] | None) -> dict[str, Baseline]:
    """The functions that are asked for, by name.

    Raises:
        InputError: no such name, or one twice.
    """
    if isinstance(methods, Mapping):
        return dict(methods)
    if methods is None:
        return {name: function for name, function in BASELINES.items() if name not in SAMPLED}
    names, known = [methods] if isinstance(methods, str) else list(methods), BASELINES | PEERS
    for name in names:
        if name not in known:
            raise InputError(f"method {name!r}; expected some of {', '.join(known)}; leave it out for this toolkit's own but "
                             f"{' and '.join(SAMPLED)}")
        if names.count(name) > 1:
            raise InputError(f"method {name!r} twice; expected each once; take one away")
    return {name: known[name] for name in names}


def checked_worth(values: Tensor, rows: int, entries: int, baseline: Baseline) -> Float[Tensor, "N K"]:
    """What a baseline gave, if it is one finite number a channel.

    Raises:
        InputError: it is not.
    """
    name = getattr(baseline, "__name__", type(baseline).__name__)
    if tuple(values.shape) != (rows, entries):
        raise InputError(f"baseline {name} gave values of shape {tuple(values.shape)}; expected {(rows, entries)}, one for every image and "
                         "entry of a mask; correct the function")
    if not values.isfinite().all():
        raise InputError(f"baseline {name} gave values that are not finite; expected numbers to rank by; correct the function, or check "
                         "the precision of the model")
    return values.float()
