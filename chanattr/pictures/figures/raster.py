"""Pictures of energy in plain numpy: bilinear resize, glow over a grey picture, dimming, data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from chanattr.arguments import listed
from chanattr.codes import laid_out
from chanattr.errors import InputError
from chanattr.pictures.figures.theme import GLOW


def resize(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, pixel centres aligned, edges held: f4 [h, w] or [h, w, 3] to [height, width, ...]."""
    for axis, size in ((0, height), (1, width)):
        old = values.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.floor(place).astype(int)
        share = (place - low).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        high = np.minimum(low + 1, old - 1)
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values


def unit(energy: np.ndarray) -> np.ndarray:
    """Energy from 0 to 1 as it lies over the picture, by its own largest value; all 0 where there is none or it is not finite."""
    energy = laid_out(energy)
    energy = np.where(np.isfinite(energy), energy, 0).astype(np.float32)
    top = energy.max(initial=0)
    return np.clip(energy / top, 0, 1) if top > 0 else np.zeros_like(energy)


def glow_rgba(strength: np.ndarray) -> np.ndarray:
    """Colours of energy in [0, 1] to lay over a picture: u1 [..., 4]; faint energy is transparent."""
    stops = [place for place, _ in GLOW]
    colour = [np.interp(strength, stops, [c[i] for _, c in GLOW]) for i in range(3)]
    alpha = 255 * 0.86 * np.clip(strength / 0.75, 0, 1) ** 1.15
    return np.stack([*colour, alpha], -1).round().astype(np.uint8)


def glow(picture: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """The picture in darkened grey with the energy glowing over it: u1 [H, W, 3]."""
    picture = check_picture(picture)
    over = glow_rgba(resize(strength, *picture.shape[:2])).astype(np.float32)
    grey = (picture @ np.array([0.299, 0.587, 0.114]))[..., None] * 0.72
    share = over[..., 3:] / 255
    blended: np.ndarray = grey * (1 - share) + over[..., :3] * share
    return blended.round().astype(np.uint8)


def dim(picture: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """The picture, down to 0.18 of it where there is little energy: u1 [H, W, 3]."""
    picture = check_picture(picture)
    left = 0.18 + 0.82 * np.clip(resize(strength, *picture.shape[:2]), 0, 1) ** 0.8
    dimmed: np.ndarray = picture * left[..., None]
    return dimmed.round().astype(np.uint8)


def outlined(picture: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The picture with a white line, a hundredth of its side broad, around a bool region [H, W], and a dark one around that."""
    line = max(1, round(min(picture.shape[:2]) / 100))
    drawn = check_picture(picture).copy()
    drawn[_grown(inside, 2 * line) & ~_grown(inside, line)] = 20
    drawn[_grown(inside, line) & ~inside] = 255
    return drawn


def _grown(region: np.ndarray, steps: int) -> np.ndarray:
    """A region and what lies so many steps beside it."""
    for _ in range(steps):
        wide = np.pad(region, 1)
        region = wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    return region


def check_picture(picture: np.ndarray) -> np.ndarray:
    """The picture as it came.

    Raises:
        InputError: not u1 [H, W, 3].
    """
    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise InputError(f"a picture of type {picture.dtype} and shape {picture.shape}; expected uint8 [H, W, 3], "
                         "as run.thumbnail(key) gives")
    return picture


def check_pictures(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The pictures as they came.

    Raises:
        InputError: no list, or not each u1 [H, W, 3].
    """
    return [check_picture(picture) for picture in listed("pictures", pictures, "pictures", "write [picture] for one", least=0)]


def rgb(pictures: np.ndarray) -> np.ndarray:
    """Grey pictures [..., 1] as RGB; others as they are."""
    return np.repeat(pictures, 3, -1) if pictures.shape[-1] == 1 else pictures


def data_uri(picture: np.ndarray, *, kind: str = "JPEG", quality: int = 80) -> str:
    """A picture u1 [H, W, 3 or 4] as a data URI; "PNG" keeps every value and transparency."""
    buffer = io.BytesIO()
    options = {"quality": quality} if kind == "JPEG" else {"optimize": True}
    Image.fromarray(picture).save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
