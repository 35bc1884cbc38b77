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

from chanattr.errors import InputError
from chanattr.settings import STEPS, Range, check_number
from chanattr.store import Run


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Images that are searched side by side.

    Attributes:
        images: as the model takes them, [B, ...].
        labels: i8 [B]; -1 unknown.
        keys: one an image.
        sha256: of the files' bytes, or of the tensors where there is no file, u1 [B, 32].
        thumbnails: u1 [y, x, rgb] each, of the first images; fewer than images where the loader gives no more.
    """

    images: Tensor
    labels: np.ndarray
    keys: tuple[str, ...]
    sha256: np.ndarray
    thumbnails: tuple[np.ndarray, ...]

    def rows(self, index: Sequence[int]) -> Shard:
        """Some rows of the shard; itself where they are all."""
        rows = list(index)
        if rows == list(range(len(self.keys))):
            return self
        return Shard(images=self.images[rows], labels=self.labels[rows], keys=tuple(self.keys[i] for i in rows),
                     sha256=self.sha256[rows], thumbnails=tuple(self.thumbnails[i] for i in rows if i < len(self.thumbnails)))


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
    for batch in loader:
        part = as_shard(batch)
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
    labels = np.full(len(images), -1) if given is None else np.asarray(given)
    if labels.dtype.kind not in "iu":
        raise InputError(f"the loader gave labels {given!r}; expected whole numbers, -1 where unknown, or None; give numbers")
    labels = labels.astype(np.int64)
    if len(labels) != len(images) or len(keys) != len(images):
        raise InputError(f"the loader gave {len(images)} images, {len(labels)} labels and {len(keys)} keys in one batch; expected one each")
    sha256 = batch[3] if len(batch) > 3 else np.stack([_digest(image) for image in images])
    return Shard(images=images, labels=labels, keys=tuple(str(key) for key in keys), sha256=np.asarray(sha256),
                 thumbnails=tuple(batch[4]) if len(batch) > 4 else ())


def join(parts: Sequence[Shard]) -> Shard:
    """Shards one after another.

    Raises:
        InputError: their images differ in size.
    """
    if len(parts) == 1:
        return parts[0]
    shapes = {tuple(part.images.shape[1:]): part.keys[0] for part in parts if part.keys}
    if len(shapes) > 1:
        told = ", ".join(f"{list(shape)} ({key!r})" for shape, key in list(shapes.items())[:3])
        raise InputError(f"the loader gave images of different sizes, {told}; expected one size, for they are searched side by side; let "
                         "the preprocessing crop them to one")
    return Shard(images=torch.cat([p.images for p in parts]), labels=np.concatenate([p.labels for p in parts]),
                 keys=tuple(k for p in parts for k in p.keys), sha256=np.concatenate([p.sha256 for p in parts]),
                 thumbnails=tuple(t for p in parts for t in p.thumbnails))


def _digest(image: Tensor) -> np.ndarray:
    data = image.detach().cpu().contiguous().numpy().tobytes()
    return np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
