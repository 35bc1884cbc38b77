"""A contact sheet of pictures with a few words, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from chanattr.errors import InputError

MARGIN, WORDS = 6, 13  # pixels between pictures, and of a line of words


class SheetRow(NamedTuple):
    """One row: what it is, its pictures u1 [H, W, 3 or 1], and below each a line of words ("" for none).

    A line that is too long loses its end, or, where these are keys, its beginning: numbers stand at the end of a key.
    """

    title: str
    pictures: tuple[np.ndarray, ...]
    below: tuple[str, ...]
    keys: bool = False


def contact_sheet(rows: Sequence[SheetRow], side: int = 160) -> UInt8[np.ndarray, "H W 3"]:
    """Rows of pictures, each in a square of `side` pixels, on white.

    Raises:
        InputError: no rows.

    Examples:
        >>> contact_sheet([SheetRow("grey", (np.zeros((8, 8, 3), np.uint8),) * 2, ("a", "b"))], side=20).shape
        (58, 58, 3)
    """
    if not rows or not all(len(row.pictures) == len(row.below) for row in rows):
        raise InputError(f"a sheet of {len(rows)} rows; expected one or more, with a line of words for each picture; give it "
                         "something to show")
    wide = MARGIN + max(len(row.pictures) for row in rows) * (side + MARGIN)
    high = side + 2 * WORDS + 2 * MARGIN
    sheet = Image.new("RGB", (wide, high * len(rows)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for number, row in enumerate(rows):
        top = number * high + MARGIN
        draw.text((MARGIN, top), _plain(row.title), fill="black", font=font)
        for place, (picture, below) in enumerate(zip(row.pictures, row.below, strict=True)):
            left = MARGIN + place * (side + MARGIN)
            fitted = _fitted(picture, side)
            sheet.paste(fitted, (left, top + WORDS + MARGIN // 2))
            draw.text((left, top + WORDS + MARGIN // 2 + side), _cut(draw, font, _plain(below), side, row.keys), fill="#555555", font=font)
    return np.asarray(sheet, np.uint8)


def save_png(picture: UInt8[np.ndarray, "H W 3"], path: Path) -> Path:
    """Writes a PNG, its folder made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, "PNG", optimize=True)
    return path


def _fitted(picture: np.ndarray, side: int) -> Image.Image:
    """The picture with its longer side as asked."""
    whole = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).convert("RGB")
    share = side / max(whole.size)
    return whole.resize((max(1, round(whole.width * share)), max(1, round(whole.height * share))), Image.Resampling.LANCZOS)


def _plain(text: str) -> str:
    """What the font can draw."""
    return "".join(c if c.isprintable() else "?" for c in text).encode("latin-1", "replace").decode("latin-1")


def _cut(draw: ImageDraw.ImageDraw, font: object, text: str, wide: int, end: bool) -> str:
    """The text as far as it fits, from its beginning or, after three dots, from its end."""
    shown = text
    while text and draw.textlength(shown, font=font) > wide:  # type: ignore[arg-type]
        text = text[1:] if end else text[:-1]
        shown = f"...{text}" if end else text
    return shown if text else ""
