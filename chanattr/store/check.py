"""Looks at an HDF5 file before any of its data is read: no way out of the file, nothing larger than it says, nothing changed."""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from chanattr.errors import ChanattrError, StoreError

MAX_OBJECTS = 20_000
MAX_DEPTH = 6
MAX_CHUNK = 64 * 2**20
MAX_BYTES = 8 * 2**20  # of a row of single bytes: packed masks become eight times as many
MAX_ENTRIES = 2**20  # channels of a layer
MAX_RATIO = 2000  # deflate cannot pack more than 1032 to 1, so an honest file stays far below
MAX_OPENED = 64 * 2**20  # and the size of the file: what is read whole on opening, so that a small file cannot fill the memory
MAX_ARRAY = 2**16  # bytes of an attribute that is no single text
# Datasets that are read whole; all others are read in blocks of rows.
OPENED = {"image", "sha256", "label", "row", "area", "fill_values", "groups", "class", "smallest_area", "energy_row", "id"}
KEY_BYTES = 8  # of a key's sha256 that a file keeps, so that a damaged key is told from the whole ones
SLACK = 2**16  # what a small dataset may declare without having stored it: markers of dimensions hold no data
FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
LAYOUTS = {h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED}
# Written by the libraries for their own use: references between datasets, never read here.
LIBRARY = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS", "_Netcdf4Dimid", "_Netcdf4Coordinates",
           "_NCProperties", "_nc3_strict"}
_HEAP = re.compile(rb"GCOL\x01\0\0\0")
_HEAP_OBJECT = struct.Struct("<H6xQ")  # number and size
READING = (OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError, EOFError, SystemError)


def check_heaps(data: bytes | mmap.mmap, path: Path, filled: Sequence[tuple[int, int]] = ()) -> None:
    """Refuses collections of texts in which HDF5 would go round for ever: an object of no size, or one that ends outside.

    Args:
        data: of the file.
        path: named in errors.
        filled: stretches of the data that are no holes; the rest is zeros.

    Source: HDF5 File Format Specification, III.E, "Disk Format: Level 1E - Global Heap".

    Raises:
        StoreError: there is one, or heaps lie within heaps.
    """
    whole = filled or [(0, len(data))]
    walked = 0
    for place in (found.start() for first, end in whole for found in _HEAP.finditer(data, max(0, first - 8), end + 8)):
        size = int.from_bytes(data[place + 8:place + 16], "little")
        if not 16 < size <= len(data) - place:
            continue  # by chance in other data; HDF5 itself refuses a heap that is larger than the file
        walked += size
        if walked > 2 * len(data):
            raise refusal(path, f"heaps of texts lie within one another at byte {place}")
        at, end = place + 16, place + size
        while at + 16 <= end:
            number, length = _HEAP_OBJECT.unpack_from(data, at)
            step = 16 + (length + 7 & -8) if number else length
            if step < 16 or at + step > end:
                raise refusal(path, f"a heap of texts at byte {place} is damaged")
            at += step


