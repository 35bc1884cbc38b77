"""Immutable parts: small HDF5 files named by number and sha256, durable before the call that writes one returns."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from chanattr.errors import StoreError
from chanattr.store.layout import FORMAT_VERSION, PART_FORMAT, Column, Head
from chanattr.store.picture_layout import PictureHead

WRITING = ".writing"
MAX_PART = 2**29  # bytes: a part is read whole
_NAME = re.compile(r"(\d{6,18})-([0-9a-f]{64})\.h5", re.ASCII)  # a number that HDF5 can hold


class PartGone(StoreError):
    """A part that was there a moment ago was merged by another process."""


@dataclass(frozen=True)
class Place:
    """Where the pieces of a run lie.

    Attributes:
        file: the run file, there once merged.
    """

    file: Path

    def __post_init__(self) -> None:
        """Takes the run's real name where the one given is a link: both have one lock, one folder of parts, and one file to replace.

        Raises:
            StoreError: the link leads round to itself.
        """
        if self.file.is_symlink():
            real = Path(os.path.realpath(self.file))
            if real.is_symlink():
                raise StoreError(f"{self.file} is a link that leads round to itself; expected a run file, or a link to one; pass its path")
            object.__setattr__(self, "file", real)

    @property
    def parts(self) -> Path:
        """Folder of the parts."""
        return self.file.with_name(self.file.name + ".parts")

    @property
    def lock(self) -> Path:
        """The writer's lock; stays for good."""
        return self.file.with_name(self.file.name + ".lock")

    @property
    def merging(self) -> Path:
        """The next run file while it is written."""
        return self.file.with_name(self.file.name + ".merging")


def is_of_run(path: Path, file: Path) -> bool:
    """Whether a path is the run file, anything that belongs to it, or lies in that: it must not be written over."""
    real, place = Path(os.path.realpath(path)), Place(Path(os.path.realpath(file)))
    inside = {real, *real.parents} & {place.file, place.parts, place.lock, place.merging}
    return bool(inside) or (real.exists() and file.exists() and real.samefile(file))


@dataclass(frozen=True)
class PartName:
    """A part by its name."""

    number: int
    sha256: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class ImageRows:
    """Rows of the image table of a part: keys, sha256 u1 [N, 32], label i4 [N], and thumbnails by row."""

    keys: Sequence[str]
    sha256: np.ndarray
    label: np.ndarray
    thumbnails: Mapping[int, np.ndarray]


def list_parts(folder: Path) -> list[PartName]:
    """The parts of a run in order of writing; other files are passed over."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{folder} cannot be read ({error.strerror}); expected the folder of parts of a run; "
                         "change its permissions, or move away what lies there") from error
    found = [(match, folder / name) for name in names if (match := _NAME.fullmatch(name))]
    return sorted((PartName(int(match[1]), match[2], path) for match, path in found), key=lambda part: (part.number, part.sha256))


def read_part(part: PartName) -> bytes:
    """The bytes of a part, checked against its name.

    Raises:
        StoreError: they are not what was written.
        PartGone: by a merge in another process.
    """
    try:
        about = part.path.stat()
        fits = stat.S_ISREG(about.st_mode) and about.st_size <= MAX_PART
        data = part.path.read_bytes() if fits else b""
    except FileNotFoundError as error:
        raise PartGone(f"{part.path} is gone since the run was opened; expected it to stay; another process has merged it into the run "
                       "file: open the run again") from error
    except OSError as error:
        raise StoreError(f"{part.path} cannot be read ({error.strerror}); expected a part of a run; check the disk and the "
                         "permissions") from error
    if not fits:
        raise StoreError(f"{part.path} is no plain file of at most {MAX_PART} bytes; expected a part as it was written; move it away: "
                         "its images are searched again when the run goes on, and nothing else is lost")
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise StoreError(f"{part.path} is damaged ({len(data)} bytes whose sha256 is not the one in its name); expected a part as it was "
                         "written; delete it: its images are searched again when the run goes on, and nothing else is lost")
    return data


def is_torn(part: PartName) -> bool:
    """Whether a part ends before its end, or in zeros that it was not written with: never written out, rather than changed.

    Source: HDF5 File Format Specification, II.A, superblock version 0: the end of the file stands at byte 40.
    """
    try:
        if not part.path.is_file() or part.path.stat().st_size > MAX_PART:
            return False
        data = part.path.read_bytes()
    except OSError:
        return False
    if len(data) >= 48 and hashlib.sha256(data).hexdigest() == part.sha256:
        return False
    return len(data) < 48 or len(data) < int.from_bytes(data[40:48], "little") or not any(data[-512:])


def write_part(place: Place, number: int, data: bytes) -> PartName:
    """Writes a part so that it is there whole or not at all, and still there after a power cut once this returns.

    Raises:
        StoreError: the disk is full, the folder cannot be written to, or the part is too large to be read again.
    """
    if len(data) > MAX_PART:
        raise StoreError(f"{len(data)} bytes of answers came at once; expected at most {MAX_PART} a part; write fewer rows at a time "
                         "(a smaller shard_size)")
    if number >= 10**18:
        raise StoreError(f"a part of {place.file} has the number {number - 1}; expected them counted from 1, with 18 digits at most; move "
                         "the part with that number away")
    sha256 = hashlib.sha256(data).hexdigest()
    part = PartName(number, sha256, place.parts / f"{number:06d}-{sha256}.h5")
    temporary = place.parts / WRITING
    try:
        if not place.parts.is_dir():
            place.parts.mkdir()
            sync(place.parts.parent)
        temporary.write_bytes(data)
        sync(temporary)
        os.replace(temporary, part.path)
        sync(place.parts)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise cannot_write(part.path, error) from error
    return part


def cannot_write(path: Path, error: Exception) -> StoreError:
    """The error for a write that the system refused."""
    why = getattr(error, "strerror", None) or error
    return StoreError(f"{path} cannot be written ({why}); expected room and permission to write there; make room or change the permissions "
                      "and start again: everything written before is safe")


def sync(path: Path) -> None:
    """Makes a file's content durable, or the names in a folder (where a folder can be opened at all)."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_parts(place: Place, through: int) -> None:
    """Deletes the parts that a merged file holds, and what a killed writer left; then the folder, if that empties it.

    Nothing depends on it: a part that stays is known by its number and passed over.
    """
    with contextlib.suppress(OSError):
        place.merging.unlink(missing_ok=True)
        (place.parts / WRITING).unlink(missing_ok=True)
        for part in list_parts(place.parts):
            if part.number <= through:
                part.path.unlink()
        place.parts.rmdir()


