"""Specificity: what keeping, or deleting, one class's channels does to the images of every class."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chanattr.arguments import SEEDS, check_name, check_number
from chanattr.attribution.image import shard_size_of, shards_of
from chanattr.attribution.inputs import check_finite, check_images, check_targets, goal_of, tail_at
from chanattr.attribution.question import batch_size_of
from chanattr.errors import InputError
from chanattr.evidence.again import fill_again
from chanattr.evidence.class_records import Specificity
from chanattr.evidence.sets import ChannelSets, sets_of
from chanattr.network.batches import anchor_of, in_batches
from chanattr.network.inputs import take_rows
from chanattr.network.outputs import Inputs
from chanattr.network.stem import Stem
from chanattr.network.tail import Tail
from chanattr.network.weights import model_sha256
from chanattr.progress import Progress, advance
from chanattr.records import ClassAttribution
from chanattr.search.family import largest
from chanattr.search.objective import logit

LOG = logging.getLogger(__name__)
GAMES = ("preserve", "delete")


def specificity(model: nn.Module, images: Inputs, layer: str, *, targets: Sequence[int] | Tensor, classes: ClassAttribution,
                count: int | None = None, game: str = "preserve", source: str = "joint", seed: int | None = None,
                score: Callable[..., Tensor] | None = None, channel_axis: int | None = None, batch_size: int | None = None,
                engine: str = "auto", progress: Progress = False) -> Specificity:
    """Accuracy and logits on every class's images when only one class's channels are kept, or when they are dropped.

    Images are gone through once, some at a time, each under the set of every class: C forwards an image, twice that with random sets.
    Where sets and images are the same ones, the diagonal flatters: a set fits the images it was searched on (see `held_out`).

    Args:
        model, images, layer, score, channel_axis, batch_size, engine, progress: as for `per_image`.
        targets: the class of each image [N], all of them in `classes`.
        classes: the sets, from `per_class` with this model and layer; its fill is used.
        count: channels a set, one of ``classes.areas``; None is each class's a*.
        game: "preserve" keeps the set alone, "delete" drops it.
        source: "joint", or "mean", the channels that most a* sets of the class's images hold (then any `count`).
        seed: gives a random set of the same size beside every class's; None for none.

    Returns:
        A `Specificity`; a class without such a set, or without images, is left NaN and told to the log.

    Raises:
        InputError: an argument cannot be used; images of a class that `classes` lacks; `classes` is of another layer or model.
        LayerError, ModelError: as in `per_image`.

    Examples:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))
        >>> images, labels = torch.rand(4, 3, 8, 8), [0, 0, 2, 2]
        >>> classes = ca.per_class(model, images, "1", targets=labels, areas=(1, 2), engine="injection")
        >>> told = ca.specificity(model, images, "1", targets=labels, classes=classes, count=2, engine="injection")
        >>> told.targets.tolist(), told.accuracy.shape
        ([0, 2], (2, 2))
    """
    check_name("game", game, GAMES)
    sets = sets_of(classes, count, source)
    number = check_images(images)
    seed = None if seed is None else int(check_number(f"seed={seed!r}", seed, SEEDS))
    size = batch_size_of(batch_size, model)
    goal = check_targets(targets, number)
    columns = _columns(goal, classes)
    tail = tail_at(model, images, layer, engine=engine, score=score, channel_axis=channel_axis)
    _check_classes(classes, model, tail)
    masks = _masks(sets, classes.groups, seed, game)
    sums = torch.zeros(2, len(masks) + 1, len(classes), dtype=torch.float64)  # of `_figures`, by mask and class; last the whole network's
    with advance(progress, number, f"specificity at {layer}") as tell:
        for part in shards_of(number, shard_size_of(model)):
            stem = tail.stem(take_rows(images, part))
            check_finite(stem.logits, [f"image {row}" for row in range(part.start, part.stop)], "scores")
            fill = fill_again(classes, stem.activation, tail.layer).taken(stem.logits.device)
            _add(sums, tail, stem, masks, goal_of(goal[part], stem), columns[part], fill, size)
            tell(len(stem.logits))
    return _record(classes, sets, sums, columns, game=game, count=-1 if count is None else int(count), source=source,
                   seed=-1 if seed is None else seed)


def _columns(goal: Int[Tensor, "N"], classes: ClassAttribution) -> Int[Tensor, "N"]:
    """The row of each image's class in `classes`.

    Raises:
        InputError: a class that is not there.
    """
    where = {target: row for row, target in enumerate(classes.targets.tolist())}
    absent = sorted({target for target in goal.tolist() if target not in where})
    if absent:
        raise InputError(f"images of class {absent[0]}{' and others' if len(absent) > 1 else ''}, of which classes holds no set; expected "
                         f"images of {classes.targets[:20].tolist()}; leave the others out, or ask per_class for them")
    return torch.tensor([where[target] for target in goal.tolist()])


def _check_classes(classes: ClassAttribution, model: nn.Module, tail: Tail) -> None:
    """Refuses sets of another layer or model, which say nothing about this one.

    Raises:
        InputError: so.
    """
    if classes.layer != tail.layer.name or len(classes.groups) != tail.layer.channels:
        raise InputError(f"classes are of layer {classes.layer!r} with {len(classes.groups)} channels, but {tail.layer.name!r} with "
                         f"{tail.layer.channels} is asked; expected the same layer; pass layer={classes.layer!r}")
    if classes.settings.model_sha256 != model_sha256(model):
        raise InputError("classes are of a model with other weights; expected the model that they were searched in; load it again, or ask "
                         "per_class with this one")


def _masks(sets: ChannelSets, groups: np.ndarray, seed: int | None, game: str) -> Float[Tensor, "M L"]:
    """What is kept of the layer's channels, a mask a class; where asked, then as many of random sets of the same sizes."""
    chosen = torch.from_numpy(sets.masks)
    if seed is not None:
        drawn = torch.rand(chosen.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        chosen = torch.cat([chosen, largest(drawn, chosen.sum(1))])
    spread = chosen[:, torch.from_numpy(groups).long()]
    return (spread if game == "preserve" else ~spread).float()


@torch.inference_mode(False)
@torch.no_grad()
def _add(sums: Float[Tensor, "2 R C"], tail: Tail, stem: Stem, masks: Float[Tensor, "M L"], goal: Int[Tensor, "S"],
         columns: Int[Tensor, "S"], fill: Tensor, batch_size: int) -> None:
    """Adds some images under every mask, and under none."""
    count = len(goal)

    def run(part: slice) -> Tensor:
        pair = torch.arange(part.start, part.stop, device=goal.device)
        row = pair % count
        return _figures(tail.logits(stem, masks.to(goal.device)[pair // count], row, fill).float(), goal[row])

    parts = [figures for _, figures in in_batches(anchor_of(tail), len(masks) * count, batch_size, False, run)]
    figures = torch.cat([*parts, _figures(stem.logits.float(), goal)], 1)
    row = torch.arange(sums.shape[1]).repeat_interleave(count)
    sums.flatten(1).index_add_(1, row * sums.shape[2] + columns.repeat(sums.shape[1]), figures.double().cpu())


def _figures(logits: Float[Tensor, "B T"], goal: Int[Tensor, "B"]) -> Float[Tensor, "2 B"]:
    """Whether each target is the top class, and its logit."""
    return torch.stack([(logits.argmax(1) == goal).float(), logit(logits, goal)])


def _record(classes: ClassAttribution, sets: ChannelSets, sums: Float[Tensor, "2 R C"], columns: Int[Tensor, "N"], *, game: str,
            count: int, source: str, seed: int) -> Specificity:
    number = len(classes)
    images = torch.bincount(columns, minlength=number)
    if empty := [sets.names[row] for row in torch.nonzero(images == 0)[:, 0].tolist()]:
        LOG.warning("no images of %d of %d classes (first %r): their columns are NaN", len(empty), number, empty[0])
    if missing := [name for name, there in zip(sets.names, sets.defined, strict=True) if not there]:
        LOG.warning("no such set of %d of %d classes (first %r): their rows are NaN", len(missing), number, missing[0])
    means, defined = (sums / images).float().numpy(), sets.defined[:, None]
    own, whole = np.where(defined, means[:, :number], np.nan).astype(np.float32), means[:, -1]
    random = np.where(defined, means[:, number:-1], np.nan).astype(np.float32) if seed >= 0 else np.full_like(own, np.nan)
    return Specificity(
        layer=classes.layer, settings=classes.settings, game=game, count=count, source=source, seed=seed, names=sets.names,
        targets=classes.targets, sizes=np.where(sets.defined, sets.masks.sum(1), -1).astype(np.int32), images=images.int().numpy(),
        accuracy=own[0], logits=own[1], original_accuracy=whole[0], original_logits=whole[1], random_accuracy=random[0],
        random_logits=random[1])
