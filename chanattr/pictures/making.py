"""Pictures made by gradient ascent: parametrised, moved, scaled, turned and cropped otherwise at every step, and kept as bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from chanattr.arguments import check_batch_size
from chanattr.picture_settings import PictureSettings
from chanattr.pictures.parameters import Picture, by_fourier, by_magnitude, by_pixel, components_of, natural_magnitude, spectrum_scale
from chanattr.pictures.pixels import Pixels, normalised, to_bytes

FAINT = 1e-1  # of Adam, in a picture's mean slope: coefficients with a fainter one are moved less, not like all others
AT_ONCE = 8  # pictures made at once on a GPU; on the CPU one, which costs hardly more there, so that none hangs on those beside it
GROWING = 0.25  # share of the steps over which the weight of the total variation grows from 0

Objective = Callable[[Tensor], Tensor]
"""Images as the model takes them [N, C, H, W] to what is maximised, [N]; a picture's own only, but for `diversity`."""


def at_once(batch_size: int | None, device: torch.device) -> int:
    """Pictures made at once: as many as asked, or the usual.

    Raises:
        InputError: not a whole number of 1 or more.
    """
    return check_batch_size(batch_size, 1 if device.type == "cpu" else AT_ONCE)


def noise(count: int, shape: tuple[int, int, int], seed: int) -> Float[Tensor, "N C H W"]:
    """Standard normal starts; the n-th is the same whatever `count`."""
    generators = [torch.Generator().manual_seed((1000 * seed + n) % 2**63) for n in range(count)]
    return torch.stack([torch.randn(shape, generator=generator, dtype=torch.float32) for generator in generators])


def smoothed(start: Float[Tensor, "N C H W"], contrast: float, slope: float) -> Float[Tensor, "N C H W"]:
    """Starts of a larger deviation whose frequencies fall by one more power, `slope`."""
    height, width = start.shape[-2:]
    frequencies = torch.fft.rfft2(start) * math.sqrt(2) * spectrum_scale(height, width, slope).to(start)
    smooth: Tensor = torch.fft.irfft2(frequencies, s=(height, width))
    return contrast * smooth


def start_of(shown: Float[Tensor, "N C H W"], settings: PictureSettings) -> Float[Tensor, "N C H W"]:
    """The start from which `parametrise` makes given pictures, pixels in [0, 1]; of "magnitude" one with their phases."""
    parts = components_of(shown)
    if settings.parametrisation != "fourier":
        return parts / settings.contrast
    height, width = parts.shape[-2:]
    scale = math.sqrt(2) * spectrum_scale(height, width, settings.decay).to(parts)
    start: Tensor = torch.fft.irfft2(torch.fft.rfft2(parts) / scale, s=(height, width))
    return start / settings.contrast


def parametrise(start: Float[Tensor, "N C H W"], settings: PictureSettings) -> Picture:
    """Standard normal starts as pictures of a parametrisation."""
    if settings.parametrisation == "magnitude":
        return by_magnitude(start, natural_magnitude(*start.shape[1:]))
    if settings.parametrisation == "pixel":
        return by_pixel(settings.contrast * start)
    return by_fourier(settings.contrast * start, settings.decay)


def total_variation(shown: Float[Tensor, "N C H W"]) -> Float[Tensor, " N"]:
    """Mean absolute difference of neighbouring pixels, down and across."""
    down, across = shown.diff(dim=2).abs(), shown.diff(dim=3).abs()
    return down.flatten(1).mean(1) + across.flatten(1).mean(1)


class Move(NamedTuple):
    """One way to look at a picture.

    Attributes:
        right, down: pixels by which its content moves.
        zoom: by which it grows.
        turn: degrees, counterclockwise.
        crop: share of its side that is seen, at the picture's own size.
        across, along: where the crop lies, from -1 (left, top) to 1.
    """

    right: float = 0.0
    down: float = 0.0
    zoom: float = 1.0
    turn: float = 0.0
    crop: float = 1.0
    across: float = 0.0
    along: float = 0.0


