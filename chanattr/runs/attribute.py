"""`attribute`: a loader of images through the layers of a model into a run file, shard by shard, resumed by key."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chanattr.arguments import COUNT, check_number
from chanattr.attribution.image import mean_fill, mean_of
from chanattr.attribution.question import Areas, Asked
from chanattr.errors import ModelError
from chanattr.network.names import kind
from chanattr.network.outputs import device_of
from chanattr.network.tail import Tail
from chanattr.progress import Progress
from chanattr.runs.checks import check_question, check_words, first_images
from chanattr.runs.classes import attribute_classes
from chanattr.runs.cluster import cluster_of
from chanattr.runs.images import RunSummary, begin
from chanattr.runs.plan import Plan, Ready, make_ready
from chanattr.runs.pool import results
from chanattr.runs.shards import part_of, parts
from chanattr.runs.worker import Worker
from chanattr.search.groups import Group
from chanattr.search.objective import Reward
from chanattr.settings import Search
from chanattr.store import Run


def attribute(run: Run, model: nn.Module, loader: Iterable[Any], *, layers: Sequence[str],
              targets: str | int = "predicted", areas: Areas | Mapping[str, Areas] = None, search: Search | None = None,
              reward: str | Reward = "logit", game: str = "preserve",
              fill: str | float | Sequence[float] | np.ndarray = "zero", level: str | float | None = None,
              refine: bool | None = None, classes: bool = True, class_areas: Areas | Mapping[str, Areas] = None, folds: int = 2,
              label: str = "exact", score: Callable[..., Tensor] | None = None, group: Group = "",
              channel_axis: int | None = None, seed: int = 0,
              batch_size: int | None = None, engine: str = "auto", precision: str = "auto",
              memory_budget: str | int | float | None = None, certify: bool = False, shard_size: int | None = None,
              workers: int | str = 0, shard: tuple[int, int] | None = None, name: str = "",
              preprocessing: str = "", class_names: Sequence[str] = (), resume: bool = True,
              progress: Progress = True) -> RunSummary:
    """Channel sets for every image and every labelled class at several layers, streamed into a run file.

    Each finished shard is durable before the next begins; keys that the file holds are skipped. Shards follow the loader's order and
    `shard_size`, so a run that was stopped and resumed ends with the same content as one that was not. Images whose scores are not finite
    are left out and named in `RunSummary.bad`.

    Args:
        run: open for writing (``ca.open_run(path, "a")``).
        model: left exactly as found.
        loader: any iterable of ``(images, labels, keys)`` that can be gone through again (classes, the fill "mean"): no generator.
        layers: dotted names; a file holds each under its one name, without a wrapper's words and with ``@n`` only where it fires twice.
        targets: "predicted" (default), "label", or one class for all.
        areas: as in `per_image`, or ``{layer: areas}``.
        search, reward, game, fill, level, refine, score, group, channel_axis, seed, batch_size, engine, precision, memory_budget, certify:
            as in `per_image`; classes have no certificates, but their mean is then of certified sets.
        classes: whether to search joint sets for every class that has labels.
        class_areas: of the joint sets; None is `areas`.
        folds: parts of a class searched apart for held-out scores.
        label: under which the answers lie in the file.
        shard_size: images searched side by side; stored with the file. None is the file's, or what fills the device.
        workers: processes; 0 works in this one. "ray", "ray:N" (N workers here), "ray:ADDRESS" or "ray:ADDRESS/N" work on Ray (extra
            `ray`), where a dead worker's shard is done again.
        shard: (i, n), counted from 1: only every n-th shard of `shard_size` images, for n processes that write a file each
            (``chanattr merge`` joins them). Classes, which need all their images, are left to a call over the joined file.
        name, preprocessing, class_names: stored with the file.
        resume: False refuses a file that has answers at these layers already.
        progress: True for a bar, False, or ``f(done, total)``.

    Raises:
        InputError: an argument cannot be used.
        StoreError: the file holds answers to another question, or cannot be written.
        LayerError: as in `per_image`.
        ModelError: as in `per_image`; NaN only if no image gives an answer.

    Examples:
        >>> import tempfile, torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))
        >>> loader = [(torch.rand(2, 3, 8, 8), [0, 1], ["a.jpg", "b.jpg"])]
        >>> with tempfile.TemporaryDirectory() as folder, ca.open_run(f"{folder}/run.h5", "a") as run:
        ...     told = ca.attribute(run, model, loader, layers=["1"], areas=(1, 2), classes=False, engine="injection", progress=False)
        ...     told.images, run.layers, run.per_image("1").masks.shape
        (2, ('1',), (2, 2, 4))
    """
    started = time.monotonic()
    check_words(run, label, name, shard_size, class_names, reward=reward, score=score)
    crew = cluster_of(workers) if isinstance(workers, str) else int(check_number(f"workers={workers!r}", workers, COUNT))
    classes = classes and shard is None
    asked = Asked(search=search, reward=reward, game=game, level=level, refine=refine, folds=folds, score=score, seed=seed,
                  model=name or kind(model), preprocessing=preprocessing, batch_size=batch_size, group=group, precision=precision,
                  memory_budget=memory_budget, certify=certify)
    example = first_images(loader).to(device_of(model))
    plan = Plan.of(model, example, layers, asked, areas=areas, class_areas=class_areas, fill=fill, engine=engine,
                   channel_axis=channel_axis, images=len(loader.keys) if hasattr(loader, "keys") else 0)
    ready = make_ready(plan)
    images = begin(run, asked, model, loader, ready.tails, example, digest=plan.digest, label=label, targets=targets,
                   shard_size=shard_size, class_names=class_names, resume=resume, classes=classes)
    ready = _with_means(ready, run, loader, label)
    loader = part_of(loader, shard, images.shard_size)
    check_question(ready, run, label, targets, classes)
    team: list[Worker] = []
    summary = images.search(loader, lambda tasks: results(ready, tasks, crew, team), progress)
    counts = attribute_classes(images, ready, loader, progress) if classes else {}
    images.note(finished=True)
    return dataclasses.replace(summary, classes=counts, engines=dict(ready.engines), workers=tuple(team),
                               seconds=time.monotonic() - started)


def _with_means(ready: Ready, run: Run, loader: Iterable[Any], label: str) -> Ready:
    """The fill "mean" resolved once for the whole run: from the file where it is stored, else by a first pass over the loader."""
    fills = dict(ready.plan.fills)
    for layer, fill in fills.items():
        mean = isinstance(fill, str) and fill == "mean"
        if mean and run.finished(layer, label):
            fills[layer] = mean_of(torch.from_numpy(run.per_image(layer, label, rows=slice(0, 1)).fill_values))
        elif mean:
            tail, device = ready.tails[layer], device_of(ready.plan.model)
            fills[layer] = mean_fill(tail, (part.images.to(device) for part in parts(loader)))
            if not fills[layer].values.isfinite().all():  # some image has no finite scores: it is not searched, and has no part in the mean
                fills[layer] = mean_fill(tail, _finite(tail, loader, device))
    return dataclasses.replace(ready, plan=dataclasses.replace(ready.plan, fills=fills))


def _finite(tail: Tail, loader: Iterable[Any], device: torch.device) -> Iterator[Tensor]:
    """The images of a loader whose scores and activations are finite.

    Raises:
        ModelError: there is none.
    """
    count = 0
    for part in parts(loader):
        images = part.images.to(device)
        stem = tail.stem(images)
        good = stem.logits.isfinite().all(1) & stem.activation.flatten(1).isfinite().all(1)
        count += int(good.sum())
        if good.any():
            yield images[good]
    if not count:
        raise ModelError(f"no image gives finite activations at layer {tail.layer.name!r}; expected at least one, for fill='mean'; check "
                         "the preprocessing and the precision of the model")
