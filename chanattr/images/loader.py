"""Batches of picture files as a model takes them, with keys, labels, file digests and thumbnails."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from chanattr import embedded
from chanattr.arguments import COUNT, STEPS, check_function, check_number
from chanattr.errors import ImageError, InputError
from chanattr.images.find import PathLike, PictureFile, find_images
from chanattr.images.read import decode, open_image, read_bytes, thumbnail_of
from chanattr.processes import leave_signals
from chanattr.tables import count, outline

THUMBNAILS = 500

Preprocess = Callable[[Image.Image], Tensor]


class Batch(NamedTuple):
    """Images side by side; starts as ``(images, labels, keys)``, which is all that a loader of your own must give.

    Attributes:
        images: as the model takes them.
        labels: class indices; -1 unknown.
        keys: one an image.
        sha256: of the files' bytes.
        thumbnails: u1 [y, x, 3] each, short side 128 pixels, of the batch's first keys, in their order: so fewer than there are keys, or
            none. A loader of your own may give None in the place of one, and other sizes.
    """

    images: Float[Tensor, "B 3 H W"]
    labels: Int64[np.ndarray, " B"]
    keys: tuple[str, ...]
    sha256: UInt8[np.ndarray, "B 32"]
    thumbnails: tuple[np.ndarray, ...]

    def __repr__(self) -> str:
        return outline(self)


class ImageLoader:
    """Batches of picture files, in the order of their keys; may be gone through any number of times.

    A file that cannot be read is left out of its batch and noted once in `bad`.

    Attributes:
        keys: of every file found, the unreadable ones too, which are known only once a pass met them.
        labels: i8, one a key; -1 unknown.
        bad: (path, reason) of the files that could not be read so far.
    """

    def __init__(self, found: Sequence[PictureFile], preprocess: Preprocess, batch_size: int, readers: int = 0,
                 numbers: Sequence[int] | None = None) -> None:
        self._pictures = _Pictures(tuple(found), preprocess, tuple(numbers or range(len(found))))
        self._batch_size = batch_size
        self._readers = readers
        self.keys = tuple(one.key for one in found)
        self.labels = np.array([one.label for one in found], np.int64)
        self.bad: list[tuple[str, str]] = []
        self._noted: set[str] = set()

    def __repr__(self) -> str:
        bad = f", {len(self.bad)} of them unreadable (bad)" if self.bad else ""
        return f"<ImageLoader of {count(len(self.keys), 'picture')}{bad}, {self._batch_size} a batch>"

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.keys) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        read = DataLoader(self._pictures, batch_size=self._batch_size, num_workers=min(self._readers, len(self)), collate_fn=list,
                          worker_init_fn=leave_signals)
        for found in read:
            if rows := [row for one in found if (row := self._good(one))]:
                yield _batch(rows)

    def part(self, rows: Sequence[int]) -> ImageLoader:
        """A loader of some of the files, by their numbers in `keys`; those that have thumbnails here have them there."""
        pictures = self._pictures
        return ImageLoader([pictures.found[row] for row in rows], pictures.preprocess, self._batch_size, self._readers,
                           [pictures.numbers[row] for row in rows])

    def example(self) -> Float[Tensor, "B 3 H W"]:
        """The first two images that can be read (one, if there is but one).

        Raises:
            ImageError: none can be read.
        """
        rows = filter(None, (self._good(self._pictures[number]) for number in range(len(self.keys))))
        images = [row.image for row in itertools.islice(rows, 2)]
        if not images:
            path, reason = self.bad[0]
            raise ImageError(f"none of {count(len(self.keys), 'image')} can be read; expected at least one; the first, {path}: {reason}")
        return torch.stack(images)

    def _good(self, one: _Row | _Unread) -> _Row | None:
        """The row; one that could not be read is noted."""
        if isinstance(one, _Row):
            return one
        if one.key not in self._noted:
            self._noted.add(one.key)
            self.bad.append((one.path, one.reason))
        return None


class _Row(NamedTuple):
    image: Tensor
    found: PictureFile
    sha256: bytes
    thumbnail: np.ndarray | None


class _Unread(NamedTuple):
    key: str
    path: str
    reason: str


class _Pictures(Dataset[Any]):
    """The files by number, each read when it is asked for, in whatever process."""

    def __init__(self, found: tuple[PictureFile, ...], preprocess: Preprocess, numbers: tuple[int, ...]) -> None:
        self.found, self.preprocess, self.numbers = found, preprocess, numbers  # numbers among all that were found

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, number: int) -> _Row | _Unread:
        one = self.found[number]
        try:
            data = read_bytes(one.path)
            picture = decode(data, one.path)
        except ImageError as error:
            return _Unread(one.key, str(one.path), str(error).removeprefix(f"{one.path} "))
        return _Row(image=self.preprocess(picture), found=one, sha256=hashlib.sha256(data).digest(),
                    thumbnail=thumbnail_of(picture) if self.numbers[number] < THUMBNAILS else None)


def image_loader(paths: PathLike | Sequence[PathLike], preprocess: Preprocess, *, class_names: Sequence[str] = (),
                 wordnet_ids: Sequence[str] = (), batch_size: int = 16, root: PathLike | None = None,
                 limit_per_class: int | None = None, readers: int = 0) -> ImageLoader:
    """A loader over picture files.

    Args:
        paths: files, folders and globs; see `find_images` for how they become keys and labels.
        preprocess: an RGB picture to the float tensor [3, H, W] that the model takes, all of one size; ``load_model(...).preprocess``.
        class_names: of the model, in its order.
        wordnet_ids: of the model, in its order.
        batch_size: images a batch.
        root: what keys are relative to; None: the folder given, or the common parent of several paths.
        limit_per_class: takes this many images of each class, the first by key; images without a label count as one class.
        readers: processes that read files (torch's ``DataLoader``), for devices that search faster than one core decodes; 0 reads in
            this process.

    Raises:
        InputError: nothing is found, a class folder names no class, a file is given twice, or a number is below 1.

    Examples:
        >>> import chanattr as ca
        >>> from chanattr.images import demo_folder
        >>> model = ca.load_model("embedded")
        >>> loader = ca.image_loader(demo_folder(), model.preprocess, class_names=model.class_names, limit_per_class=2)
        >>> loader.keys[0], int(loader.labels[0]), len(loader)
        ('130_flamingo/flamingo_image_0001.jpg', 130, 1)
    """
    check_function("preprocess", preprocess, "an RGB picture that gives the tensor [3, H, W]", "pass load_model(...).preprocess")
    batch_size = int(check_number(f"batch_size is {batch_size}", batch_size, STEPS, "leave it out for the usual"))
    readers = int(check_number(f"readers is {readers}", readers, COUNT, "leave it out to read in this process"))
    if limit_per_class is not None:
        check_number(f"limit_per_class is {limit_per_class}", limit_per_class, STEPS, "leave it out for all")
    found = find_images(paths, class_names=class_names, wordnet_ids=wordnet_ids, root=root)
    return ImageLoader(found if limit_per_class is None else _limited(found, limit_per_class), preprocess, batch_size, readers)


def demo_folder() -> Path:
    """The shipped pictures: 6 class folders of 20."""
    return embedded.path("demo")


def example_image(preprocess: Preprocess) -> Float[Tensor, "B 3 H W"]:
    """Two shipped pictures of different classes, as a model takes them."""
    folders = sorted(path for path in demo_folder().iterdir() if path.is_dir())[:2]
    return torch.stack([preprocess(open_image(min(folder.glob("*.jpg")))) for folder in folders])


def _limited(found: Sequence[PictureFile], limit: int) -> list[PictureFile]:
    taken: Counter[int] = Counter()
    kept = []
    for one in found:
        taken[one.label] += 1
        if taken[one.label] <= limit:
            kept.append(one)
    return kept


def _batch(rows: Sequence[_Row]) -> Batch:
    shapes = {tuple(row.image.shape) for row in rows}
    if len(shapes) > 1:
        raise InputError(f"preprocess gave images of shapes {sorted(shapes)[:3]}; expected one shape for all; let it crop to one size")
    return Batch(images=torch.stack([row.image for row in rows]), labels=np.array([row.found.label for row in rows], np.int64),
                 keys=tuple(row.found.key for row in rows),
                 sha256=np.frombuffer(b"".join(row.sha256 for row in rows), np.uint8).reshape(-1, 32),
                 thumbnails=tuple(row.thumbnail for row in rows if row.thumbnail is not None))