def draw_move(settings: PictureSettings, generator: torch.Generator) -> Move:
    """The move of the next step; always as many random numbers, whatever the settings."""
    u = (2 * torch.rand(7, generator=generator, dtype=torch.float64) - 1).tolist()
    return Move(right=settings.jitter * u[0], down=settings.jitter * u[1], zoom=(1 + settings.scale) ** u[2], turn=settings.rotation * u[3],
                crop=1 - (1 - settings.crop) * (u[4] + 1) / 2, across=u[5], along=u[6])


def moved(shown: Float[Tensor, "N C H W"], move: Move) -> Float[Tensor, "N C H W"]:
    """Pictures as a move shows them: sampled once, bilinearly; what lies outside is their mirror image."""
    if move == Move():
        return shown
    height, width = shown.shape[-2:]
    c, s = math.cos(math.radians(move.turn)), math.sin(math.radians(move.turn))
    share = move.crop / move.zoom
    # affine_grid asks where each pixel comes from, in halves of each side; turning is done in pixels, so that it bends nothing
    matrix = [[share * c, -share * s * height / width, (1 - move.crop) * move.across - 2 * move.right / width],
              [share * s * width / height, share * c, (1 - move.crop) * move.along - 2 * move.down / height]]
    theta = torch.tensor([matrix], dtype=shown.dtype, device=shown.device).expand(len(shown), 2, 3)
    grid = torch.nn.functional.affine_grid(theta, list(shown.shape), align_corners=False)
    return torch.nn.functional.grid_sample(shown, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


@torch.inference_mode(False)
@torch.enable_grad()
def make(start: Float[Tensor, "N C H W"], objective: Objective, settings: PictureSettings, pixels: Pixels,
         tell: Callable[[int], None], bold: Float[Tensor, " N"] | None = None) -> UInt8[np.ndarray, "N H W C"]:
    """Pictures that maximise an objective, all moved alike at every step.

    Args:
        start: standard normal numbers, on the model's device.
        objective: of the moved pictures.
        settings: resolved.
        pixels: of the model.
        tell: is told of every step, how many pictures it was for.
        bold: by how much each start is bolder than the contrast asked: it fades by so much, over half of the steps, and waits while a
            picture is worth less than at first.
    """
    picture = parametrise(start, settings)
    optimiser = torch.optim.Adam(picture.free, lr=settings.rate, eps=FAINT)
    generator = torch.Generator().manual_seed(settings.seed)
    left = torch.ones(len(start), device=start.device, dtype=torch.float32) if bold is None else bold
    with torch.no_grad():
        first = objective(normalised(picture.draw(), pixels))
    for step in range(settings.steps):
        optimiser.param_groups[0]["lr"] = settings.rate * falling(step / settings.steps)
        shown = picture.draw()
        value = objective(normalised(moved(shown, draw_move(settings, generator)), pixels))
        loss = -value.sum()
        if settings.variation:
            grown = min(1.0, step / (GROWING * settings.steps))  # at first the objective may be flat, and a smooth grey would win
            loss = loss + settings.variation * grown * total_variation(shown).sum()
        optimiser.zero_grad()
        loss.backward()
        for free in picture.free:
            even(free)
        optimiser.step()
        if bold is not None:
            share = torch.where(value.detach() >= first, bold ** (-2 / settings.steps), 1.0).maximum(1 / left)
            fade(picture, share)
            left = left * share
        tell(len(start))
    with torch.no_grad():
        return to_bytes(picture.draw())


@torch.no_grad()
def fade(picture: Picture, share: Float[Tensor, " N"]) -> None:
    """Leaves a share of what each picture's coefficients are."""
    for free in picture.free:
        free *= share.view(-1, *[1] * (free.ndim - 1))


def even(free: Tensor) -> None:
    """Scales the slopes of each picture to a root mean square of 1: activations have any scale, and no picture hangs on its neighbours."""
    if free.grad is not None:
        size = free.grad.flatten(1).square().mean(1).sqrt().clamp(min=torch.finfo(free.dtype).tiny)
        free.grad /= size.view(-1, *[1] * (free.ndim - 1))


def falling(done: float) -> float:
    """Share of the rate that is left: 1 for the first half, then along a cosine to 0.

    Examples:
        >>> [round(falling(done), 2) for done in (0, 0.5, 0.75, 1)]
        [1.0, 1.0, 0.5, 0.0]
    """
    return 0.5 * (1 + math.cos(math.pi * max(0.0, 2 * done - 1)))
