"""Arithmetic of heat maps and boxes, in pixels: smoothing, the maximum, what of a pixel lies in a box; numpy only."""

from __future__ import annotations

import math

import numpy as np

REACH = 4  # of the Gaussian, in sigmas


def smoothed(heat: np.ndarray, sigma: float, padding: str = "zero") -> np.ndarray:
    """Maps [..., H, W] under a Gaussian of `sigma` pixels, f8; its kernel ends at 4 sigma and sums to 1. Outside there are zeros, or the
    nearest pixel ("edge").
    """
    values = np.asarray(heat, float)
    if not sigma:
        return values
    height, width = values.shape[-2:]
    return np.asarray(_gaussian(height, sigma, padding) @ values @ _gaussian(width, sigma, padding).T)


def inside(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """How much of each pixel of a map lies in one of some boxes, in pixels of the map, f8 [H, W]; of several boxes the one with most."""
    total = np.zeros((height, width))
    for left, top, right, bottom in np.asarray(boxes, float):
        total = np.maximum(total, _overlap(top, bottom, height)[:, None] * _overlap(left, right, width)[None])
    return total


def maximum(heat: np.ndarray) -> np.ndarray:
    """The centre of the pixel with the largest value, x and y; among equals the first."""
    y, x = divmod(int(heat.argmax()), heat.shape[1])
    return np.array([x, y]) + 0.5


def distance(x: float, y: float, boxes: np.ndarray) -> float:
    """From a point to the nearest centre of a pixel of the boxes, between centres too, so that it does not jump; NaN for no point."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    first, last = np.minimum(boxes[:, :2] + 0.5, middle), np.maximum(boxes[:, 2:] - 0.5, middle)
    away = np.maximum(np.maximum(first - [x, y], [x, y] - last), 0)
    return float(np.sqrt((away**2).sum(1)).min())


def _gaussian(side: int, sigma: float, padding: str) -> np.ndarray:
    """The kernel as a matrix [side, side]: a row is what a pixel takes of every pixel."""
    reach = math.ceil(REACH * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    rows, columns = np.arange(side)[:, None], np.arange(side)[:, None] + np.arange(-reach, reach + 1)
    within = (columns >= 0) & (columns < side)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (rows, columns.clip(0, side - 1)), np.where(within | (padding == "edge"), kernel, 0.0))
    return matrix


def _overlap(first: float, last: float, side: int) -> np.ndarray:
    """How much of each unit from 0 to `side` lies between two places."""
    shared: np.ndarray = np.minimum(last, np.arange(1, side + 1)) - np.maximum(first, np.arange(side))
    return shared.clip(0, 1)
