"""What of a picture is free while it is made: its pixels, its spectrum, or its phases alone, with colours decorrelated."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from chanattr.errors import InputError

# Variances and directions of RGB over ImageNet's pixels, as Krizhevsky et al. 2012 computed them for their colour augmentation.
VARIANCES = (0.2175, 0.0188, 0.0045)
DIRECTIONS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
CLIPPED = 0.02  # black and white are infinite before the sigmoid


class Picture(NamedTuple):
    """Pictures as a function of free numbers.

    Attributes:
        free: what is optimised.
        draw: the pictures that they make, pixels in (0, 1), [N, C, H, W].
    """

    free: tuple[Tensor, ...]
    draw: Callable[[], Tensor]


def frequencies(height: int, width: int) -> Float[Tensor, "H F"]:
    """Length of the frequency of every coefficient of `rfft2`, in cycles a pixel."""
    return torch.hypot(torch.fft.fftfreq(height, dtype=torch.float32)[:, None], torch.fft.rfftfreq(width, dtype=torch.float32)[None])


def spectrum_scale(height: int, width: int, decay: float) -> Float[Tensor, "H F"]:
    """``1 / f^decay`` of every coefficient, scaled so that standard normal ones (real and imaginary part) give pixels of deviation 1.

    The mean has the lowest frequency's share.
    """
    scale = frequencies(height, width).clamp(min=1 / max(height, width)) ** -decay
    both = torch.full_like(scale, 2.0)  # columns stand for their mirror image too, but for the first, and the last of an even width
    both[:, 0] = 1
    if width % 2 == 0:
        both[:, -1] = 1
    return scale / (2 * both * scale**2).sum().div(height * width).sqrt()


@lru_cache(maxsize=1)
@torch.inference_mode(False)  # kept for later calls, which may need its slopes
def colour_basis() -> Float[Tensor, "3 3"]:
    """From uncorrelated components to RGB: directions times deviations of ImageNet's colours, the largest of length 1."""
    basis = torch.tensor(DIRECTIONS, dtype=torch.float32) * torch.tensor(VARIANCES, dtype=torch.float32).sqrt()
    longest: Tensor = basis.norm(dim=0).amax()
    return basis / longest


def correlated(parts: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
    """Components as colours; where there are not three, as they are."""
    return torch.einsum("rc,nchw->nrhw", colour_basis().to(parts), parts) if parts.shape[1] == 3 else parts


def decorrelated(colours: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
    """What `correlated` undoes."""
    return torch.einsum("rc,nchw->nrhw", torch.linalg.inv(colour_basis()).to(colours), colours) if colours.shape[1] == 3 else colours


def components_of(shown: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
    """Pixels in [0, 1] as uncorrelated components before the sigmoid: what `by_pixel` would have to start from."""
    return decorrelated(torch.logit(shown.clamp(CLIPPED, 1 - CLIPPED)))


def by_pixel(start: Float[Tensor, "N C H W"]) -> Picture:
    """Every pixel is free.

    Args:
        start: standard normal numbers times the contrast, one a pixel and component.
    """
    free = start.clone().requires_grad_()
    return Picture((free,), lambda: torch.sigmoid(correlated(free)))


def by_fourier(start: Float[Tensor, "N C H W"], decay: float) -> Picture:
    """The spectrum is free, its coefficients scaled as natural pictures' are: Adam then moves all frequencies alike.

    Args:
        start: standard normal numbers times the contrast; its spectrum is the start's before scaling.
        decay: as in `PictureSettings`.
    """
    height, width = start.shape[-2:]
    scale = spectrum_scale(height, width, decay).to(start)
    free = torch.view_as_real(torch.fft.rfft2(start, norm="ortho") * math.sqrt(2)).clone().requires_grad_()

    def draw() -> Tensor:
        spectrum = torch.view_as_complex(free) * scale
        return torch.sigmoid(correlated(torch.fft.irfft2(spectrum, s=(height, width), norm="ortho")))

    return Picture((free,), draw)


def by_magnitude(start: Float[Tensor, "N C H W"], magnitude: Float[Tensor, "C H F"]) -> Picture:
    """Phases are free, magnitudes and means are given (MaCo, Fel et al. 2023): no picture can gain by high frequencies or by contrast.

    Departure from the paper: magnitudes are of pictures before the sigmoid, so that no standardisation is needed.

    Args:
        start: numbers whose phases are the start's; the mean is kept as it is given, for its slope along its phase is 0.
        magnitude: of each component, as `magnitude_of` gives it; that of the mean with its sign.
    """
    height, width = start.shape[-2:]
    given = magnitude.to(start)
    size, sign = given.abs(), torch.where(given < 0, -1.0, 1.0).to(given)
    free = torch.fft.rfft2(start).angle().clone()
    free[..., 0, 0] = 0  # not pi where the mean is negative: there the slope is 0 but for rounding, and the ascent would leave it
    free.requires_grad_()

    def draw() -> Tensor:
        spectrum = sign * torch.polar(size.expand(free.shape).contiguous(), free)
        return torch.sigmoid(correlated(torch.fft.irfft2(spectrum, s=(height, width), norm="ortho")))

    return Picture((free,), draw)


def magnitude_of(shown: Float[Tensor, "N C H W"]) -> Float[Tensor, "C H F"]:
    """Mean magnitude of the spectra of some pictures, component by component, before the sigmoid; at frequency 0 the mean, with its sign.

    Args:
        shown: pixels in [0, 1].

    Raises:
        InputError: no pictures.
    """
    if not len(shown):
        raise InputError("magnitude_of got no pictures; expected one or more; give natural pictures at the size of those to be made")
    spectra: Complex[Tensor, "N C H F"] = torch.fft.rfft2(components_of(shown), norm="ortho")
    found = spectra.abs().mean(0)
    found[:, 0, 0] = spectra[:, :, 0, 0].real.mean(0)  # brighter and darker ones cancel
    return found


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # kept for later calls, which may need its slopes
def natural_magnitude(colours: int, height: int, width: int) -> Float[Tensor, "C H F"]:
    """`magnitude_of` the shipped pictures, cropped to a size; in grey where there is one colour."""
    return magnitude_of(natural_pictures(colours, height, width))


def natural_pictures(colours: int, height: int, width: int, per_class: int | None = None) -> Float[Tensor, "N C H W"]:
    """The shipped pictures (of each class the first few, if asked) cropped to a size, pixels in [0, 1]; in grey where there is one colour.

    Raises:
        InputError: neither one nor three colours.
    """
    from torchvision.transforms import v2

    from chanattr.images import demo_folder, open_image

    if colours not in (1, 3):
        raise InputError(f"natural pictures in {colours} colours; expected 1 or 3; use parametrisation='fourier'")
    fit = v2.Compose([v2.Resize(max(height, width), antialias=True), v2.CenterCrop((height, width)), v2.PILToTensor(),
                      v2.ToDtype(torch.float32, scale=True)])
    files = [path for folder in sorted(demo_folder().iterdir()) for path in sorted(folder.glob("*.jpg"))[:per_class]]
    pictures = torch.stack([fit(open_image(path)) for path in files])
    return pictures if colours == 3 else pictures.mean(1, keepdim=True)
