"""Between the pixels of a picture and the tensor that a model takes: mean, deviation and size, found by asking its preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from chanattr.arguments import check_function
from chanattr.errors import InputError

ASKED = 256  # side of the plain pictures that a preprocessing is asked with
EXACT = 1e-3  # of the range from black to white, by which grey may lie off the line between them, and pixels of one colour apart
OUTSIDE = 0.1  # of the range of pixels: bicubic sizes and noise may leave it by so much


class Pixels(NamedTuple):
    """How a model takes pictures: ``(rgb in [0, 1] - mean) / std`` of each colour, at a size.

    Attributes:
        mean, std: one number a colour.
        size: (height, width).

    Examples:
        >>> import chanattr as ca
        >>> ca.Pixels(mean=(0.5,) * 3, std=(0.5,) * 3, size=(224, 224)).size
        (224, 224)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]


def pixels_of(preprocess: Callable[[Image.Image], Tensor]) -> Pixels:
    """What a preprocessing does to colours, and the size it gives: black, white and grey pictures are put through it.

    Args:
        preprocess: an RGB picture to the float tensor [3, H, W] that the model takes, as ``load_model(...).preprocess``.

    Raises:
        InputError: it gives no such tensor, or does something else to colours than subtract and divide.

    Examples:
        >>> import chanattr as ca
        >>> ca.pixels_of(ca.load_model("embedded").preprocess).size
        (227, 227)
    """
    check_function("preprocess", preprocess, "a PIL picture that gives the tensor [3, H, W]", "pass load_model(...).preprocess")
    shown = [preprocess(Image.new("RGB", (ASKED, ASKED), (level,) * 3)) for level in (0, 255, 51)]
    if not all(isinstance(x, Tensor) and x.ndim == 3 and len(x) in (1, 3) and x.shape == shown[0].shape for x in shown):
        got = tuple(shown[0].shape) if isinstance(shown[0], Tensor) else type(shown[0]).__name__
        raise InputError(f"preprocess gave {got} of a picture; expected a tensor [3, H, W] of one size; give Pixels(mean, std, size) "
                         "yourself")
    black, white, grey = (x.double().flatten(1) for x in shown)
    step = (white - black).mean(1, keepdim=True)
    apart = [((x - x.mean(1, keepdim=True)) / step).abs().amax() for x in (black, white)]
    off = ((grey - black) / step - 0.2).abs().amax()
    if not bool(torch.stack([*apart, off]).amax() <= EXACT):
        raise InputError("preprocess does more to colours than subtract and divide (a plain grey picture does not come out between black "
                         "and white); expected a normalisation; give Pixels(mean, std, size) yourself")
    std = 1 / step[:, 0]
    mean = -black.mean(1) * std
    return Pixels(tuple(mean.tolist()), tuple(std.tolist()), (int(shown[0].shape[1]), int(shown[0].shape[2])))


def check_pixels(pixels: Pixels, colours: int | None = None) -> Pixels:
    """The pixels as they came.

    Raises:
        InputError: not one mean and one deviation above 0 a colour, or no size.
    """
    good = isinstance(pixels, Pixels) and len(pixels.mean) == len(pixels.std) > 0 and min(pixels.std) > 0 and min(pixels.size) > 0
    if not good or (colours is not None and len(pixels.mean) != colours):
        raise InputError(f"pixels={pixels!r}{'' if colours is None else f' for images of {colours} colours'}; expected Pixels(mean, std, "
                         "size), std above 0, one number a colour; take ca.pixels_of(ca.load_model(...).preprocess)")
    return pixels


def normalised(shown: Float[Tensor, "N C H W"], pixels: Pixels) -> Float[Tensor, "N C H W"]:
    """Pixels in [0, 1] as the model takes them."""
    mean, std = (_spread(values, shown) for values in (pixels.mean, pixels.std))
    return (shown - mean) / std


def shown(images: Float[Tensor, "N C H W"], pixels: Pixels) -> Float[Tensor, "N C H W"]:
    """Images as the model takes them as pixels in [0, 1].

    Raises:
        InputError: no pixels come out, so that these are not the numbers of this model.
    """
    whole = images * _spread(pixels.std, images) + _spread(pixels.mean, images)
    if not bool(torch.isfinite(whole).all()) or whole.min() < -OUTSIDE or whole.max() > 1 + OUTSIDE:
        raise InputError(f"images become pixels from {float(whole.min()):.2f} to {float(whole.max()):.2f} by mean {pixels.mean} and std "
                         f"{pixels.std}; expected 0 to 1; take ca.pixels_of of the preprocessing that made the images")
    return whole.clamp(0, 1)


def to_bytes(whole: Float[Tensor, "N C H W"]) -> UInt8[np.ndarray, "N H W C"]:
    """Pixels in [0, 1] as they are kept and seen."""
    return (255 * whole.detach()).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def from_bytes(pictures: UInt8[np.ndarray, "N H W C"], pixels: Pixels) -> Float[Tensor, "N C H W"]:
    """Kept pictures as the model takes them."""
    return normalised(torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255, pixels)


def _spread(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)