def filled_parts(file: int, size: int) -> list[tuple[int, int]]:
    """Where an open file has data, first and end: a hole of gigabytes takes no room on the disk, and must take no time."""
    if not hasattr(os, "SEEK_DATA"):
        return [(0, size)]
    found, at = [], 0
    while at < size:
        try:
            first = os.lseek(file, at, os.SEEK_DATA)
        except OSError:  # none from here on
            break
        at = os.lseek(file, first, os.SEEK_HOLE)
        found.append((first, at))
    return found or [(0, min(size, 16))]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns whatever h5py raises on a damaged file into a `StoreError` that names the file."""
    try:
        yield
    except ChanattrError as error:
        if isinstance(error, StoreError):
            raise
        raise refusal(path, str(error)) from error
    except READING as error:
        raise refusal(path, brief(error)) from error


@contextmanager
def noting(faults: list[str], what: str) -> Iterator[None]:
    """Takes note of what cannot be read, and goes on after it."""
    try:
        yield
    except READING as error:
        faults.append(f"{what} ({brief(error)})")


def brief(error: BaseException) -> str:
    """An error in one line; of one of ours what it says."""
    if "file signature not found" in str(error):
        return "it is no HDF5 file"
    return " ".join((str(error) if isinstance(error, Odd) else f"{type(error).__name__}: {error}").split())[:200]


def refusal(path: Path, why: str) -> StoreError:
    """The error for a file whose bytes are not what chanattr wrote."""
    return StoreError(f"{path} cannot be read ({' '.join(why.split())[:300]}); expected a whole run file as chanattr writes it; "
                      "take it from a backup, or make it again")


class Odd(ValueError):
    """An object that chanattr did not write so."""


def root_attributes(root: h5py.File) -> dict[str, Any]:
    """What a file says of itself, before anything else of it is looked at.

    Raises:
        ValueError: its attributes are of other types than chanattr's.
    """
    _check_attributes(root, "/")
    return attributes(root)


def walk(root: h5py.File, lost: list[str] | None = None) -> dict[str, h5py.Group | h5py.Dataset]:
    """Every object by its path, after checking that each is inside the file, there once, and as large as it says.

    Args:
        root: of the file.
        lost: takes what is wrong with objects, which are then passed over; None refuses the file for the first.

    Raises:
        ValueError: links that leave the file or loop, other layouts, filters or types than chanattr's, or sizes that cannot be true.
    """
    room = MAX_OPENED + root.id.get_filesize()
    found: dict[str, h5py.Group | h5py.Dataset] = {"/": root}
    seen = {h5py.h5o.get_info(root.id).addr}
    waiting: list[tuple[str, h5py.Group]] = [("", root)]
    _check_attributes(root, "/")
    while waiting:
        prefix, group = waiting.pop()
        for name in _names(group, prefix, lost):
            where = f"{prefix}/{name}"
            try:
                item = _inside(group, name, where, seen)
                if name in OPENED and isinstance(item, h5py.Dataset) and (room := room - item.size * item.dtype.itemsize) < 0:
                    raise Odd(f"{where} and others that are read whole declare more than {MAX_OPENED} bytes beside the file's size")
            except READING as error:
                _lose(error, where, lost)
                continue
            found[where] = item
            if isinstance(item, h5py.Group):
                waiting.append((where, item))
    return found


def _lose(error: Exception, where: str, lost: list[str] | None) -> None:
    """Takes note of an object that cannot be used, where that is wished, else raises."""
    if lost is None:
        raise error
    lost.append(brief(error) if isinstance(error, Odd) else f"{where or '/'} cannot be read ({brief(error)})")


def _names(group: h5py.Group, where: str, lost: list[str] | None) -> list[str]:
    try:
        if len(group) > MAX_OBJECTS:
            raise Odd(f"more than {MAX_OBJECTS} objects in {where or '/'}")
        return list(group)
    except READING as error:
        _lose(error, where, lost)
        return []


def _inside(group: h5py.Group, name: str, where: str, seen: set[int]) -> h5py.Group | h5py.Dataset:
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise Odd(f"{where} is a link to elsewhere")
    item = group[name]
    address = h5py.h5o.get_info(item.id).addr
    if address in seen:
        raise Odd(f"{where} is a second name of another object")
    seen.add(address)
    if len(seen) > MAX_OBJECTS or where.count("/") > MAX_DEPTH:
        raise Odd(f"more than {MAX_OBJECTS} objects, or deeper than {MAX_DEPTH} groups")
    if isinstance(item, h5py.Dataset):
        _check_dataset(item, where)
    elif not isinstance(item, h5py.Group):
        raise Odd(f"{where} is a {type(item).__name__}")
    _check_attributes(item, where)
    return item


def _check_attributes(item: h5py.Group | h5py.Dataset, where: str) -> None:
    """Each is one text or a few numbers: many texts may all point to the same large one."""
    for name in set(item.attrs) - LIBRARY:
        kind = item.attrs.get_id(name)
        size = np.prod(kind.shape or (), dtype=float) * kind.dtype.itemsize
        if not _plain(kind.dtype) or (kind.shape and (kind.dtype.kind == "O" or size > MAX_ARRAY)):
            raise Odd(f"{where} has the attribute {name} of the type {kind.dtype} {kind.shape}")


def _check_dataset(item: h5py.Dataset, where: str) -> None:
    made = item.id.get_create_plist()
    if made.get_layout() not in LAYOUTS or made.get_external_count():
        raise Odd(f"{where} keeps its data in another file")
    filters = {code: values for code, _, values, _ in map(made.get_filter, range(made.get_nfilters()))}
    if not filters.keys() <= FILTERS:
        raise Odd(f"{where} uses the filters {sorted(filters)}")
    if filters.get(h5py.h5z.FILTER_SHUFFLE, (item.dtype.itemsize,)) != (item.dtype.itemsize,):
        raise Odd(f"{where} is shuffled by {filters[h5py.h5z.FILTER_SHUFFLE]} bytes")
    if item.shape is None or not _plain(item.dtype):
        raise Odd(f"{where} has the type {item.dtype}")
    if item.chunks and np.prod(item.chunks, dtype=float) * item.dtype.itemsize > MAX_CHUNK:
        raise Odd(f"{where} has chunks of {item.chunks}")
    declared = np.prod(item.shape, dtype=float) * item.dtype.itemsize
    if np.prod(item.shape[1:], dtype=float) * item.dtype.itemsize > (MAX_BYTES if item.dtype.itemsize == 1 else MAX_CHUNK):
        raise Odd(f"{where} has rows of {item.shape[1:]}")
    if declared > MAX_RATIO * item.id.get_storage_size() + SLACK:
        raise Odd(f"{where} declares {item.shape} but stores {item.id.get_storage_size()} bytes")


def _plain(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iufSb" or h5py.check_string_dtype(dtype) is not None


def attributes(item: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    """The attributes that chanattr wrote, by name in order; `walk` has looked at their types."""
    return {name: item.attrs[name] for name in sorted(set(item.attrs) - LIBRARY)}


def present(item: h5py.Dataset, start: int, end: int) -> None:
    """Refuses rows whose chunks are listed but not found: HDF5 gives the fill value for them, as if it had been written.

    Where an entry of the index of chunks is damaged, a chunk may be seen by who goes through all of them (`layout_sha256`) and not by who
    looks it up.

    Raises:
        RuntimeError: a chunk that the rows from `start` to before `end` need is not found.
    """
    if not item.chunks or not item.size:
        return
    rows = range(start - start % item.chunks[0], end, item.chunks[0])
    rest = [range(0, size, step) for size, step in zip(item.shape[1:], item.chunks[1:], strict=True)]
    for offset in itertools.product(rows, *rest):
        item.id.read_direct_chunk(offset)


def read_text(item: h5py.Dataset, limit: int) -> list[str]:
    """All strings of a dataset, a block at a time.

    Raises:
        ValueError: more text than the file has bytes: many entries that point to the same large one.
    """
    found: list[str] = []
    room = limit
    for start in range(0, len(item), 1024):
        present(item, start, min(start + 1024, len(item)))
        block = [str(text) for text in item.asstr()[start:start + 1024]]
        room -= sum(map(len, block)) + len(block)  # an entry takes room too, though it be empty
        if room < 0:
            raise ValueError(f"{item.name} has more text than the file has bytes")
        found += block
    return found


def key_digests(keys: Sequence[str]) -> np.ndarray:
    """The first bytes of every key's sha256, u1 [N, KEY_BYTES]."""
    found = b"".join(hashlib.sha256(key.encode(errors="surrogateescape")).digest()[:KEY_BYTES] for key in keys)
    return np.frombuffer(found, np.uint8).reshape(len(keys), KEY_BYTES)


