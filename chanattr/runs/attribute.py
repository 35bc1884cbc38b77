"""`attribute`: a loader of images through the layers of a model into a run file, shard by shard, resumed by key."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chanattr.attribution.image import SHARD, mean_fill, mean_of
from chanattr.attribution.question import Areas, Asked
from chanattr.errors import InputError, StoreError
from chanattr.network.outputs import device_of
from chanattr.network.tail import stems
from chanattr.progress import Progress, advance
from chanattr.records import ImageAttribution
from chanattr.runs.classes import attribute_classes
from chanattr.runs.plan import Plan, Ready, Task, make_ready
from chanattr.runs.pool import results
from chanattr.runs.shards import Shard, as_shard, shards
from chanattr.search.objective import Reward
from chanattr.settings import Search
from chanattr.store import ImageTable, Run


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What one call of `attribute` did.

    Attributes:
        images: rows searched now, over all layers counted once.
        skipped: images that were in the file already.
        classes: classes searched now, by layer.
        engines: how masked activations were scored, by layer.
        seconds: of the whole call.
    """

    images: int
    skipped: int
    classes: dict[str, int] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def attribute(run: Run, model: nn.Module, loader: Iterable[Any], layers: Sequence[str], *,
              targets: str | int = "predicted", areas: Areas | Mapping[str, Areas] = None, search: Search | None = None,
              reward: str | Reward = "logit", game: str = "preserve",
              fill: str | float | Sequence[float] | np.ndarray = "zero", level: str | float | None = None,
              refine: bool | None = None, classes: bool = True, class_areas: Areas | Mapping[str, Areas] = None, folds: int = 2,
              label: str = "exact", score: Callable[..., Tensor] | None = None, channel_axis: int | None = None, seed: int = 0,
              batch_size: int | None = None, engine: str = "auto", shard_size: int = SHARD, workers: int = 0, name: str = "",
              preprocessing: str = "", class_names: Sequence[str] = (), resume: bool = True,
              progress: Progress = True) -> RunSummary:
    """Channel sets for every image and every labelled class at several layers, streamed into a run file.

    Each finished shard is durable before the next begins; keys that the file holds are skipped. Shards follow the loader's order and
    `shard_size`, so a run that was stopped and resumed ends with the same content as one that was not.

    Args:
        run: open for writing (``ca.open_run(path, "a")``).
        model: left exactly as found.
        loader: any iterable of ``(images, labels, keys)``; iterated again for classes and for the fill "mean".
        layers: dotted names.
        targets: "predicted" (default), "label", or one class for all.
        areas: as in `per_image`, or ``{layer: areas}``.
        search, reward, game, fill, level, refine, score, channel_axis, seed, batch_size, engine: as in `per_image`.
        classes: whether to search joint sets for every class that has labels.
        class_areas: of the joint sets; None is `areas`.
        folds: parts of a class searched apart for held-out scores.
        label: under which the answers lie in the file.
        shard_size: images searched side by side; stored with the file.
        workers: processes; 0 works in this one.
        name, preprocessing, class_names: stored with the file.
        resume: False refuses a file that has answers at these layers already.
        progress: True for a bar, False, or ``f(done, total)``.

    Raises:
        InputError: an argument cannot be used.
        StoreError: the file holds answers to another question, or cannot be written.
        LayerError, ModelError: as in `per_image`.
    """
    started = time.monotonic()
    asked = Asked(search=search, reward=reward, game=game, level=level, refine=refine, score=score, seed=seed, model=name,
                  preprocessing=preprocessing, batch_size=batch_size)
    example = _example(loader).to(device_of(model))
    plan = Plan.of(model, example, layers, asked, areas=areas, fill=fill, engine=engine, channel_axis=channel_axis)
    ready = make_ready(plan)
    ready = _with_means(ready, run, loader, label)
    _check_question(ready, run, label)
    _describe(run, ready.plan, class_names, label, shard_size, resume)
    done, skipped = _images(run, ready, loader, label, targets=targets, shard_size=shard_size, workers=workers, progress=progress)
    counts: dict[str, int] = {}
    if classes:
        counts = attribute_classes(run, ready, loader, label, areas=areas if class_areas is None else class_areas, folds=folds,
                                   names=class_names, shard_size=shard_size, progress=progress)
    return RunSummary(images=done, skipped=skipped, classes=counts, seconds=time.monotonic() - started,
                      engines={layer: tail.engine for layer, tail in ready.tails.items()})


def _example(loader: Iterable[Any]) -> Tensor:
    """One or two images of the loader, to look at the model with."""
    for batch in loader:
        return as_shard(batch).images[:2]
    raise InputError("the loader is empty; expected at least one batch of (images, labels, keys); check the paths that it reads")