def build_part(run_id: str, *, settings: str = "", images: ImageRows | None = None, head: Head | None = None,
               rows: Sequence[int] | None = None, data: Mapping[Column, np.ndarray] | None = None,
               energy: tuple[np.ndarray, np.ndarray] | None = None,
               pictures: tuple[PictureHead, Mapping[str, np.ndarray]] | None = None) -> bytes:
    """The bytes of a part: the run file's names, but contiguous, without filters, scales and empty rows.

    Args:
        run_id: of the run, so that parts of another are known.
        settings: the run's attributes as JSON, if they are new.
        images: new rows of the image table.
        head: of the answers.
        rows: the classes that the answers' rows are; None for images, where they are the rows of `images`.
        data: the answers' columns.
        energy: rows that keep the energy at every area, i4 [E], and that energy, f2 [E, A, h, w].
        pictures: some that were made, columns by dataset name.
    """
    with h5py.File("part", "w", driver="core", backing_store=False) as root:
        root.attrs.update({"format": PART_FORMAT, "format_version": FORMAT_VERSION, "run_id": run_id})
        if settings:
            root.attrs["settings"] = settings
        if images is not None:
            _put_images(root, images)
        if head is not None:
            group = put_head(root, head)
            group["area"] = head.areas
            if len(head.fill_values):
                group["fill_values"] = head.fill_values
            if head.entry == "group":
                group["groups"] = head.groups
            for column, values in (data or {}).items():
                _put(group, column.name, values)
            if rows is not None:
                group["class"] = np.asarray(rows, "<i4")
            if energy is not None:
                group["energy_row"], group["energy_by_area"] = energy
        if pictures is not None:
            made, columns = pictures
            group = root.create_group(made.path)
            group.attrs.update(made.attributes)
            for name, values in columns.items():
                _put(group, name, values)
        root.flush()
        return bytes(root.id.get_file_image())


def put_head(root: h5py.File, head: Head) -> h5py.Group:
    """The group of some answers with its attributes."""
    group = root.create_group(head.path)
    group.attrs.update({"layer": head.layer, "label": head.label, "settings": head.settings.to_json(), "digest": head.settings.digest(),
                        "grid": np.array(head.grid, "<i4"), **head.provenance, **head.own_attributes})
    return group


def _put(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """An array; one of objects holds texts."""
    group.create_dataset(name, data=values, dtype=h5py.string_dtype() if values.dtype == object else None)


def _put_images(root: h5py.File, images: ImageRows) -> None:
    _put(root, "image", np.array(list(images.keys), dtype=object))
    root["sha256"], root["label"] = images.sha256, images.label
    if images.thumbnails:
        rows = sorted(images.thumbnails)
        sizes = np.array([images.thumbnails[row].shape[:2] for row in rows], "<i4")
        group = root.create_group("images")
        group["row"] = np.array(rows, "<i4")
        group["thumbnail"] = np.stack([framed(images.thumbnails[row], sizes.max(0)) for row in rows])
        group["height"], group["width"] = sizes.T


def framed(picture: np.ndarray, size: np.ndarray) -> np.ndarray:
    """A thumbnail in the upper left corner of a larger picture, black beyond it."""
    height, width = size - picture.shape[:2]
    return np.pad(picture, ((0, height), (0, width), (0, 0)))
