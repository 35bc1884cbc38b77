"""Where in a picture file the network's input lies: told by a resize and a centre crop, or measured on any preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from chanattr.errors import InputError
from chanattr.images.boxes import ImageBoxes

MIDDLE = 0.5  # of the input's side, where a ramp is read: resampling bends it at the edges
TILT = 0.1  # of a ramp's rise, along its other side, so that no two rows are rounded alike
BENT = 2.0  # pixels of the input by which a ramp may leave its straight line
Side = int | tuple[int, int]


class Frame(NamedTuple):
    """The part of a picture file that a network's input shows.

    Attributes:
        left, top, right, bottom: its edges in pixels of the file, as of boxes: the whole picture is 0, 0, width, height. Beyond the picture
            where the input is padded.
        height, width: of the input, in its own pixels.
    """

    left: float
    top: float
    right: float
    bottom: float
    height: int
    width: int

    @property
    def region(self) -> np.ndarray:
        """Left, top, right and bottom, f8 [4]."""
        return np.array(self[:4], float)


def resize_and_crop(size: tuple[int, int], resize: Side | None, crop: Side | None) -> Frame:
    """The frame of the usual preprocessing.

    Args:
        size: (width, height) of the picture.
        resize: the short side's new length, its aspect kept; or (height, width); None does not resize.
        crop: of the middle, one side or (height, width), padded where the picture is smaller; None does not crop.

    Raises:
        InputError: a side below 1.

    Source: torchvision's ``Resize`` and ``CenterCrop``, with their roundings.

    Examples:
        >>> resize_and_crop((400, 200), 100, 80)
        Frame(left=120.0, top=20.0, right=280.0, bottom=180.0, height=80, width=80)
    """
    for name, given in {"size": size, "resize": resize, "crop": crop}.items():
        if given is not None and min(given if isinstance(given, tuple) else (given,)) < 1:
            raise InputError(f"{name}={given!r}; expected pixels from 1; give (width, height) as size, and a side or (height, width) for "
                             "the others")
    width, height = size
    tall, wide = _resized(height, width, resize)
    cut = (tall, wide) if crop is None else crop if isinstance(crop, tuple) else (crop, crop)
    top, bottom = _cropped(tall, cut[0])
    left, right = _cropped(wide, cut[1])
    return Frame(left * width / wide, top * height / tall, right * width / wide, bottom * height / tall, *cut)


def measured_frame(preprocess: Callable[[Image.Image], Any], size: tuple[int, int]) -> Frame:
    """The frame of any preprocessing that scales and cuts, found by what it makes of four pictures: black, white, and two ramps.

    Good to a quarter of a pixel, of the file or the input, whichever is coarser; to one where the input shows under half of a side. What
    is random in it must not move pixels.

    Args:
        preprocess: an RGB picture to floats [C, H, W], as a model takes them.
        size: (width, height) of the picture.

    Raises:
        InputError: it does something else: turns or bends the picture, or normalises each by its own values.

    Examples:
        >>> import torch
        >>> def halved(picture):
        ...     return torch.from_numpy(np.asarray(picture.reduce(2), np.float32)).permute(2, 0, 1)
        >>> [round(float(edge), 1) for edge in measured_frame(halved, (64, 48)).region]
        [0.0, 0.0, 64.0, 48.0]
    """
    width, height = size
    if min(size) < 2:
        raise InputError(f"size={size!r}; expected a picture of 2 x 2 pixels or more, for in others nothing shows how they are scaled; "
                         "use resize_and_crop")
    x, y = np.linspace(0, 255, width)[None], np.linspace(0, 255, height)[:, None]
    noise = np.random.default_rng(0).random((height, width))
    black, white, across, down = (_seen(preprocess, grey, noise) for grey in (
        np.zeros((1, 1)), np.full((1, 1), 255), (1 - TILT) * x + TILT * y, TILT * x + (1 - TILT) * y))
    middle = tuple(slice(int(n * (1 - MIDDLE) / 2), max(int(n * (1 + MIDDLE) / 2), 2)) for n in black.shape)
    span = (white - black)[middle]
    if not np.isfinite(span).all() or (np.abs(span) <= 1e-6 * np.abs(white).max()).any():
        raise InputError("preprocess gives the same for black and for white pictures, so nothing tells where pixels go; expected fixed "
                         "factors for all pictures; use resize_and_crop with its sizes")
    one, other = ((seen - black)[middle] / span for seen in (across, down))
    horizontal, vertical = (((1 - TILT) * mine - TILT * its) / (1 - 2 * TILT) * (side - 1) + 0.5
                            for mine, its, side in ((one, other, width), (other, one, height)))
    left, right = _edges(horizontal, width, middle[1].start, black.shape[1])
    top, bottom = _edges(vertical.T, height, middle[0].start, black.shape[0])
    return Frame(left, top, right, bottom, *black.shape)


def regions_of(frame: Callable[[tuple[int, int]], Frame], annotations: Mapping[str, ImageBoxes], keys: Sequence[str],
               sizes: Mapping[str, tuple[int, int]] | None = None) -> Float[np.ndarray, "N 4"]:
    """The region of each picture's file that the network saw, f8 [N, 4], as `pointing_game` takes it; NaN for pictures without boxes.

    Args:
        frame: of a size, such as ``lambda size: measured_frame(preprocess, size)``; called once a size.
        annotations: by key; see `for_keys`.
        keys: of the pictures.
        sizes: (width, height) of the files, for those whose annotations do not tell.

    Raises:
        InputError: a picture whose size nobody tells.
    """
    known: dict[tuple[int, int], np.ndarray] = {}
    found = np.full((len(keys), 4), np.nan)
    for row, key in enumerate(keys):
        if key not in annotations:
            continue
        size = annotations[key].size
        size = (sizes or {}).get(key, size) if size == (0, 0) else size
        if size == (0, 0):
            raise InputError(f"{key!r} has boxes, but its annotations do not tell its width and height; expected both; add them, or pass "
                             "sizes=")
        if size not in known:
            known[size] = frame(size).region
        found[row] = known[size]
    return found


def _resized(height: int, width: int, resize: Side | None) -> tuple[int, int]:
    if resize is None or isinstance(resize, tuple):
        return (height, width) if resize is None else resize
    short, long = sorted((height, width))
    longer = int(resize * long / short)
    return (resize, longer) if height <= width else (longer, resize)


def _cropped(side: int, crop: int) -> tuple[float, float]:
    """Where a crop of the middle begins and ends."""
    pad = max(0, crop - side)
    first = round((side + pad - crop) / 2) - pad // 2
    return float(first), float(first + crop)


def _seen(preprocess: Callable[[Image.Image], Any], grey: np.ndarray, noise: np.ndarray) -> Float[np.ndarray, "H W"]:
    """What the preprocessing makes of a grey picture, meaned over channels; levels between two whole ones are either, at random."""
    levels = np.floor(grey + noise).clip(0, 255).astype(np.uint8) if grey.size > 1 else np.full(noise.shape, grey, np.uint8)
    values = np.asarray(preprocess(Image.fromarray(np.repeat(levels[..., None], 3, axis=2))), float)
    if values.ndim != 3 or min(values.shape[1:]) < 2:
        raise InputError(f"preprocess gave shape {values.shape} for a picture; expected [C, H, W], H and W at least 2; use resize_and_crop")
    return np.asarray(values.mean(0))


def _edges(place: Float[np.ndarray, "h w"], side: int, first: int, columns: int) -> tuple[float, float]:
    """Where the input's left and right edge lie in the file.

    Args:
        place: in the file that each pixel of the input's middle shows.
        side: of the file.
        first: column of the middle.
        columns: of the input.

    Raises:
        InputError: the columns do not follow a straight line, or the upper rows differ from the lower.
    """
    half = len(place) // 2
    centre = first + np.arange(place.shape[1]) + 0.5
    scale, left = np.polyfit(centre, place.mean(0), 1)
    bent = max(np.abs(rows.mean(0) - (left + scale * centre)).max() for rows in (place[:half], place[half:]))
    if not scale > 0 or not bent <= BENT * max(scale, side / 255):
        raise InputError(f"preprocess moves pixels in a way that is no resize and crop (up to {bent:.1f} pixels of the file off a straight "
                         "line); expected one that only scales and cuts; give the regions yourself")
    return float(left), float(left + scale * columns)
