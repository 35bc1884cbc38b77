"""Picture files to upright RGB and thumbnails; what is no whole picture is refused, whatever Pillow says of it."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from chanattr.errors import ImageError
from chanattr.images.find import PathLike

SHORT_SIDE = 128
TRANSPARENT = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
LONGEST = 4  # times the short side: a picture as thin as a hair would make a thumbnail of hundreds of megabytes
# What Pillow raises for a file that is broken in one way or another; it documents no common base.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, MemoryError, OverflowError)


def open_image(path: PathLike) -> Image.Image:
    """A picture file as RGB, turned upright as its EXIF orientation says.

    Transparent pixels are put on white, 16-bit grey is divided by 256 (never clipped), of an animation the first frame is taken.

    Raises:
        ImageError: no such file, not a picture, truncated, or so large that it may be meant to fill the memory.
    """
    return decode(read_bytes(Path(path)), Path(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror or error}); expected a picture file; "
                         "check the path and its rights") from error


def decode(data: bytes, path: Path) -> Image.Image:
    """RGB, upright.

    Raises:
        ImageError: not a whole picture; `path` is for the message.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks about odd metadata; a picture that may be a bomb is refused all the same
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as opened:
                opened.load()
                return _rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not a picture that Pillow knows; expected JPEG, PNG, GIF, BMP, WebP or TIFF; "
                         "take it away or convert it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path} has more pixels than is safe to open; expected at most {Image.MAX_IMAGE_PIXELS}; "
                         "make it smaller") from error
    except BROKEN as error:
        raise ImageError(f"{path} cannot be decoded ({type(error).__name__}: {error}); expected a whole picture of 8 or 16 bits; "
                         "fetch or save it again") from error


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        picture = _eight_bits(picture)
    if picture.mode in TRANSPARENT or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits over 256, for Pillow's own conversion clips at 255; other ranges are refused: nothing says what white is."""
    values = np.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"values of mode {picture.mode} from {values.min()} to {values.max()}, not grey of 8 or 16 bits")
    return Image.fromarray((values // 256).astype(np.uint8))


def thumbnail_of(picture: Image.Image) -> np.ndarray:
    """Short side 128; of a very long picture its middle."""
    width, height = (min(side, LONGEST * min(picture.size)) for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    share = SHORT_SIDE / min(width, height)
    size = (round(width * share), round(height * share))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height)), np.uint8)
