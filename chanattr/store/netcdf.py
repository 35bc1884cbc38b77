"""netCDF's words in plain h5py: dimensions named, data in checksummed chunks; and a file that a full disk cannot crash."""

from __future__ import annotations

import errno
import io
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import h5py
import numpy as np

from chanattr.processes import set_handlers, signal_handlers
from chanattr.store.layout import TEXT
from chanattr.store.source import BLOCK

CHUNK_BYTES = 2**20
_FILTERS: dict[str, Any] = {"compression": "gzip", "compression_opts": 4, "fletcher32": True}


class Disk(io.FileIO):
    """A file whose refused writes are remembered, not raised: HDF5 cannot close a file after one, and crashes later.

    Attributes:
        refused: the first error.
    """

    refused: OSError | None = None

    def stop(self) -> None:
        """Refuses all that comes, as where a signal ends the writing."""
        self.refused = self.refused or InterruptedError(errno.EINTR, "ended by a signal")

    def write(self, data: Any) -> int:
        """Writes all of it, or takes note of why not."""
        if self.refused is None:
            try:
                left = memoryview(data).cast("B")
                while len(left):
                    left = left[super().write(left) or 0:]
            except OSError as error:
                self.refused = error
        return memoryview(data).nbytes

    def check(self) -> None:
        """Raises what a write was refused with."""
        if self.refused is not None:
            raise self.refused


@contextmanager
def hdf5(path: Path, mode: str) -> Iterator[tuple[h5py.File, Disk]]:
    """A new ("w") or existing ("r+") HDF5 file that can be closed on a full disk too; its errors come at the end, or from `check`."""
    with Disk(path, "w+" if mode == "w" else "r+") as disk, held_signals(disk.stop):
        try:
            with h5py.File(disk, mode) as root:
                yield root, disk
        finally:
            disk.check()


@contextmanager
def held_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the end, for an exception that their handlers raise within a write crashes HDF5.

    Args:
        stop: called at once when one comes; should bring the end near.
    """
    came: list[int] = []

    def later(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        stop()

    kept = {number: handler for number, handler in signal_handlers().items() if callable(handler)}
    try:
        for number in kept:
            signal.signal(number, later)
        yield
    finally:
        set_handlers(kept)
        if came:
            kept[signal.Signals(came[0])](came[0], None)


def create_dataset(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: Any, dims: tuple[str, ...], *,
                   most: int = BLOCK) -> h5py.Dataset:
    """A dataset with its dimensions named, images by the root; in checksummed chunks unless there is nothing to hold; NaN is missing.

    `dtype` may be `TEXT`.
    """
    text = dtype == TEXT
    kind = h5py.string_dtype() if text else np.dtype(dtype)
    rest = int(np.prod(shape[1:])) * (16 if text else kind.itemsize)
    how: dict[str, Any] = {}
    if rest and shape[0]:
        rows = max(1, min(most, CHUNK_BYTES // rest, 1 << (shape[0] - 1).bit_length()))
        how = {"chunks": (1 << (rows.bit_length() - 1), *shape[1:])}
        how["maxshape"] = (None if dims[0] == "image" else max(shape[0], how["chunks"][0]), *shape[1:])
        how |= {} if text else {**_FILTERS, "shuffle": kind.itemsize != 1}
    made = group.create_dataset(name, shape, kind, **how)
    for axis, dim in enumerate(dims):
        made.dims[axis].attach_scale(made.file["image"] if dim == "image" else group[dim])
    if kind.kind == "f":
        made.attrs["_FillValue"] = np.array(np.nan, kind)[()]
    return made


def fill(group: h5py.Group, name: str, values: np.ndarray, dims: tuple[str, ...]) -> None:
    """A dataset with its values."""
    made = create_dataset(group, name, values.shape, values.dtype, dims)
    if values.size:
        made[...] = values


def scale(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """A dimension with its coordinate; texts have no checksum."""
    how: dict[str, Any] = {"dtype": h5py.string_dtype()} if values.dtype == object else {}
    if values.size and not how:
        how = {"chunks": values.shape, "fletcher32": True}
    group.create_dataset(name, data=values, **how).make_scale(name)


def marker(group: h5py.Group, name: str, length: int) -> None:
    """A dimension without coordinate, in netCDF's words."""
    group.create_dataset(name, (length,), ">f4").make_scale(f"This is a netCDF dimension but not a netCDF variable.{length:10d}")
