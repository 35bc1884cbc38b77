"""`spatial_run`: a loader of images into masks on the picture in a run file, shard by shard, resumed by key."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from chanattr.attribution.inputs import tail_at
from chanattr.attribution.perturbation import BLUR, LEVELS, Perturbation, perturbation_of
from chanattr.attribution.question import Asked, Question
from chanattr.attribution.spatial import answer, picture_question
from chanattr.errors import InputError
from chanattr.network.names import kind
from chanattr.network.outputs import device_of
from chanattr.network.tail import Tail
from chanattr.network.weights import model_sha256
from chanattr.progress import Progress
from chanattr.runs.checks import check_words, first_images, other_targets, refuse
from chanattr.runs.images import RunSummary, begin
from chanattr.runs.plan import Results, Task, search_rows
from chanattr.search.objective import Reward
from chanattr.settings import PICTURE_AREAS, Search
from chanattr.store import Run


def spatial_run(run: Run, model: nn.Module, loader: Iterable[Any], *, layer: str = ":input", targets: str | int = "predicted",
                areas: Sequence[float] = PICTURE_AREAS, search: Search | None = None, reward: str | Reward = "logit",
                game: str = "preserve", perturbation: str | Tensor | np.ndarray = "blur", levels: int = LEVELS, blur: float = BLUR,
                flip: bool | None = None, jitter: float = 0.0, samples: int | None = None, level: str | float | None = None,
                refine: bool | None = None, label: str = "exact", score: Callable[..., Tensor] | None = None,
                channel_axis: int | None = None, seed: int = 0, batch_size: int | None = None, engine: str = "auto",
                precision: str = "auto", shard_size: int | None = None, name: str = "", preprocessing: str = "",
                class_names: Sequence[str] = (), resume: bool = True, progress: Progress = True) -> RunSummary:
    """The best smooth masks of every area for each image of a loader, and a*, streamed into a run file.

    Each finished shard is durable before the next begins; keys that the file holds are skipped. Shards follow the loader's order and
    `shard_size`, so a run that was stopped and resumed ends with the same content as one that was not. Images whose scores are not finite
    are left out and named in `RunSummary.bad`.

    Args:
        run: open for writing (``ca.open_run(path, "a")``); sets of channels may lie in the same file.
        model: left exactly as found.
        loader: any iterable of ``(images, labels, keys)`` that can be gone through again, all images of one size: no generator.
        layer: where masks lie: ":input", the picture, or a dotted name, on whose grid they then are.
        targets: "predicted" (default), "label", or one class for all.
        areas, search, reward, game, levels, blur, flip, jitter, samples, level, refine, score: as of `chanattr.spatial`.
        channel_axis, seed, batch_size, engine, precision: the same.
        perturbation: what lies under a mask: "blur", "fade", "mean", "noise", a colour [C], or one picture for all [C, H, W].
        label: under which the answers lie in the file.
        shard_size: images searched side by side; stored with the file. None is the file's, or what fills the device.
        name, preprocessing, class_names: stored with the file.
        resume: False refuses a file that has masks at this layer under the label already.
        progress: True for a bar, False, or ``f(done, total)``.

    Raises:
        InputError: an argument cannot be used.
        StoreError: the file holds answers to another question, or cannot be written.
        LayerError: no such layer, or it has no grid of two sides.
        ModelError: the model gives no logits; NaN only if no image gives an answer.

    Examples:
        >>> import chanattr as ca
        >>> loaded = ca.load_model("embedded")  # doctest: +SKIP
        >>> with ca.open_run("run.h5", "a") as run:  # doctest: +SKIP
        ...     ca.spatial_run(run, loaded.module, ca.image_loader("pictures", loaded.preprocess))
        ...     found = run.spatial()
    """
    started = time.monotonic()
    check_words(run, label, name, shard_size, class_names, reward=reward, score=score)
    asked = Asked(search=search, reward=reward, game=game, level=level, refine=refine, score=score, seed=seed, model=name or kind(model),
                  preprocessing=preprocessing, batch_size=batch_size, precision=precision)
    under = _under(perturbation, levels, blur, seed)
    example = first_images(loader).to(device_of(model))
    tail = tail_at(model, example, layer, engine=engine, score=score, channel_axis=channel_axis)
    digest, where = model_sha256(model), tail.layer.name
    question = picture_question(asked, model, tail.layer, under, areas=areas, flip=flip, jitter=jitter, samples=samples, digest=digest)
    images = begin(run, asked, model, loader, {where: tail}, example, digest=digest, label=label, targets=targets, shard_size=shard_size,
                   class_names=class_names, resume=resume, spatial=True)
    _check_question(run, question, where, label, targets)
    engines = {where: tail.engine}
    summary = images.search(loader, functools.partial(_results, question, under, tail, example, engines), progress)
    images.note(finished=True)
    return dataclasses.replace(summary, engines=engines, seconds=time.monotonic() - started)


def _under(perturbation: str | Tensor | np.ndarray, levels: int, blur: float, seed: int) -> Perturbation:
    """What lies under masks, the same for every image of a run.

    Raises:
        InputError: no perturbation, or a picture for each image.
    """
    under = perturbation_of(perturbation, levels=levels, blur=blur, seed=seed)
    if under.given.ndim == 4:
        raise InputError(f"perturbation has shape {tuple(under.given.shape)}; expected a name, a colour [C] or one picture [C, H, W] for "
                         "all images of a run; use ca.spatial for a picture each")
    return under


def _check_question(run: Run, question: Question, layer: str, label: str, targets: str | int) -> None:
    """Refuses to go on under a label that holds answers to another question.

    Raises:
        StoreError: so; names the first field that differs.
    """
    if not run.finished(layer, label, spatial=True):
        return
    held = run.spatial(slice(0, 0), layer, label)
    differences = [*question.settings.differences(held.settings), *other_targets(run, layer, label, targets, spatial=True)]
    size = (question.family.height, question.family.width)
    refuse(run, layer, label, [*differences, *([("size", size, held.size)] if size != held.size else [])])


def _results(question: Question, under: Perturbation, tail: Tail, example: Tensor, engines: dict[str, str],
             tasks: Iterable[Task]) -> Results:
    """Each shard with its masks, of the size that the example has; engines are noted as they come."""
    for task in tasks:
        shape, first = list(task.shard.images.shape[1:]), list(example.shape[1:])
        if shape != first:
            raise InputError(f"the loader gave images of {shape} ({task.shard.keys[0]!r}) after such of {first}; expected one size for all "
                             "images of a run; let the preprocessing crop them to one")
        stem = tail.stem(task.shard.images.to(example.device))
        found = search_rows(lambda own, _, **of: answer(question, tail, own, under=under, **of), task, stem)
        if found.record is not None:
            engines[found.record.layer] = found.record.engine
        yield task, found
