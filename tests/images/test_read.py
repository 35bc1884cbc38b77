"""Picture files become upright RGB; what is none is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import chanattr as ca
from chanattr.images import open_image
from tests.images.make import save, write_half, write_text


def ramp16() -> np.ndarray:
    return (np.arange(64 * 64, dtype=np.uint32).reshape(64, 64) * 16).astype(np.uint16)


def write_grey16(path: Path) -> None:
    Image.fromarray(ramp16()).save(path)


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.pgm"])
def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    write_grey16(tmp_path / name)
    seen = np.asarray(open_image(tmp_path / name))
    np.testing.assert_array_equal(seen, np.repeat((ramp16() // 256).astype(np.uint8)[..., None], 3, axis=2))


def test_grey_of_8_bits_becomes_three_equal_channels(tmp_path: Path) -> None:
    values = np.arange(30, dtype=np.uint8).reshape(5, 6)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png")), np.repeat(values[..., None], 3, axis=2))


@pytest.mark.parametrize(("pixel", "expected"), [
    ((10, 20, 30, 255), (10, 20, 30)),
    ((10, 20, 30, 0), (255, 255, 255)),
    ((0, 0, 0, 51), (204, 204, 204)),
])
def test_transparency_is_put_on_white(tmp_path: Path, pixel: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    Image.new("RGBA", (3, 2), pixel).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((1, 1)) == expected


def test_a_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([200, 0, 0, 0, 0, 200])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "plain.png")
    picture.save(tmp_path / "holes.png", transparency=1)
    assert [open_image(tmp_path / "plain.png").getpixel((x, 0)) for x in (0, 1)] == [(200, 0, 0), (0, 0, 200)]
    assert [open_image(tmp_path / "holes.png").getpixel((x, 0)) for x in (0, 1)] == [(200, 0, 0), (255, 255, 255)]


def test_grey_with_transparency(tmp_path: Path) -> None:
    Image.new("LA", (2, 2), (40, 0)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = open_image(tmp_path / "a.jpg").getpixel((4, 4))
    assert red < 10
    assert min(green, blue) > 240


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((2, 4, 3), np.uint8)
    upright[0, 0], upright[1, 3] = (255, 0, 0), (0, 255, 0)
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
              6: np.rot90(upright, 1), 7: np.rot90(upright, 2).swapaxes(0, 1), 8: np.rot90(upright, -1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png")), upright)


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_half_png(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:3000])


def write_float(path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)).save(path, "TIFF")


def write_wide(path: Path) -> None:
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save(path, "TIFF")


BAD: tuple[tuple[Callable[[Path], None], str], ...] = (
    (write_text, "is not a picture that Pillow knows; expected JPEG"),
    (write_nothing, "is not a picture that Pillow knows"),
    (write_half, "cannot be decoded .*truncated"),
    (write_half_png, "cannot be decoded"),
    (write_float, "values of mode F from 0.0 to 1.0, not grey of 8 or 16 bits"),
    (write_wide, "values of mode I from 70000 to 70000"),
    (Path.mkdir, "cannot be read"),
    (lambda path: None, "cannot be read .No such file"),
)


@pytest.mark.parametrize(("write", "message"), BAD)
def test_a_file_that_is_no_picture(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    write(tmp_path / "a.jpg")
    with pytest.raises(ca.ImageError, match=message):
        open_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("limit", [20, 5])  # Pillow warns over the limit and refuses over twice the limit
def test_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ca.ImageError, match=f"more pixels than is safe to open; expected at most {limit}"):
        open_image(tmp_path / "a.png")