def _with_means(ready: Ready, run: Run, loader: Iterable[Any], label: str) -> Ready:
    """The fill "mean" resolved once for the whole run: from the file where it is stored, else by a first pass over the loader."""
    fills = dict(ready.plan.fills)
    for layer, fill in fills.items():
        if not (isinstance(fill, str) and fill == "mean"):
            continue
        if label in run.labels(layer) and len(run.finished(layer, label)):
            values = torch.from_numpy(run.per_image(layer, label, rows=slice(0, 1)).fill_values)
            fills[layer] = mean_of(values)
        else:
            device = device_of(ready.plan.model)
            fills[layer] = mean_fill(ready.tails[layer], (as_shard(batch).images.to(device) for batch in loader))
    return dataclasses.replace(ready, plan=dataclasses.replace(ready.plan, fills=fills))


def _check_question(ready: Ready, run: Run, label: str) -> None:
    """Refuses to go on under a label that holds answers to another question, before any work.

    Raises:
        StoreError: so; names the first field that differs.
    """
    held = [layer for layer in ready.plan.layers if run.finished(layer, label)]
    kept = stems({layer: ready.tails[layer] for layer in held}, ready.plan.example)
    for layer in held:
        fill = ready.fill(layer, kept[layer].activation)
        asked = ready.question(layer, fill, areas=ready.plan.areas[layer]).settings
        stored = run.per_image(layer, label, rows=slice(0, 0)).settings
        for name, now, then in asked.differences(stored):
            raise StoreError(f"{run.path} holds answers at {layer} under the label {label!r} with {name}={then!r}, but {name}={now!r} is "
                             "asked; expected the same question to go on; ask it as before, or give this one another label")


def _describe(run: Run, plan: Plan, class_names: Sequence[str], label: str, shard_size: int, resume: bool) -> None:
    """Writes what the file is about, and refuses to go on from another shard size or, unless resuming, at all."""
    stored = run.attributes.get("shard_size")
    if stored is not None and int(stored) != shard_size:
        raise InputError(f"shard_size={shard_size}, but this file was made with {stored}; expected the same, so that a resumed run repeats "
                         f"an unbroken one; leave it out, or pass {stored}")
    held = [layer for layer in plan.layers if label in run.labels(layer)]
    if held and not resume:
        raise InputError(f"the file already has answers at {', '.join(held)} under the label {label!r}, and resume=False; expected none; "
                         "write to another file, or under another label")
    run.set_attributes(model=plan.asked.model or type(plan.model).__name__, model_sha256=plan.digest, shard_size=shard_size,
                       preprocessing=plan.asked.preprocessing, class_names=list(class_names))


def _images(run: Run, ready: Ready, loader: Iterable[Any], label: str, *, targets: str | int, shard_size: int, workers: int,
            progress: Progress) -> tuple[int, int]:
    """Searches what is not there yet; gives the images searched and those skipped."""
    finished = {layer: run.finished(layer, label) if label in run.labels(layer) else set() for layer in ready.plan.layers}
    total = len(loader.keys) * len(finished) if hasattr(loader, "keys") else 0
    searched: set[str] = set()
    seen: set[str] = set()
    with advance(progress, total, "images x layers") as tell:
        tasks = _tasks(run, ready.plan.layers, loader, finished, targets, shard_size, seen, tell)
        for task, record in results(ready, tasks, workers):
            run.write(record, label=label, images=_table(task.shard, record))
            searched.update(record.keys)
            tell(len(record))
    return len(searched), len(seen - searched)


def _tasks(run: Run, layers: tuple[str, ...], loader: Iterable[Any], finished: dict[str, set[str]], targets: str | int,
           shard_size: int, seen: set[str], tell: Callable[[int], None]) -> Iterator[Task]:
    """The shards' missing rows: one task for all layers that miss the same rows."""
    for shard in shards(loader, shard_size):
        missing: dict[tuple[int, ...], list[str]] = {}
        for layer in layers:
            rows = tuple(i for i, key in enumerate(shard.keys) if key not in finished[layer])
            missing.setdefault(rows, []).append(layer)
        run.register(shard.keys, shard.sha256, shard.labels)
        for rows, here in missing.items():
            if rows:
                part = shard.rows(rows)
                yield Task(shard=part, layers=tuple(here), targets=_targets(part, targets), keep_energy=bool(part.thumbnails))
        seen.update(shard.keys)
        tell(sum(len(shard.keys) - len(rows) for rows, here in missing.items() for _ in here))


def _targets(shard: Shard, targets: str | int) -> list[int] | None:
    if targets == "predicted":
        return None
    if isinstance(targets, str):
        if targets != "label":
            raise InputError(f"targets={targets!r}; expected 'predicted', 'label' or a class number")
        bare = [key for key, label in zip(shard.keys, shard.labels, strict=True) if label < 0]
        if bare:
            raise InputError(f"targets='label', but {bare[0]!r} has no label; expected class folders; use targets='predicted'")
        return shard.labels.tolist()
    return [targets] * len(shard.keys)


def _table(shard: Shard, record: ImageAttribution) -> ImageTable:
    """The per-image root data of a shard."""
    return ImageTable(keys=shard.keys, sha256=shard.sha256, label=shard.labels.astype(np.int32), target=record.targets,
                      prediction=record.predictions, probability=record.probability,
                      thumbnails=dict(zip(shard.keys, shard.thumbnails, strict=False)))
