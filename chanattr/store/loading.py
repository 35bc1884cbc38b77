"""A run's file and parts, checked and read as one, again where another process merges them meanwhile."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from chanattr.errors import StoreError
from chanattr.store.index import Index, load
from chanattr.store.parts import PartGone, Place, is_torn, list_parts

T = TypeVar("T")
_log = logging.getLogger(__name__)
TRIES = 5  # a reader whose parts are merged away under it looks again


def check_path(place: Place, mode: str) -> None:
    """Refuses what cannot be a run before anything is touched."""
    if place.file.is_dir():
        raise StoreError(f"{place.file} is a folder; expected a run file; add a file name such as run.h5")
    if place.file.exists() and not place.file.is_file():
        raise StoreError(f"{place.file} is no plain file; expected a run file, which can be read in any order; pass the path of one")
    if not place.file.parent.is_dir():
        raise StoreError(f"{place.file} lies in a folder that does not exist; expected an existing folder; make {place.file.parent} first")
    if mode == "r" and not place.file.exists() and not list_parts(place.parts):
        raise StoreError(f"no run at {place.file}: neither the file nor parts of it; expected a file that 'chanattr attribute' wrote; "
                         "check the path, or make one with that command or in mode 'a'")


def load_place(place: Place, mode: str = "r") -> Index:
    """The index, read again when another process merged meanwhile.

    A last part that is torn, as a power cut may leave it where the disk promised too much, is passed over with a warning: nothing in it had
    been told to be written on a disk that keeps its promises, and its images are searched again. In mode "a" it is set aside.

    Raises:
        StoreError: anything else is damaged.
    """
    return tried(place.file, lambda: _load(place, mode))


def tried(path: Path, attempt: Callable[[], T]) -> T:
    """What an attempt to read a run gives; the next one's where another process merges its parts meanwhile.

    Raises:
        StoreError: they are merged each time, or what the attempt raises.
    """
    for _ in range(TRIES):
        with contextlib.suppress(PartGone):
            return attempt()
    raise StoreError(f"{path} is merged again and again while it is read; expected it to be still for a second; try again")


def load_again(place: Place, stale: Index) -> Index:
    """The index of a run that was merged while it was open for reading; the stale one is closed.

    Raises:
        PartGone: there is another run now.
        StoreError: as `load_place`.
    """
    fresh = load_place(place)
    if fresh.run_id != stale.run_id:
        fresh.close()
        raise PartGone(f"{place.file} is another run since it was opened; expected it to stay; open it again")
    stale.close()
    return fresh


def _load(place: Place, mode: str) -> Index:
    """The index of a file and parts; where they cannot be read for a last part that is torn, of the others.

    Raises:
        PartGone: they were merged meanwhile.
    """
    before, parts = _identity(place.file), list_parts(place.parts)
    file = place.file if before else None
    try:
        index = load(file, parts)
    except PartGone:
        raise
    except StoreError:
        if not parts or not is_torn(parts[-1]):
            raise
        index, last = load(file, parts[:-1]), parts[-1].path
        _log.warning("%s is torn (cut short, or zeros at its end) and passed over%s: its images are searched again", last,
                     "; set aside as .torn" if mode == "a" else "")
        if mode == "a":
            last.replace(last.with_suffix(".torn"))
    if _identity(place.file) != before:
        index.close()
        raise PartGone(f"{place.file} was merged while it was read; expected it to be still; open it again")
    return index


def _identity(file: Path) -> tuple[int, int, int] | None:
    try:
        about = file.stat()
    except FileNotFoundError:
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size
