"""`evaluate`: answers held against the baselines, with the same masks, areas, reward, game, level and fill."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from chanattr.arguments import SEEDS, check_function, check_kind, check_number, listed
from chanattr.attribution.asking import Asking, find_smallest, judge_sets, make_asking, reaches, reaches_level, search_grid, some_rows
from chanattr.attribution.image import shard_size_of, to_f4, to_i4, to_numpy
from chanattr.attribution.inputs import check_finite, check_found, check_images, tail_at
from chanattr.attribution.question import Question
from chanattr.attribution.score import Fill
from chanattr.errors import InputError
from chanattr.evidence.again import fill_again, question_again
from chanattr.evidence.baselines import BASELINES, SAMPLED, Baseline, Subject, Worth, in_float32
from chanattr.evidence.evaluation import Evaluation, join
from chanattr.evidence.peers import PEERS
from chanattr.network.clock import wait
from chanattr.network.inputs import take_rows
from chanattr.network.outputs import Inputs, device_of
from chanattr.network.stem import Stem, take_stem
from chanattr.network.tail import Tail
from chanattr.progress import Progress, advance
from chanattr.records import NOT_RUN, ImageAttribution
from chanattr.search.family import nested_masks
from chanattr.search.objective import Reward, contrastive
from chanattr.search.smallest import nested, on_grid
from chanattr.settings import area_grid

LOG = logging.getLogger(__name__)


def evaluate(model: nn.Module, images: Inputs, found: ImageAttribution, *, methods: Sequence[str] | Mapping[str, Baseline] | None = None,
             peers: bool = False, reward: str | Reward | None = None, score: Callable[..., Tensor] | None = None,
             channel_axis: int | None = None, seed: int = 0, batch_size: int | None = None, engine: str = "auto",
             progress: Progress = False) -> Evaluation:
    """How good answers are beside those of other methods.

    A baseline ranks the channels; its sets are the first k of its order, at the areas of `found`; its a* is bisected from the same grid as
    the search's. The deletion area is the fewest channels found whose removal loses the target as top class: for a baseline the first k
    of its order, which stays that of the question's reward; for the search a search of its own in the game *delete*, on the margin to the
    best other class (the logit alone may fall with all the others'), whose evaluations are not counted here.

    Args:
        model, images: as given to `per_image`, rows in the order of `found`.
        found: answers to hold against the others; rows that were not run are left out.
        methods: names of `BASELINES` and `PEERS`, or a mapping of names to functions of a `Subject`; None is all of `BASELINES` but
            Shapley and Banzhaf values.
        peers: other toolkits' methods too, those of `PEERS` that run on this model; the log says why one does not.
        reward, score: the callables that `found` was asked with, where it was asked with some.
        channel_axis: of the layer's output, where `found` was asked with one.
        seed: of what baselines draw.
        batch_size: masked images run at once, at most.
        engine: as in `per_image`.
        progress: True for a bar, False, or ``f(done, total)``.

    Raises:
        InputError: `found` is not of these images or this model, or no such method.

    Examples:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 5))
        >>> images = torch.rand(2, 3, 8, 8)
        >>> found = ca.per_image(model, images, "1", areas=(2, 4, 8))
        >>> ca.evaluate(model, images, found, methods=["random"]).methods
        ('exact', 'random')
    """
    baselines = baselines_of(methods)
    check_kind("found", found, ImageAttribution, "pass what per_image gave for these images")
    check_names(found, baselines)
    check_kind("peers", peers, bool, "leave it out for none")
    seed = int(check_number(f"seed={seed!r}", seed, SEEDS))
    count = check_images(images)
    if len(found) != count:
        raise InputError(f"found has {len(found)} rows for {count} images; expected one row an image; pass what per_image gave for them")
    tail = tail_at(model, images, found.layer, engine=engine, score=score, channel_axis=channel_axis)
    ran = np.flatnonzero(found.smallest_area != NOT_RUN)
    if not len(ran):
        raise InputError(f"none of the {len(found)} rows of found was run; expected answers; attribute these images first")
    question: Question | None = None
    parts: list[Evaluation] = []
    with advance(progress, len(ran), f"images at {found.layer}") as tell:
        for rows in np.array_split(ran, -(-len(ran) // shard_size_of(model))):
            own, shard = found[rows], take_rows(images, torch.from_numpy(rows).to(device_of(model)))
            stem = tail.stem(shard)
            fill = fill_again(own, stem.activation, tail.layer)
            question = question or question_again(own, model, tail.layer, fill, reward=reward, score=score, batch_size=batch_size)
            here = Here(model, tail, stem, shard, question, fill, score)
            if peers and not parts:
                baselines |= working(here, own, PEERS)
            parts.append(evaluate_rows(here, own, baselines, seed=seed))
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
    """What a method gives, as `Evaluation` has it of all: figures at the areas, a* and the deletion area, what they cost an image."""

    scores: np.ndarray
    top1: np.ndarray
    smallest_area: np.ndarray
    deletion_area: np.ndarray
    evaluations: np.ndarray
    seconds: np.ndarray


def evaluate_rows(here: Here, found: ImageAttribution, baselines: Mapping[str, Baseline], *, seed: int) -> Evaluation:
    """The evaluation of one shard of images whose activations are at hand; all rows of `found` were run.

    Raises:
        InputError: `found` is not of these images, model or question.
    """
    goal = torch.from_numpy(found.targets.astype(np.int64)).to(here.stem.logits.device)
    check_found(found, here.question.settings, goal, here.stem.logits)
    asking = make_asking(here.question, here.tail, here.stem, goal, here.fill)
    subject = Subject(in_float32(asking), here.model, here.images, here.output_score, found.keys, seed)
    gone = deletion_of(asking)
    sets = [_searched(asking, gone, found)] + [_ranked(subject, gone, found, baseline) for baseline in baselines.values()]
    stacked = {name: np.stack(values) for name, values in zip(Sets._fields, zip(*sets, strict=True), strict=True)}
    return Evaluation(layer=found.layer, settings=found.settings, methods=(found.settings.search.name, *baselines), keys=found.keys,
                      areas=found.areas, original=to_f4(asking.original), empty=to_f4(asking.empty), entries=asking.question.family.size,
                      **stacked)


def deletion_of(asking: Asking) -> Asking:
    """The question for the smallest set whose removal loses the target as top class, of the same images and family.

    It searches on the margin to the best other class; its `original`, `empty` and `level`, which "top1" does not read, are still the old
    question's.
    """
    question = asking.question
    name, reward = question.settings.reward, question.reward
    if asking.score.stem.logits.shape[1] > 1:  # else there is no other class
        name, reward = "contrastive", contrastive
    settings = dataclasses.replace(question.settings, game="delete", level="top1", refine=True, areas=(), reward=name)
    return asking._replace(question=dataclasses.replace(question, settings=settings, reward=reward),
                           score=dataclasses.replace(asking.score, reward=reward))


def _searched(asking: Asking, gone: Asking, found: ImageAttribution) -> Sets:
    """The answers as they are stored, scored again here, and a deletion search."""
    scores, top1 = _figures(asking, torch.from_numpy(found.masks).to(asking.original.device), found.keys)
    cost = found.evaluations if len(found.areas) else found.refine_evaluations
    return Sets(scores, top1, found.smallest_area, _lost(gone), cost, np.full(len(found), np.nan, np.float32))


def _lost(gone: Asking) -> np.ndarray:
    """The deletion area by searches: bracketed from above, and over the whole grid where even the loss of everything keeps the class."""
    size, device = gone.question.family.size, gone.original.device
    none = torch.zeros(0, dtype=torch.long, device=device)
    every = torch.zeros(len(gone.original), 0, size, dtype=torch.bool, device=device)
    area = find_smallest(gone, none, every, every[..., 0]).area
    missing = torch.nonzero(area < 0)[:, 0]
    if len(missing):
        grid = torch.tensor(area_grid(size), device=device)
        settings = dataclasses.replace(gone.question.settings, areas=tuple(grid.tolist()))
        part = some_rows(gone, missing)._replace(question=dataclasses.replace(gone.question, settings=settings))
        masks, _ = search_grid(part, grid)
        area[missing] = find_smallest(part, grid, masks, _reached(part, masks)).area
    return to_i4(area)


def _ranked(subject: Subject, gone: Asking, found: ImageAttribution, baseline: Baseline) -> Sets:
    """A baseline's sets, scored as the answers are; timed."""
    asking, count = subject.asking, len(found)
    wait(asking.original.device)
    start = time.perf_counter()
    worth = checked_worth(baseline(subject), count, asking.question.family.size, baseline)
    wait(asking.original.device)
    seconds = (time.perf_counter() - start) / count
    values, grid = worth.values, area_grid(asking.question.family.size)
    scores, top1 = _figures(asking, nested_masks(values, torch.from_numpy(found.areas.astype(np.int64)).to(values.device)), found.keys)
    smallest, lost = _first_that_reaches(asking, values, found.areas.tolist() or grid), _first_that_reaches(gone, values, grid)
    return Sets(scores, top1, smallest, lost, np.full(count, worth.evaluations, np.float32), np.full(count, seconds, np.float32))


