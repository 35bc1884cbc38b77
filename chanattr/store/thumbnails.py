"""Small pictures, read one at a time."""

from __future__ import annotations

import numpy as np

from chanattr.errors import StoreError
from chanattr.store.index import Index


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
        group = root["images"]
        height, width = int(group["height"][place]), int(group["width"][place])
        picture = np.asarray(group["thumbnail"][place, :height, :width])
    if picture.shape != (height, width, 3) or picture.dtype != np.uint8:
        raise StoreError(f"the thumbnail of {key!r} is {picture.dtype} {picture.shape}; expected uint8 {(height, width, 3)}; "
                         "take the file from a backup, or make it again")
    return picture
