"""Batches of any size regrouped into shards of one size, fixed by the loader's order, never by the memory at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chanattr.arguments import STEPS, Range, check_kind, check_number
from chanattr.errors import InputError
from chanattr.store import Run

LABELS = np.iinfo(np.int32)  # as a run file holds them


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Images that are searched side by side.

    Attributes:
        images: as the model takes them, [B, ...].
        labels: i8 [B]; -1 unknown.
        keys: one an image.
        sha256: of the files' bytes, or of the tensors where there is no file, u1 [B, 32].
        thumbnails: u1 [y, x, rgb] each, one an image; None where the loader gives none of it.
    """

    images: Tensor
    labels: np.ndarray
    keys: tuple[str, ...]
    sha256: np.ndarray
    thumbnails: tuple[np.ndarray | None, ...]

    def rows(self, index: Sequence[int]) -> Shard:
        """Some rows of the shard; itself where they are all."""
        rows = list(index)
        if rows == list(range(len(self.keys))):
            return self
        return Shard(images=self.images[rows], labels=self.labels[rows], keys=tuple(self.keys[i] for i in rows),
                     sha256=self.sha256[rows], thumbnails=tuple(self.thumbnails[i] for i in rows))


def pinned(shard: Shard) -> Shard:
    """The shard with its images where a GPU fetches them by itself; as it is where there is no GPU."""
    return replace(shard, images=shard.images.pin_memory()) if torch.cuda.is_available() else shard


def shards(loader: Iterable[Any], size: int) -> Iterator[Shard]:
    """Shards of `size` rows (the last may be smaller) from a loader of ``(images, labels, keys)``.

    Raises:
        InputError: a batch is no such triple, or a key comes twice.
    """
    waiting: list[Shard] = []
    seen: set[str] = set()
    for part in parts(loader):
        for key in part.keys:
            if key in seen:
                raise InputError(f"the loader gave key {key!r} twice; expected every image to have its own; rename one of them")
            seen.add(key)
        waiting.append(part)
        while sum(len(w.keys) for w in waiting) >= size:
            whole = join(waiting)
            yield whole.rows(range(size))
            waiting = [whole.rows(range(size, len(whole.keys)))] if len(whole.keys) > size else []
    if waiting:
        yield join(waiting)


def parts(loader: Iterable[Any]) -> Iterator[Shard]:
    """The batches of a loader that hold images: the last one of some loaders is empty.

    Raises:
        InputError: as `as_shard`.
    """
    check_kind("loader", loader, Iterable, "pass a DataLoader, or a list of the batches")
    yield from (part for part in map(as_shard, loader) if part.keys)


def pictures_of(run: Run, loader: Iterable[Any], keys: Collection[str],
                limit: int | None = None) -> Iterator[tuple[Shard, dict[str, tuple[bytes, bytes]]]]:
    """The pictures of a loader that have these keys of a run, shard by shard of the run's size, until all were there.

    Args:
        run: that knows them.
        loader: as for `attribute`.
        keys: of the run.
        limit: pictures at most, the first ones; None is all.

    Yields:
        Some pictures, and by key the digests in the run and here of those that have other bytes, as far as both are known.
    """
    table, left = run.images(), len(keys) if limit is None else limit
    stored = dict(zip(table.keys, map(bytes, table.sha256), strict=True))
    for shard in shards(loader, int(run.attributes.get("shard_size", 16))):
        part = shard.rows([row for row, key in enumerate(shard.keys) if key in keys][:left])
        both = {key: (stored[key], bytes(digest)) for key, digest in zip(part.keys, part.sha256, strict=True)}
        left -= len(both)
        if both:
            yield part, {key: (there, here) for key, (there, here) in both.items() if any(there) and any(here) and there != here}
        if left <= 0:
            return


