"""The pass over a loader's images: what the file lacks is searched shard by shard, and written behind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from chanattr.attribution.image import shard_size_of
from chanattr.attribution.question import Asked
from chanattr.errors import ModelError
from chanattr.network.tail import Tail
from chanattr.progress import Progress, advance
from chanattr.records import ImageAttribution, SpatialAttribution
from chanattr.runs.checks import Targets, check_file, check_known_labels, check_labels, check_targets
from chanattr.runs.overlap import ahead, behind
from chanattr.runs.plan import Results, Task
from chanattr.runs.shards import Shard, pinned, shards
from chanattr.runs.worker import Worker
from chanattr.store import ImageTable, Run
from chanattr.store.layout import ASKED, asked_of


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What one call that fills a run file did.

    Attributes:
        images: rows searched now, over all layers counted once.
        skipped: images that were in the file already.
        classes: classes searched now, by layer.
        engines: how masked activations (or pictures) were scored, by layer.
        seconds: of the whole call.
        bad: (key, reason) of the images whose scores are not finite; they are not in the file.
        workers: what each worker process did; empty where this one worked alone.
    """

    images: int
    skipped: int
    classes: dict[str, int] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    bad: tuple[tuple[str, str], ...] = ()
    workers: tuple[Worker, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass over the images of a loader.

    Attributes:
        run: open for writing.
        label: under which the answers lie.
        layers: by the one name that each has in a file.
        about: attributes of the file, noted with the first answers.
        targets: as asked.
        classes: that the model tells apart, or more than any label where labels are only noted.
        shard_size: images searched side by side.
        spatial: whether the answers are masks on the picture.
    """

    run: Run
    label: str
    layers: tuple[str, ...]
    about: Mapping[str, Any]
    targets: Targets
    classes: int
    shard_size: int
    spatial: bool = False

    def note(self, *, finished: bool) -> None:
        """Writes what the file is about, and whether this call has come to its end; nothing where that is known already.

        Called with the first answers, not before: a call that comes to none leaves no file.
        """
        name = ASKED[self.spatial]
        asked = asked_of(self.run.attributes, name)
        targets = self.targets if isinstance(self.targets, str) else int(self.targets)
        for layer in self.layers:
            if not finished or self.label in self.run.labels(layer, spatial=self.spatial):
                asked.setdefault(layer, {})[self.label] = {"targets": targets, "finished": finished}
        self.run.set_attributes(**self.about, **{name: asked})

    def search(self, loader: Iterable[Any], results: Callable[[Iterable[Task]], Results],
               progress: Progress) -> RunSummary:
        """Searches what is not there yet; gives the images searched, the number skipped, and those without finite scores.

        Raises:
            ModelError: the file has no answer, and no image gives one.
        """
        finished = {layer: self.run.finished(layer, self.label, spatial=self.spatial) for layer in self.layers}
        total = len(loader.keys) * len(finished) if hasattr(loader, "keys") else 0
        searched: set[str] = set()
        seen: set[str] = set()
        bad: dict[str, str] = {}
        with advance(progress, total, "images" if self.spatial else "images x layers") as tell, behind() as do:
            tasks = self._tasks(do, loader, finished, seen, tell)
            with closing(tasks), closing(results(tasks)) as found:  # at once when interrupted: workers must not go on meanwhile
                for task, (record, failed) in found:
                    for key, reason in failed:
                        bad.setdefault(key, reason)
                    if record is not None:
                        do(self.note, finished=False)
                        do(self.run.write, record, label=self.label, images=_table(task.shard, record))
                        searched.update(record.keys)
                    tell(len(failed) + (len(record) if record is not None else 0))
        if bad and not searched and not any(finished.values()):
            key, reason = next(iter(bad.items()))
            raise ModelError(f"none of the {len(bad)} images gives an answer; expected at least one; the first, {key!r}: {reason}")
        return RunSummary(images=len(searched), skipped=len(seen - searched - bad.keys()), bad=tuple(bad.items()))

    def _tasks(self, do: Callable[..., None], loader: Iterable[Any], finished: dict[str, set[str]], seen: set[str],
               tell: Callable[[int], None]) -> Generator[Task, None, None]:
        """The shards' missing rows: one task for all layers that miss the same rows. The next shard is read while one is searched."""
        with closing(ahead(map(pinned, shards(loader, self.shard_size)))) as coming:
            for shard in coming:
                check_labels(shard.labels.tolist(), shard.keys, self.classes, self.targets)
                missing: dict[tuple[int, ...], list[str]] = {}
                for layer in self.layers:
                    rows = tuple(i for i, key in enumerate(shard.keys) if key not in finished[layer])
                    missing.setdefault(rows, []).append(layer)
                do(self.run.register, shard.keys, shard.sha256, shard.labels)
                for rows, here in missing.items():
                    if rows:
                        yield Task(shard=shard.rows(rows), layers=tuple(here), targets=self.targets)
                seen.update(shard.keys)
                if skipped := sum(len(shard.keys) - len(rows) for rows, here in missing.items() for _ in here):
                    tell(skipped)


def begin(run: Run, asked: Asked, model: nn.Module, loader: Iterable[Any], layers: Mapping[str, Tail], example: Tensor, *, digest: str,
          label: str, targets: Targets, shard_size: int | None, class_names: Sequence[str], resume: bool, classes: bool = False,
          spatial: bool = False) -> Pass:
    """The pass over a loader's images, with all that is asked of it held against the file, the model and the loader.

    Args:
        run, loader, label, targets, shard_size, class_names, resume: as asked.
        asked: the question, with the words for model and preprocessing that are stored.
        model, digest: of the answers.
        layers: by the one name that each has in a file.
        example: one or two images.
        classes: whether classes are searched, which need labels that the model has.
        spatial: whether the answers are masks on the picture.

    Raises:
        StoreError, InputError: the file is another model's or has other shards, or no image could have these targets or labels.
    """
    size = int(shard_size or run.attributes.get("shard_size", 0)) or shard_size_of(model)
    check_file(run, digest, label, [layer for layer in layers if label in run.labels(layer, spatial=spatial)], size, resume)
    number = check_targets(next(iter(layers.values())), example, targets)
    known = number if classes or targets == "label" else sys.maxsize  # labels that are only noted may be any
    check_known_labels(loader, known, targets)
    about = {"model": asked.model, "model_sha256": digest, "shard_size": size, "preprocessing": asked.preprocessing,
             "class_names": list(class_names)}
    return Pass(run=run, label=label, layers=tuple(layers), about=about, targets=targets, classes=known, shard_size=size, spatial=spatial)


def _table(shard: Shard, record: ImageAttribution | SpatialAttribution) -> ImageTable:
    """The per-image root data of a shard's images that have a record."""
    part = shard.rows([shard.keys.index(key) for key in record.keys])
    return ImageTable(keys=part.keys, sha256=part.sha256, label=part.labels.astype(np.int32), target=record.targets,
                      prediction=record.predictions, probability=record.probability,
                      thumbnails={key: one for key, one in zip(part.keys, part.thumbnails, strict=True) if one is not None})
