"""Smooth masks of a picture as a family: a code on a coarse grid, and the exact area of the mask that it means."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from chanattr.codes import COLDNESS, GRID, MARGIN, RADIUS, REACH, Lattice, lattice, resampling
from chanattr.search.family import Channels, resolve
from chanattr.search.objective import Score, Scored
from chanattr.settings import AnySearch, ExactSearch, PenaltySearch

TRIES, LAST_TRIES, CORRECTIONS = 8, 16, 3  # of the shift that gives the area: in the search, at its end, and there at full sampling
LEVELS = 255  # steps of a stored code
SOFTNESS = 0.1  # of a hardened mask's edge, in values of the mask
ONE_PLACE = 0.066  # of the picture: two discs; a smaller mask fits one place
AT_ONCE = 16  # masks made together at full sampling
PICTURE_EXACT = ExactSearch(relaxed_steps=80, binary_steps=1, anneal=0.5, relaxed_rate=0.01, momentum=0.9, memory=0.0, exchange=0.0,
                            exploration=0.0, border=0.0, refine_steps=10, smoothing=4.0, starts=1, hard_every=4, shifts=4,
                            sweeps=0)
PICTURE_PENALTY = PenaltySearch(steps=800, learning_rate=0.01, penalty=300.0, ramp=0, momentum=0.9, dampening=0.9, start=1.0,
                                reduction="mean", growth=1.0035)


@dataclass(frozen=True)
class Pictures:
    """Smooth masks over a picture (or a layer's grid) of `height` x `width`: P codes of 32 x 32 values in [0, 1], flattened.

    Areas are shares of the picture, measured on the mask inside it.

    Attributes:
        height, width: of what is masked, in pixels.
        samples: of the mask, in each cell and direction, while it is searched; 0 all, as it is reported.
    """

    height: int
    width: int
    samples: int = 1
    size: ClassVar[int] = GRID * GRID
    full: ClassVar[float] = 1.0
    unit: ClassVar[str] = "of the picture"

    start = Channels.start  # all ones: nothing is dropped

    @torch.no_grad()
    def project(self, values: Float[Tensor, "P 1024"], areas: Float[Tensor, "P"], tries: int = TRIES) -> Float[Tensor, "P 1024"]:
        """The codes moved by one number each, within [0, 1], so that their masks have exactly their areas."""

        def missing(shift: Tensor) -> Tensor:
            return self.area((values + shift[:, None]).clamp(0, 1)) - areas

        shift = _root(missing, -values.amax(1), 1 - values.amin(1), -areas, 1 - areas, tries)
        return (values + shift[:, None]).clamp(0, 1)

    def smooth_gradient(self, gradient: Float[Tensor, "P 1024"], cells: float) -> Float[Tensor, "P 1024"]:
        """The gradient under a Gaussian of so many cells."""
        if cells <= 0:
            return gradient
        blur = _gaussian(cells).to(gradient)
        return (blur @ gradient.view(-1, GRID, GRID) @ blur.T).flatten(1)

    def spread(self, values: Float[Tensor, "P 1024"]) -> Float[Tensor, "P HW"]:
        """The masks, a value a pixel; differentiable."""
        down, right = self._lattices
        whole = soft_maximum(values, down.per_cell, right.per_cell)
        return (_matrix(down).to(values) @ whole @ _matrix(right).to(values).T).flatten(1)

    def area(self, values: Float[Tensor, "P 1024"]) -> Float[Tensor, "P"]:
        """The means of the masks, without making their pixels."""
        down, right = self._lattices
        whole = soft_maximum(values, down.per_cell, right.per_cell)
        return torch.einsum("y,pyx,x->p", _matrix(down).to(values).mean(0), whole, _matrix(right).to(values).mean(0))

    def finish(self, values: Float[Tensor, "P 1024"], areas: Float[Tensor, "P"] | None = None) -> Float[Tensor, "P 1024"]:
        """The codes as they are stored, in steps of 1/255; with `areas`, moved so that the masks at full sampling have them."""
        if areas is not None:
            parts = zip(values.split(AT_ONCE), areas.split(AT_ONCE), strict=True)
            values = torch.cat([self._corrected(part, area) for part, area in parts])
        return (values * LEVELS).round() / LEVELS

    @torch.no_grad()
    def _corrected(self, values: Tensor, areas: Tensor) -> Tensor:
        """Codes whose masks have their areas at full sampling: found at a coarser one, then asked for what that was wrong by."""
        coarse, whole = replace(self, samples=min(2, lattice(min(self.height, self.width)).per_cell)), replace(self, samples=0)
        wanted = areas
        for _ in range(CORRECTIONS):
            found = coarse.project(values, wanted, LAST_TRIES)
            wanted = wanted + areas - whole.area(found)
        return coarse.project(values, wanted, LAST_TRIES)

    @torch.no_grad()
    def masks(self, codes: Float[Tensor, "P 1024"]) -> Float[Tensor, "P HW"]:
        """The masks at full sampling, as `chanattr.codes.masks_of` makes them."""
        whole = replace(self, samples=0)
        return torch.cat([whole.spread(part) for part in codes.split(AT_ONCE)]).clamp(0, 1)

    def shift(self, values: Float[Tensor, "P 1024"], down: int, right: int) -> Float[Tensor, "P 1024"]:
        """The codes moved over the grid as a whole by some cells; what leaves it is lost, and nothing comes in."""
        moved = values.view(-1, GRID, GRID).roll((down, right), (1, 2))
        for way, axis in ((down, 1), (right, 2)):
            if way:
                moved.narrow(axis, 0 if way > 0 else GRID + max(way, -GRID), min(abs(way), GRID)).zero_()
        return moved.flatten(1)

    def penalty(self, values: Float[Tensor, "P 1024"], areas: Float[Tensor, "P"], reduction: str) -> Float[Tensor, "P"]:
        """Equation 4 on the mask *with its margin*, as TorchRay has it: squared distance of its sorted values from zeros, then ones.

        Source: TorchRay, ``extremal_perturbation``: ``int(n (1 - area))`` zeros.
        """
        down, right = self._lattices
        flat = soft_maximum(values, down.per_cell, right.per_cell, margin=True).flatten(1)
        count = flat.shape[1]
        zeros = (count * (1 - areas.double())).floor()
        ones = torch.arange(count, device=values.device)[None] >= zeros[:, None]
        distance = (flat.sort(dim=1).values - ones.to(flat.dtype)).square()
        return distance.sum(1) if reduction == "sum" else distance.mean(1)

    def resolve(self, search: AnySearch) -> AnySearch:
        """The search with this family's values for fields left None."""
        return resolve(search, PICTURE_EXACT if isinstance(search, ExactSearch) else PICTURE_PENALTY)

    @property
    def _lattices(self) -> tuple[Lattice, Lattice]:
        return lattice(self.height, self.samples), lattice(self.width, self.samples)


def soft_maximum(values: Float[Tensor, "P 1024"], down: int, right: int, *, margin: bool = False) -> Float[Tensor, "P Y X"]:
    """The masks of codes at samples: of the weighted cells around each, their mean weighted by exp(20 times themselves).

    Args:
        values: codes.
        down, right: samples a cell, in each direction.
        margin: also over three cells around the picture (less one cell at its end), as TorchRay counts areas.

    Source: TorchRay, ``MaskGenerator``; its weights repeat from cell to cell, so that only one cell's are kept here.
    """
    before, after = (REACH + MARGIN, REACH + MARGIN) if margin else (REACH, REACH + 1)
    cells = GRID + before + after - 2 * REACH
    weights = _weights(down, right).to(values)
    padded = functional.pad(values.view(-1, 1, GRID, GRID), (before, after, before, after))
    near = functional.unfold(padded, 2 * REACH + 1)  # [P, 81, cells * cells]
    weighted = near[:, :, None] * weights.flatten(1)[None, :, :, None]  # [P, 81, down * right, cells * cells]
    made = (weighted * (COLDNESS * weighted).softmax(1)).sum(1)
    whole = made.view(-1, down, right, cells, cells).permute(0, 3, 1, 4, 2).reshape(-1, cells * down, cells * right)
    return whole[:, :(cells - 1) * down + 1, :(cells - 1) * right + 1]


def hardened(masks: Float[Tensor, "P HW"]) -> Float[Tensor, "P HW"]:
    """Masks drawn to 0 and 1 around the value that as many pixels exceed as they have area; differentiable, the value held."""
    count = masks.shape[1]
    fixed = masks.detach()
    place = (count * (1 - fixed.mean(1, keepdim=True))).long().clamp(0, count - 1)
    edge = fixed.sort(dim=1).values.gather(1, place)
    return ((masks - edge) / SOFTNESS).sigmoid()


def _root(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, at_low: Tensor, at_high: Tensor, tries: int) -> Tensor:
    """Where a rising function is zero, each entry for itself: by false position, where the end that stays counts half at each step."""
    best, least = low, at_low.abs()
    for _ in range(tries):
        guess = (low * at_high - high * at_low) / (at_high - at_low).clamp(min=1e-12)
        value = function(guess)
        closer = value.abs() < least
        best, least = torch.where(closer, guess, best), torch.where(closer, value.abs(), least)
        over = value > 0
        at_low, at_high = torch.where(over, at_low / 2, value), torch.where(over, value, at_high / 2)
        low, high = torch.where(over, low, guess), torch.where(over, guess, high)
    return best


def through(spread: Callable[[Tensor], Tensor], score: Score) -> Score:
    """A score of masks as one of the parameters that they are made of."""

    @torch.inference_mode(False)
    def scored(masks: Tensor, rows: Int[Tensor, "M"], gradient: bool) -> Scored:
        with torch.set_grad_enabled(gradient):
            leaf = masks.detach().clone().requires_grad_(gradient)
            made = spread(leaf)
            got = score(made.detach(), rows, gradient)
            slopes = torch.autograd.grad(made, leaf, got.gradient)[0] if gradient else masks.new_empty(0, masks.shape[1])
            return Scored(got.reward, slopes)

    return scored


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later calls, which may need its slopes
def _weights(down: int, right: int) -> Float[Tensor, "81 Y X"]:
    """`chanattr.codes.disc_weights`, rounded at each step as TorchRay does: its penalty sorts what is equal but for rounding."""
    offset = torch.arange(-REACH, REACH + 1)[:, None]
    rows = (torch.arange(down) - offset * down).float()  # [9, s] samples
    columns = (torch.arange(right) - offset * right).float() * (down / right)
    away = torch.sqrt(rows[:, None, :, None] ** 2 + columns[None, :, None, :] ** 2) / (RADIUS * down)
    return torch.exp(-2 * ((away - 0.5).clamp(min=0) ** 2)).reshape(-1, down, right)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later calls, which may need its slopes
def _matrix(side: Lattice) -> Float[Tensor, "S T"]:
    return torch.from_numpy(resampling(side))


@functools.lru_cache(maxsize=512)
@torch.inference_mode(False)  # kept for later calls, which may need its slopes
def _gaussian(cells: float) -> Float[Tensor, "32 32"]:
    """A Gaussian over the cells of a side, each row summing to 1."""
    apart = np.arange(GRID)[:, None] - np.arange(GRID)[None]
    weights = np.exp(-np.square(apart / cells) / 2)
    return torch.from_numpy((weights / weights.sum(1, keepdims=True)).astype(np.float32))
