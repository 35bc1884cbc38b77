"""`spatial_run`: a loader of images into masks on the picture in a run file, shard by shard, resumed by key."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from chanattr.attribution.image import shard_size_of
from chanattr.attribution.inputs import check_model
from chanattr.attribution.perturbation import BLUR, LEVELS, Perturbation, perturbation_of
from chanattr.attribution.question import Asked, Question
from chanattr.attribution.spatial import INPUT, answer, picture_question
from chanattr.errors import InputError
from chanattr.network.names import kind
from chanattr.network.outputs import device_of
from chanattr.network.stem import Stem, take_stem
from chanattr.network.tail import Tail, bind
from chanattr.network.weights import model_sha256
from chanattr.progress import Progress
from chanattr.records import SpatialAttribution
from chanattr.runs.checks import (
    check_counts,
    check_file,
    check_label,
    check_labels,
    check_named,
    check_targets,
    first_images,
    known_labels,
    other_targets,
    refuse,
)
from chanattr.runs.images import Pass, Results, RunSummary
from chanattr.runs.plan import Task, search_rows
from chanattr.search.objective import Reward
from chanattr.settings import PICTURE_AREAS, Search
from chanattr.store import Run


class _Here(NamedTuple):
    """The question and the network that it is put to; engines are noted as they come."""

    question: Question
    under: Perturbation
    tail: Tail
    device: torch.device
    shape: tuple[int, ...]
    engines: dict[str, str]


def spatial_run(run: Run, model: nn.Module, loader: Iterable[Any], *, layer: str = INPUT, targets: str | int = "predicted",
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
    check_counts(shard_size=(1 if shard_size is None else shard_size, 1))
    check_named(reward=reward, score=score)
    check_label(label)
    asked = Asked(search=search, reward=reward, game=game, level=level, refine=refine, score=score, seed=seed, model=name or kind(model),
                  preprocessing=preprocessing, batch_size=batch_size, precision=precision)
    under = _under(perturbation, levels, blur, seed)
    device = device_of(model)
    example = first_images(loader).to(device)
    check_model(model, example, score)
    tail = bind(model, example, [layer], engine=engine, score=score, channel_axis=channel_axis)[layer]
    digest, where = model_sha256(model), tail.layer.name
    question = picture_question(asked, model, tail.layer, under, areas=areas, flip=flip, jitter=jitter, samples=samples, digest=digest)
    shard_size = shard_size or int(run.attributes.get("shard_size", 0)) or shard_size_of(model)
    check_file(run, digest, label, [where] if label in run.labels(where, spatial=True) else [], shard_size, resume)
    number = check_targets(tail, example, targets)
    known = number if targets == "label" else sys.maxsize  # labels that are only noted may be any
    check_labels(*known_labels(loader), known)
    _check_question(run, question, where, label, targets)
    here = _Here(question, under, tail, device, tuple(example.shape[1:]), {where: tail.engine})
    images = Pass(run=run, label=label, layers=(where,), targets=targets, classes=known, shard_size=shard_size, spatial=True,
                  about={"model": asked.model, "model_sha256": digest, "shard_size": shard_size, "preprocessing": preprocessing,
                         "class_names": list(class_names)})
    done, skipped, bad = images.search(loader, functools.partial(_results, here), progress)
    images.note(finished=True)
    return RunSummary(images=done, skipped=skipped, engines=here.engines, seconds=time.monotonic() - started, bad=bad)


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


def _results(here: _Here, tasks: Iterable[Task]) -> Results:
    """Each shard with its masks."""
    for task in tasks:
        shape = tuple(task.shard.images.shape[1:])
        if shape != here.shape:
            raise InputError(f"the loader gave images of {list(shape)} ({task.shard.keys[0]!r}) after such of {list(here.shape)}; expected "
                             "one size for all images of a run; let the preprocessing crop them to one")
        stem = here.tail.stem(task.shard.images.to(here.device))
        yield task, search_rows(functools.partial(_answer, here, task, stem), stem.logits, task.shard.keys)


def _answer(here: _Here, task: Task, stem: Stem, rows: Sequence[int]) -> SpatialAttribution:
    index = torch.as_tensor(rows, device=stem.logits.device)
    record = answer(here.question, here.tail, take_stem(stem, index), keys=[task.shard.keys[row] for row in rows],
                    targets=task.targets_of(rows), under=here.under)
    here.engines[record.layer] = record.engine
    return record
