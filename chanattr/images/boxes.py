"""The boxes of the objects in a picture, and what every file of annotations must say of one."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32

from chanattr.errors import InputError

SHOWN = 3
Classify = Callable[[str], int]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageBoxes:
    """The boxes of one picture, which has B of them.

    Attributes:
        boxes: left, top, right, bottom in pixels of the picture file, f4 [B, 4]: 0 is the picture's left (upper) edge and 1 the first
            pixel's right (lower) one, so that a box over the first pixel alone is 0, 0, 1, 1.
        classes: class index of each, i4 [B]; -1 a class that the model does not have.
        difficult: whether the annotators called the object hard to recognise, bool [B].
        size: (width, height) of the picture; (0, 0) where the file does not say.
    """

    boxes: Float32[np.ndarray, "B 4"]
    classes: Int32[np.ndarray, " B"]
    difficult: Bool[np.ndarray, " B"]
    size: tuple[int, int]


class Box(NamedTuple):
    """One box: left, top, right, bottom in pixels, its class, and whether it is hard to recognise."""

    corners: tuple[float, float, float, float]
    label: int
    difficult: bool


class Told(NamedTuple):
    """One picture as a file of annotations tells it; `where` is for messages."""

    key: str
    boxes: list[Box]
    size: tuple[int, int]
    where: str


def joined(found: Iterable[Told]) -> dict[str, ImageBoxes]:
    """One record a picture, of all its entries.

    Raises:
        InputError: a picture of two sizes, or a box outside of its picture.
    """
    pictures: dict[str, list[Told]] = {}
    for one in found:
        pictures.setdefault(one.key, []).append(one)
    return {key: _record(entries) for key, entries in pictures.items()}


def _record(entries: Sequence[Told]) -> ImageBoxes:
    sizes = {one.size for one in entries if one.size != (0, 0)}
    where = entries[0].where
    if len(sizes) > 1:
        raise InputError(f"{where} is said to have the sizes {sorted(sizes)}; expected one picture of one size; mend the file")
    size = sizes.pop() if sizes else (0, 0)
    boxes = [box for one in entries for box in one.boxes]
    corners = np.array([box.corners for box in boxes], np.float32).reshape(-1, 4)
    if size != (0, 0):
        inside = np.clip(corners, 0, np.array([*size, *size], np.float32))
        gone = ((inside[:, :2] >= inside[:, 2:]) & (corners[:, :2] < corners[:, 2:])).any(1)
        if gone.any():
            raise InputError(f"{where} has a box {corners[gone][0].tolist()} outside of its {size[0]} x {size[1]} pixels; expected left, "
                             "top, right and bottom within; mend the file, or its width and height")
        corners = inside
    return ImageBoxes(boxes=corners, classes=np.array([box.label for box in boxes], np.int32),
                      difficult=np.array([box.difficult for box in boxes], bool), size=size)


def bounded_bytes(place: Path, largest: int) -> bytes:
    """The bytes of a file that is not larger than it can be.

    Raises:
        InputError: it is, or it cannot be read.
    """
    try:
        with place.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(largest + 1) if size <= largest else b""
    except OSError as error:
        raise InputError(f"{place} cannot be read ({error.strerror or error}); expected a file of annotations; check the path and its "
                         "rights") from error
    if size > largest or len(data) > largest:
        raise InputError(f"{place} has {size} bytes; expected annotations of at most {largest}; cut it to the pictures asked about")
    return data


def corners_of(box: Any, where: str) -> tuple[float, float, float, float]:
    """Left, top, right, bottom, of a list of them.

    Raises:
        InputError: four finite numbers in that order they are not.
    """
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(value) for value in box):
        raise InputError(f"{where} has a box {str(box)[:80]}; expected four finite numbers; mend the file")
    left, top, right, bottom = (float(value) for value in box)
    if not (left <= right and top <= bottom):
        raise InputError(f"{where} has a box {[left, top, right, bottom]}, which ends before it begins; expected left, top, right, bottom "
                         "in pixels; mend the file (COCO's left, top, width, height are for COCO's form)")
    return left, top, right, bottom


def is_number(value: Any) -> bool:
    """Whether it is a number of pixels: finite, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9 and math.isfinite(value)


def size_of(width: Any, height: Any, where: str) -> tuple[int, int]:
    """(width, height); (0, 0) where they are not told.

    Raises:
        InputError: they are no whole pixels.
    """
    if not all(is_number(side) and side >= 0 and side == int(side) for side in (width, height)):
        raise InputError(f"{where} has a size of {width!r} x {height!r}; expected whole pixels; mend it, or leave width and height out")
    return (int(width), int(height)) if width and height else (0, 0)


def shown(names: Iterable[str]) -> str:
    """The first few, for a message."""
    listed = [repr(str(name)[:60]) for name, _ in zip(names, range(SHOWN + 1), strict=False)]
    return ", ".join(listed[:SHOWN]) + (", ..." if len(listed) > SHOWN else "")