def _figures(asking: Asking, masks: Bool[Tensor, "N A K"], keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Scores and top-1 of masks, [N, A] each."""
    final = judge_sets(asking, masks)
    check_finite(final.score, keys, "masked scores")
    return to_f4(final.score), to_numpy(final.top1 > 0.5)


def _first_that_reaches(asking: Asking, values: Float[Tensor, "N K"], areas: Sequence[int]) -> np.ndarray:
    """a* along an order: on the grid, then bisected to the exact count where the question is so."""
    grid = torch.tensor(areas, dtype=torch.long, device=values.device)
    masks = nested_masks(values, grid)
    empty = _reached(asking, torch.zeros_like(masks[:, :1]))[:, 0]
    found = on_grid(grid, masks, _reached(asking, masks), empty)
    if asking.question.settings.refine:
        found = nested(found, grid, values, lambda masks, rows: reaches_level(asking, masks, rows))
    return to_i4(found.area)


def _reached(asking: Asking, masks: Bool[Tensor, "N A K"]) -> Bool[Tensor, "N A"]:
    """Which masks reach their row's level."""
    final = judge_sets(asking, masks)
    return reaches(asking, final.score, final.top1)


def check_names(found: ImageAttribution, baselines: Mapping[str, Baseline]) -> None:
    """Refuses a method with the name of the search.

    Raises:
        InputError: so.
    """
    if found.settings.search.name in baselines:
        raise InputError(f"a method is named {found.settings.search.name!r}, as the search of these answers is; expected another name; "
                         "rename it")


def working(here: Here, found: ImageAttribution, peers: Mapping[str, Baseline]) -> dict[str, Baseline]:
    """The peers that run on the first image; the others are named in the log, with the reason."""
    first = torch.zeros(1, dtype=torch.long, device=here.stem.logits.device)
    goal = torch.from_numpy(found.targets[:1].astype(np.int64)).to(first.device)
    asking = make_asking(here.question, here.tail, take_stem(here.stem, first), goal, here.fill.of(first))
    subject = Subject(in_float32(asking), here.model, take_rows(here.images, first), here.output_score, found.keys[:1])
    kept = {}
    for name, peer in peers.items():
        try:
            peer(subject)
            kept[name] = peer
        except InputError as error:
            LOG.warning("%s is left out at %s: %s", name, found.layer, error)
    return kept


def baselines_of(methods: Sequence[str] | Mapping[str, Baseline] | None) -> dict[str, Baseline]:
    """The functions that are asked for, by name.

    Raises:
        InputError: no such name, or one twice.
    """
    if isinstance(methods, Mapping):
        for name, function in methods.items():
            check_function(f"method {name!r}", function, "a Subject", "give names, or a mapping of names to functions")
        return dict(methods)
    if methods is None:
        return {name: function for name, function in BASELINES.items() if name not in SAMPLED}
    known = BASELINES | PEERS
    names = [methods] if isinstance(methods, str) else listed(
        "methods", methods, "names, or a mapping of names to functions of a Subject", "leave it out for the usual", least=0)
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise InputError(f"method {name!r}; expected some of {', '.join(known)}; leave it out for this toolkit's own but "
                             f"{' and '.join(SAMPLED)}")
        if names.count(name) > 1:
            raise InputError(f"method {name!r} twice; expected each once; take one away")
    return {name: known[name] for name in names}


def checked_worth(worth: Any, rows: int, entries: int, baseline: Baseline) -> Worth:
    """What a baseline gave, if it is one finite number a channel.

    Raises:
        InputError: it is not.
    """
    name = getattr(baseline, "__name__", type(baseline).__name__)
    if not isinstance(worth, Worth):
        raise InputError(f"baseline {name} gave {type(worth).__name__}; expected a Worth; return Worth(values, evaluations)")
    if tuple(worth.values.shape) != (rows, entries):
        raise InputError(f"baseline {name} gave values of shape {tuple(worth.values.shape)}; expected {(rows, entries)}, one for every "
                         "image and entry of a mask; correct the function")
    if not worth.values.isfinite().all():
        raise InputError(f"baseline {name} gave values that are not finite; expected numbers to rank by; correct the function, or check "
                         "the precision of the model")
    return worth._replace(values=worth.values.float())
