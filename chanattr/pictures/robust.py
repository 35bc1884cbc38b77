"""What a picture that is made must withstand: to be moved, scaled, turned and cropped, differently at every step."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from chanattr.pictures.settings import PictureSettings


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
