"""Where things lie in a picture: the smooth mask that a low-resolution code means, a soft maximum of discs on a grid, and tokens.

numpy only, the same on every machine.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

GRID = 32  # cells of a code along each side of the picture
REACH = 4  # cells around a point whose discs it may lie in
RADIUS = 3.0  # cells: the length that a disc falls off with (TorchRay's sigma of 21 pixels, at 7 pixels a cell)
COLDNESS = 20.0  # of the soft maximum: the inverse of its temperature
MARGIN = 3  # cells around the picture that TorchRay counts in the area
SINGLE_DISC = 0.033  # share of the picture under one cell at 1, away from the border


class Lattice(NamedTuple):
    """Where a mask is sampled along one side: `per_cell` samples in each cell, and how a picture's pixels follow from them."""

    per_cell: int
    pixels: int

    @property
    def points(self) -> int:
        """Samples from the first cell's middle to one cell past the last."""
        return GRID * self.per_cell + 1


def lattice(pixels: int, per_cell: int = 0) -> Lattice:
    """The samples for a side of so many pixels: the fewest a cell that are no coarser than the pixels, or as many as said."""
    return Lattice(per_cell or max(1, math.ceil(pixels / GRID)), pixels)


def disc_weights(per_cell: tuple[int, int]) -> np.ndarray:
    """Weights of the cells around a point, f4 [81, sy, sx]: by cell (rows first, from -4 to 4) and by where in its cell the point lies.

    How much of a cell's value is left so many cells away: all within half the radius, then a Gaussian's fall.

    Source: TorchRay, ``MaskGenerator``: ``exp(-2 max(0, d / sigma - 1/2)^2)``.
    """
    offset = np.arange(-REACH, REACH + 1)
    down, right = (np.arange(count)[None] / count - offset[:, None] for count in per_cell)  # [9, s] cells
    away = np.sqrt(np.square(down)[:, None, :, None] + np.square(right)[None, :, None, :])
    discs: np.ndarray = np.exp(-2 * np.square(np.maximum(away / RADIUS - 0.5, 0)))
    return discs.reshape(-1, *per_cell).astype(np.float32)


@functools.lru_cache(maxsize=64)
def resampling(side: Lattice) -> np.ndarray:
    """How pixels follow from samples, f4 [pixels, points], each row summing to 1.

    Pixel v lies ``32 v / pixels`` cells from the first cell's middle, as TorchRay has it, and is interpolated linearly. A pixel larger
    than a cell (on a layer's grid, or in a tiny picture) is the mean over what it covers.
    """
    position = np.arange(side.pixels) * GRID / side.pixels * side.per_cell
    if side.pixels >= GRID:
        matrix = np.stack([np.interp(position, np.arange(side.points), hat) for hat in np.eye(side.points)], axis=1)
    else:
        edges = np.append(position, GRID * side.per_cell)
        matrix = np.diff(_hats(edges, side.points), axis=0) / np.diff(edges)[:, None]
    return matrix.astype(np.float32)


def _hats(upto: np.ndarray, points: int) -> np.ndarray:
    """Integrals of the hat functions around 0, 1, ... points - 1, from 0 to each of `upto`, [len(upto), points]."""
    def antiderivative(x: np.ndarray) -> np.ndarray:
        x = np.clip(x, -1, 1)
        return np.asarray(np.where(x < 0, (x + 1) ** 2 / 2, 0.5 + x - x**2 / 2))

    centre = np.arange(points)
    integrals: np.ndarray = antiderivative(upto[:, None] - centre) - antiderivative(-centre[None])
    return integrals


def masks_of(codes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The masks that codes mean on a picture of a size.

    Args:
        codes: u1 (255 is 1) or values in [0, 1], [..., 32, 32].
        size: height and width, in pixels.

    Returns:
        f4 [..., H, W] in [0, 1]; 1 keeps the picture as it is.

    Source: Fong, Patrick and Vedaldi 2019, section 3.2, and TorchRay's ``MaskGenerator``, which it equals at 224 x 224 pixels (steps of
        7, sigma of 21). Departure: lengths are shares of the sides, so that a code fits any size.

    Examples:
        >>> code = np.zeros((32, 32), np.uint8)
        >>> code[16, 16] = 255
        >>> bool(masks_of(code, (224, 224))[112, 112] > 0.99)
        True
    """
    values = np.asarray(codes, dtype=np.float32) / (255 if np.asarray(codes).dtype == np.uint8 else 1)
    down, right = lattice(size[0]), lattice(size[1])
    flat = values.reshape(-1, GRID, GRID)
    made = [resampling(down) @ _soft_maximum(value, down, right) @ resampling(right).T for value in flat]
    return np.stack(made).reshape(*values.shape[:-2], *size) if made else np.zeros((*values.shape[:-2], *size), np.float32)


def _soft_maximum(code: np.ndarray, down: Lattice, right: Lattice) -> np.ndarray:
    """The mask at all samples, [points, points]: of the weighted cells around each, their mean weighted by exp(20 times themselves)."""
    weights = disc_weights((down.per_cell, right.per_cell))
    padded = np.pad(code, (REACH, REACH + 1))
    above, below = np.zeros((2, GRID + 1, down.per_cell, GRID + 1, right.per_cell), np.float32)
    for number, weight in enumerate(weights):
        row, column = divmod(number, 2 * REACH + 1)
        cells = padded[row:row + GRID + 1, column:column + GRID + 1]
        value = cells[:, None, :, None] * weight[None, :, None, :]
        share = np.exp(COLDNESS * value)
        above += share * value
        below += share
    whole = (above / below).reshape((GRID + 1) * down.per_cell, (GRID + 1) * right.per_cell)
    return np.asarray(whole[:down.points, :right.points])


def level_sets(masks: np.ndarray) -> np.ndarray:
    """The hard masks of the same areas: of each mask its highest pixels, as many as its mean says; ties go to the earlier pixel.

    Args:
        masks: [..., H, W] in [0, 1].

    Returns:
        bool [..., H, W].
    """
    flat = masks.reshape(-1, masks.shape[-2] * masks.shape[-1])
    order = np.argsort(-flat, axis=1, kind="stable")
    count = np.rint(flat.mean(1, dtype=np.float64) * flat.shape[1]).astype(int)
    hard = np.zeros(flat.shape, dtype=bool)
    np.put_along_axis(hard, order, np.arange(flat.shape[1])[None] < count[:, None], 1)
    return hard.reshape(masks.shape)


def laid_out(energy: np.ndarray) -> np.ndarray:
    """Energy as it lies over the picture: a row of a square number of positions, or one more, is taken for tokens.

    They are laid row by row in a square, without the class token before them. All else is as it was: a record does not tell tokens
    from a grid of one row.

    Args:
        energy: [..., h, w].

    Examples:
        >>> laid_out(np.array([[9, 1, 2, 3, 4]])).tolist()
        [[1, 2], [3, 4]]
    """
    high, wide = energy.shape[-2:]
    side = math.isqrt(wide)
    if high > 1 or side < 2 or wide - side * side > 1:
        return energy
    return energy[..., 0, wide - side * side:].reshape(*energy.shape[:-2], side, side)
