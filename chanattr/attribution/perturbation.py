"""What lies under a mask of a picture: a pyramid from wholly perturbed to as it is, made once an image and looked up by each mask."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from chanattr.arguments import SEEDS, Range, check_number
from chanattr.attribution.inputs import array_of
from chanattr.errors import InputError
from chanattr.settings import PERTURBATIONS, SEED

BLUR, LEVELS = 20 / 224, 8  # TorchRay's: 20 pixels of 224, in 8 levels


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """A perturbation as asked: its name, what was given, and how the blur is cut.

    Attributes:
        name: "blur", "fade" (to zero), "mean" (each image's own colour), "noise" (of its colours), "values" or "images".
        given: values [C] or images [C, H, W] or [N, C, H, W] to fade to; empty where there are none.
        levels: of the blur, at least 2.
        blur: largest standard deviation, as a share of each side.
        seed: of the noise.
    """

    name: str
    given: Tensor
    levels: int
    blur: float
    seed: int

    @property
    def sha256(self) -> str:
        """Of what was given; "" where nothing was."""
        return hashlib.sha256(self.given.cpu().numpy().tobytes()).hexdigest() if self.given.numel() else ""

    def of(self, images: slice, count: int) -> Perturbation:
        """The same for some of `count` images.

        Raises:
            InputError: a picture for each of another number of images.
        """
        if self.given.ndim != 4:
            return self
        if len(self.given) != count:
            raise InputError(f"perturbation has shape {tuple(self.given.shape)} for {count} images; expected one picture [C, H, W] for all "
                             f"of them, or one each [{count}, C, H, W]; give perturbation[0] to have its first under every mask")
        return replace(self, given=self.given[images])


def perturbation_of(asked: str | Tensor | np.ndarray, *, levels: int = LEVELS, blur: float = BLUR, seed: int = SEED) -> Perturbation:
    """A perturbation as a caller gives it.

    Args:
        asked: a name of `PERTURBATIONS`, or values to fade to: a colour [C], one image [C, H, W] or one each [N, C, H, W], as the model
            takes them.
        levels, blur, seed: as of `Perturbation`.

    Raises:
        InputError: none of these, or a number out of its range.
    """
    levels = int(check_number(f"levels={levels!r}", levels, Range(2, whole=True)))
    blur = check_number(f"blur={blur!r}", blur, Range(0, 1, without="low"))
    seed = int(check_number(f"seed={seed!r}", seed, SEEDS))
    if isinstance(asked, str):
        if asked not in PERTURBATIONS:
            raise InputError(f"perturbation={asked!r}; expected one of {', '.join(PERTURBATIONS)}, a colour [C], or images [N, C, H, W] to "
                             "fade to; leave it out for 'blur'")
        nothing = torch.zeros(0, dtype=torch.float32)
        return Perturbation(name=asked, given=nothing, levels=levels if asked == "blur" else 2, blur=blur, seed=seed)
    values = array_of(asked)
    if values is None:
        raise InputError(f"perturbation={str(asked)[:80]}; expected one of {', '.join(PERTURBATIONS)}, a colour [C], or images "
                         "[N, C, H, W] to fade to; leave it out for 'blur'")
    given = torch.from_numpy(values.astype(np.float32))
    if given.ndim not in (1, 3, 4) or not given.isfinite().all() or not given.numel():
        raise InputError(f"perturbation has shape {tuple(given.shape)}; expected finite values [C] of a colour, an image [C, H, W], or one "
                         "each [N, C, H, W], normalised as the model takes them")
    return Perturbation(name="values" if given.ndim == 1 else "images", given=given, levels=2, blur=blur, seed=seed)


def pyramid_of(images: Float[Tensor, "N C H W"], perturbation: Perturbation | None = None) -> Float[Tensor, "L N C H W"]:
    """Images from wholly perturbed (level 0) to as they are (the last).

    Args:
        images: as the model takes them, or activations with a grid.
        perturbation: from `perturbation_of`; None is TorchRay's blur.

    Raises:
        InputError: it does not fit the images.

    Source: TorchRay, ``Perturbation``: blurs of standard deviations falling evenly to 0, with zeros beyond the border; "fade" multiplies
        with the level.
    """
    asked = perturbation or perturbation_of(PERTURBATIONS[0])
    if asked.name == "blur":
        height, width = images.shape[2:]
        shares = [1 - level / (asked.levels - 1) for level in range(asked.levels)]
        return torch.stack([blurred(images, share * asked.blur * height, share * asked.blur * width) for share in shares])
    return torch.stack([_target(images, asked).expand_as(images), images])


def _target(images: Tensor, asked: Perturbation) -> Tensor:
    """What images fade to."""
    if asked.name == "fade":
        return torch.zeros_like(images)
    if asked.name == "mean":
        return images.mean((2, 3), keepdim=True)
    if asked.name == "noise":
        generator = torch.Generator().manual_seed(asked.seed)
        drawn = torch.randn(images.shape[1:], generator=generator, dtype=torch.float32).to(images)  # the same for every image
        return images.mean((2, 3), keepdim=True) + images.std((2, 3), keepdim=True) * drawn
    given = asked.given.to(images)
    given = given[:, None, None] if given.ndim == 1 else given
    if given.shape[-3] != images.shape[1] or (asked.name == "images" and given.shape[-2:] != images.shape[-2:]) \
            or (given.ndim == 4 and len(given) not in (1, len(images))):
        raise InputError(f"perturbation has shape {tuple(asked.given.shape)} for images {tuple(images.shape)}; expected a colour "
                         f"[{images.shape[1]}] or images of the same size; resize them to it")
    return given


def blurred(images: Float[Tensor, "N C H W"], down: float, right: float) -> Float[Tensor, "N C H W"]:
    """Images under a Gaussian of standard deviations in pixels, cut at four of them, with zeros beyond the border."""
    count = images.shape[1]
    for sigma, shape in ((down, (1, 1, -1, 1)), (right, (1, 1, 1, -1))):
        width = math.ceil(4 * sigma)
        if width:
            taps = torch.exp(-((torch.arange(-width, width + 1, device=images.device, dtype=images.dtype) / sigma) ** 2) / 2)
            kernel = (taps / taps.sum()).view(shape)
            images = functional.conv2d(images, kernel.expand(count, -1, -1, -1), groups=count, padding="same")
    return images


class Lookup:
    """Perturbed images by mask, from a pyramid kept so that one lookup reads the channels of a pixel at once."""

    def __init__(self, pyramid: Float[Tensor, "L N C H W"]) -> None:
        self.levels, _, self.channels, self.height, self.width = pyramid.shape
        self._table = pyramid.permute(1, 0, 3, 4, 2).reshape(-1, self.channels).contiguous()

    def perturbed(self, masks: Float[Tensor, "M HW"], rows: Int[Tensor, "M"]) -> Float[Tensor, "M C H W"]:
        """Image ``rows[m]`` where each pixel is taken from the level that its mask says, linearly between two; differentiable in masks."""
        pixels = self.height * self.width
        height = masks * (self.levels - 1)
        level = height.detach().floor().clamp(0, self.levels - 2)
        place = (rows[:, None] * self.levels + level.long()) * pixels + torch.arange(pixels, device=masks.device)
        low, high = self._table[place], self._table[place + pixels]
        mixed = torch.lerp(low, high, (height - level)[..., None].to(low))
        return mixed.view(len(masks), self.height, self.width, self.channels).permute(0, 3, 1, 2)
