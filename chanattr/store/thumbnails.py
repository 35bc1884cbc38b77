"""Small pictures, read one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chanattr.errors import StoreError
from chanattr.store.index import Index
from chanattr.store.source import read_rows


def read_thumbnail(index: Index, key: str) -> np.ndarray:
    """The small picture of an image, u1 [y, x, rgb].

    Raises:
        StoreError: the file has none of it.
    """
    if key not in index.thumbnails:
        known = "the image is in the file, but without one" if key in index.row else "no such image in the file"
        raise StoreError(f"no thumbnail of {key!r} ({known}); expected one of the {len(index.thumbnails)} kept; open the picture itself")
    source, place = index.thumbnails[key]
    with source.open() as root:
        return picture_at(root["images"], place)


def picture_at(group: Mapping[str, Any], place: int) -> np.ndarray:
    """The small picture in a place of a group of them, u1 [y, x, rgb], without what fills it up to the size of all.

    Raises:
        ValueError: it is no such picture.
    """
    height, width, padded = (read_rows(group[name], np.array([place]))[0] for name in ("height", "width", "thumbnail"))
    picture = padded[:int(height), :int(width)]
    if picture.shape != (height, width, 3) or picture.dtype != np.uint8 or not picture.size:
        raise ValueError(f"a thumbnail is {picture.dtype} {picture.shape}, not uint8 {(int(height), int(width), 3)}")
    return picture