def header_sha256(found: dict[str, h5py.Group | h5py.Dataset], keys: list[str]) -> str:
    """Digest of everything outside the checksummed chunks: names, types, shapes, attributes and keys."""
    digest = hashlib.sha256()
    for where in sorted(found):
        item = found[where]
        about = f"{item.dtype}{item.shape}{item.compression}{item.fletcher32}" if isinstance(item, h5py.Dataset) else "group"
        say(digest, where, about)
        for name, value in attributes(item).items():
            if (where, name) != ("/", "header_sha256"):
                say(digest, name, value if isinstance(value, str) else f"{np.asarray(value).dtype}{np.asarray(value).tolist()}")
    say(digest, *keys)
    return digest.hexdigest()


def layout_sha256(found: dict[str, h5py.Group | h5py.Dataset]) -> str:
    """Digest of where every piece of data lies, and of all texts but the keys: what neither a chunk's checksum nor the header's covers.

    A damaged index may name another chunk, whole in itself, or none; "" where the HDF5 at hand cannot tell where chunks lie.
    """
    digest = hashlib.sha256()
    for where in sorted(found):
        item = found[where]
        if not isinstance(item, h5py.Dataset):
            continue
        if not hasattr(item.id, "chunk_iter"):
            return ""
        places: list[tuple[Any, ...]] = []
        if item.chunks:
            item.id.chunk_iter(lambda chunk, places=places: places.append(tuple(chunk)))
        say(digest, where, repr(sorted(places) if item.chunks else item.id.get_offset()))
        if h5py.check_string_dtype(item.dtype) is not None and where != "/image":
            say(digest, *read_text(item, item.file.id.get_filesize()))
    return digest.hexdigest()


def changed(found: dict[str, h5py.Group | h5py.Dataset], keys: list[str], about: Mapping[str, Any]) -> str:
    """What of a merged file is not as the digests in its attributes say; "" where all is.

    Raises:
        LookupError: it states none.
    """
    if header_sha256(found, keys) != about["header_sha256"]:
        return "its names, keys or attributes have changed since it was written"
    if (stated := about.get("layout_sha256")) and layout_sha256(found) not in ("", stated):
        return "its chunks lie elsewhere, or its texts differ, since it was written"
    return ""


def say(digest: Any, *pieces: str | bytes) -> None:
    """Adds texts and bytes to a digest, each after its length, so that none runs into the next."""
    for piece in pieces:
        data = piece.encode(errors="surrogateescape") if isinstance(piece, str) else piece
        digest.update(len(data).to_bytes(8, "little") + data)