def part_of(loader: Iterable[Any], part: tuple[int, int] | None, size: int) -> Iterable[Any]:
    """Shards `number`, `number` + `count`, ... of a loader, counted from 1; a loader with a method ``part(rows)`` reads only those.

    What comes of a loader without one can be gone through once.

    Args:
        loader: as for `attribute`.
        part: (number, count); None is all of it.
        size: of a shard.

    Raises:
        InputError: no such part.
    """
    if part is None:
        return loader
    if not isinstance(part, Sequence) or isinstance(part, str) or len(part) != 2:
        raise InputError(f"shard={part!r}; expected two numbers (number, of how many); leave it out for all images")
    number, count = part
    count = int(check_number(f"shard {number}/{count}", count, STEPS, "count from 1"))
    number = int(check_number(f"shard {number}/{count}", number, Range(1, count, whole=True), "count from 1"))
    if not hasattr(loader, "part") or not hasattr(loader, "keys"):
        return islice(shards(loader, size), number - 1, None, count)
    rows = [row for row in range(len(loader.keys)) if row // size % count == number - 1]
    found: Iterable[Any] = loader.part(rows)
    return found


def as_shard(batch: Any) -> Shard:
    """One batch of a loader: ``(images, labels, keys)``, or with file digests and thumbnails as `chanattr.images.Batch` has them.

    A shard is itself.

    Raises:
        InputError: something else.
    """
    if isinstance(batch, Shard):
        return batch
    if not isinstance(batch, (tuple, list)) or len(batch) < 3:
        raise InputError(f"the loader gave {type(batch).__name__}; expected (images, labels, keys) a batch; "
                         "wrap your loader so that it also yields a name for each image, or use ca.image_loader")
    images, given, keys = batch[:3]
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"the loader gave images of type {kind}; expected a floating tensor as the model takes it; "
                         "convert them (torch.from_numpy, .float()) and normalise them")
    if not images.ndim:
        raise InputError("the loader gave one number in the place of images; expected a tensor [B, ...], an image a row; stack the images")
    labels, names = _labels(given, len(images)), _keys(keys)
    if len(labels) != len(images) or len(names) != len(images):
        raise InputError(f"the loader gave {len(images)} images, {len(labels)} labels and {len(names)} keys in a batch; expected one each")
    sha256 = np.asarray(batch[3] if len(batch) > 3 else [_digest(image) for image in images], np.uint8)
    if names and sha256.shape != (len(names), 32):
        raise InputError(f"the loader gave digests of shape {list(sha256.shape)}; expected {[len(names), 32]}: the 32 bytes of a sha256 an "
                         "image, zeros where unknown; leave them out, and they are made from the images")
    return Shard(images=images, labels=labels, keys=names, sha256=sha256.reshape(-1, 32),
                 thumbnails=_thumbnails(batch[4] if len(batch) > 4 else (), len(images)))


def _labels(given: Any, count: int) -> np.ndarray:
    """The labels of a batch, i8 [B].

    Raises:
        InputError: they are no whole numbers that a run file can hold, or no row of them.
    """
    labels = np.full(count, -1) if given is None else np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    if labels.ndim == 1 and not labels.size:
        return np.zeros(0, np.int64)
    if labels.dtype.kind not in "iu":
        raise InputError(f"the loader gave labels {given!r}; expected whole numbers, -1 where unknown, or None; give numbers")
    if labels.ndim != 1:
        raise InputError(f"the loader gave labels of shape {list(labels.shape)}; expected a row of them, one an image; reshape them to [B]")
    if labels.min() < LABELS.min or labels.max() > LABELS.max:
        raise InputError(f"the loader gave labels from {labels.min()} to {labels.max()}; expected class numbers of at most {LABELS.max}, "
                         "which is what a run file holds, or -1 for none; number the classes from 0")
    return labels.astype(np.int64)


def _keys(given: Any) -> tuple[str, ...]:
    """The keys of a batch as texts; of numbers in tensors the numbers.

    Raises:
        InputError: one text, or nothing that has several.
    """
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable) or (isinstance(given, Tensor) and not given.ndim):
        raise InputError(f"the loader gave keys {given!r}; expected several, one an image; put them in a list")
    return tuple(str(key.tolist() if isinstance(key, (Tensor, np.ndarray)) else key) for key in given)


def _thumbnails(given: Sequence[np.ndarray | None], count: int) -> tuple[np.ndarray | None, ...]:
    """One an image, from those of the first images of a batch.

    Raises:
        InputError: more than images.
    """
    if len(given) > count:
        raise InputError(f"the loader gave {len(given)} thumbnails of {count} images in one batch; expected one each at most, those of the "
                         "first images; give None for an image without one")
    return (*given, *[None] * (count - len(given)))


def join(several: Sequence[Shard]) -> Shard:
    """Shards one after another.

    Raises:
        InputError: their images differ in size.
    """
    if len(several) == 1:
        return several[0]
    shapes = {tuple(part.images.shape[1:]): part.keys[0] for part in several}
    if len(shapes) > 1:
        told = ", ".join(f"{list(shape)} ({key!r})" for shape, key in list(shapes.items())[:3])
        raise InputError(f"the loader gave images of different sizes, {told}; expected one size, for they are searched side by side; let "
                         "the preprocessing crop them to one")
    return Shard(images=torch.cat([p.images for p in several]), labels=np.concatenate([p.labels for p in several]),
                 keys=tuple(k for p in several for k in p.keys), sha256=np.concatenate([p.sha256 for p in several]),
                 thumbnails=tuple(t for p in several for t in p.thumbnails))


def _digest(image: Tensor) -> np.ndarray:
    data = image.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()  # numpy has no bfloat16
    return np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
