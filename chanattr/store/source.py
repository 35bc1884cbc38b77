"""The HDF5 files that a run lies in, and columns read out of them: only the rows and chunks that are asked for."""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from chanattr.store import check
from chanattr.store.layout import TEXT, Column, Head
from chanattr.store.parts import PartName, read_part
from chanattr.store.picture_layout import PictureHead

Items = dict[str, Any]  # the objects of a group by name
BLOCK = 1024  # rows read or written at once; a multiple of every chunk's


class Source:
    """One HDF5 file of a run, the merged one or a part, checked when it is first opened.

    The merged file stays open; a part is read whole each time.
    """

    def __init__(self, path: Path, part: PartName | None = None) -> None:
        self.path, self.part = path, part
        self.size = 0  # bytes, once opened
        self._file: h5py.File | None = None
        if part is None:
            with check.readable(path):
                # With HDF5's default locking: another choice fails where this process has the file open by other means.
                self.size = path.stat().st_size
                with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    check.check_heaps(data, path, check.filled_parts(file.fileno(), len(data)))
                self._file = h5py.File(path, "r")

    @contextmanager
    def open(self) -> Iterator[h5py.File]:
        """The file, with everything that h5py may raise turned into a StoreError."""
        with check.readable(self.path):
            if self.part is None:
                yield self._file
            else:
                data = read_part(self.part)
                self.size = len(data)
                check.check_heaps(data, self.path)
                with h5py.File(io.BytesIO(data), "r") as root:
                    yield root

    def close(self) -> None:
        """Closes the merged file."""
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows of a source.

    Attributes:
        source, group: where.
        rows: rows of the run (or class numbers), increasing, i8 [R].
        places: the same in the source's datasets, i8 [R].
    """

    source: Source
    group: str
    rows: np.ndarray
    places: np.ndarray

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where in `rows` those of this piece stand, and their places in the source."""
        if not len(rows) or not len(self.rows) or rows.max() < self.rows[0] or rows.min() > self.rows[-1]:
            return np.zeros(0, int), np.zeros(0, int)
        near = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        where = np.flatnonzero(self.rows[near] == rows)
        return where, self.places[near[where]]


def check_item(item: h5py.Dataset, dtype: str, shape: tuple[int, ...]) -> None:
    """Refuses a dataset of another type or shape than what it belongs to says; `dtype` may be `TEXT`.

    Raises:
        ValueError: so.
    """
    right = h5py.check_string_dtype(item.dtype) is not None if dtype == TEXT else item.dtype.str == dtype
    if not right or item.shape != shape:
        raise ValueError(f"{item.name} is {item.dtype} {item.shape}, not {dtype} {shape}")


def read_array(group: Items, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """A small dataset of a known type and shape.

    Raises:
        ValueError: another type or shape.
    """
    item = group[name]
    check_item(item, dtype, shape)
    check.present(item, 0, len(item) if shape else 0)
    return np.asarray(item[...])


def read_places(item: h5py.Dataset, rows: int) -> np.ndarray:
    """Different row numbers below `rows`.

    Raises:
        ValueError: they are not.
    """
    check.present(item, 0, len(item))
    places = np.asarray(item[...]).astype(np.int64)
    if places.ndim != 1 or len(np.unique(places)) < len(places) or (len(places) and not 0 <= places.min() <= places.max() < rows):
        raise ValueError(f"{item.name} does not hold different rows from 0 to {rows - 1}")
    return places


def check_columns(head: Head | PictureHead, group: Items, wanted: Sequence[Column], rows: int) -> None:
    """Refuses arrays of another type or shape than what they belong to says.

    Raises:
        ValueError: so.
    """
    for column in wanted:
        check_item(group[column.name], column.dtype, head.shape(column, rows))


def block_rows(wanted: Sequence[Column], head: Head | PictureHead) -> int:
    """Rows of a block: `BLOCK`, or fewer where rows are large (64 MB at most, masks unpacked)."""
    size = sum(row_bytes(column, head) * (8 if column.packed else 1) for column in wanted)
    step = BLOCK
    while step > 1 and step * size > 64 * 2**20:
        step //= 2
    return step


def row_bytes(column: Column, head: Head | PictureHead) -> int:
    """Bytes of one row of a column; of a text only its place."""
    return int(np.prod(head.shape(column, 1))) * (1 if column.dtype == TEXT else np.dtype(column.dtype).itemsize)


def read_rows(item: h5py.Dataset, places: np.ndarray) -> np.ndarray:
    """Some rows of a dataset in the order given; only the chunks that they lie in are read."""
    view = item.asstr() if h5py.check_string_dtype(item.dtype) else item
    if len(places) == places[-1] - places[0] + 1 and np.all(np.diff(places) == 1):
        check.present(item, int(places[0]), int(places[-1]) + 1)
        return np.asarray(view[int(places[0]):int(places[-1]) + 1])
    step = item.chunks[0] if item.chunks else max(1, len(item))
    found = np.empty((len(places), *item.shape[1:]), object if view is not item else item.dtype)
    for block in np.unique(places // step):
        mine = places // step == block
        check.present(item, int(block * step), min(int((block + 1) * step), len(item)))
        found[mine] = view[int(block * step):int((block + 1) * step)][places[mine] - block * step]
    return found


def picture_at(group: Mapping[str, Any], place: int) -> np.ndarray:
    """The small picture in a place of a group of them, u1 [y, x, rgb], without what fills it up to the size of all.

    Raises:
        ValueError: it is no such picture.
    """
    height, width, padded = (read_rows(group[name], np.array([place]))[0] for name in ("height", "width", "thumbnail"))
    picture: np.ndarray = padded[:int(height), :int(width)]
    if picture.shape != (height, width, 3) or picture.dtype != np.uint8 or not picture.size:
        raise ValueError(f"a thumbnail is {picture.dtype} {picture.shape}, not uint8 {(int(height), int(width), 3)}")
    return picture
