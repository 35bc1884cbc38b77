"""The families: what a mask is, how it is held to one exact area, and the settings that its search takes by default."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chanattr.search.objective import area_penalty
from chanattr.settings import AnySearch, ExactSearch, PenaltySearch, check_search


class Family(Protocol):
    """What a search needs to know of a kind of mask. P masks are handled side by side, each with its own area."""

    @property
    def size(self) -> int:
        """Parameters of one mask."""

    @property
    def full(self) -> float:
        """The area of a mask that drops nothing."""

    def start(self, count: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
        """`count` sets of parameters that drop nothing."""

    def project(self, values: Tensor, areas: Tensor) -> Tensor:
        """The nearest parameters whose mask has exactly its area."""

    def smooth_gradient(self, gradient: Tensor, cells: float) -> Tensor:
        """The gradient as the search should follow it, smoothed over so many neighbours where there are such."""

    def finish(self, values: Tensor, areas: Tensor) -> Tensor:
        """The masks that are reported."""

    def penalty(self, values: Tensor, areas: Tensor, reduction: str) -> Tensor:
        """How far masks are from having their area in ones and the rest in zeros (equation 4); differentiable."""

    def resolve(self, search: AnySearch) -> AnySearch:
        """The search with every field left None set to this family's value."""

    def spread(self, masks: Tensor) -> Tensor:
        """The masks as the layer takes them, a value a channel or a pixel; differentiable."""


class Sets(Family, Protocol):
    """A family whose masks are sets: what is reported is binary."""

    def binary(self, values: Tensor, areas: Tensor) -> Tensor:
        """The masks of zeros and ones with exactly their areas that the parameters mean."""

    def every(self, area: int, most: int) -> Tensor:
        """All binary masks of an area, if they are at most `most`; none otherwise."""


@dataclass(frozen=True)
class Channels:
    """Masks over the K channels of a layer: parameters are the mask itself, in [0, 1]^K; areas count channels.

    Other families whose parameters are masks have these methods too: what they are of stands in `self`.

    Defaults of the exact search are from ``scripts/solver_table``; those of the penalty search are the paper's protocol.
    """

    size: int
    name: ClassVar[str] = ""
    unit: ClassVar[str] = "channels"
    sha256: ClassVar[str] = ""

    def start(self: Family, count: int, *, device: torch.device, dtype: torch.dtype = torch.float32) -> Float[Tensor, "P K"]:
        """All ones: nothing dropped."""
        return torch.ones(count, self.size, device=device, dtype=dtype)

    def project(self: Family, values: Float[Tensor, "P K"], areas: Int[Tensor, "P"] | Float[Tensor, "P"]) -> Float[Tensor, "P K"]:
        """Euclidean projection on the capped simplex ``{0 <= m <= 1, sum m = area}``."""
        return project_capped_simplex(values, areas)

    @property
    def full(self) -> float:
        """All channels."""
        return self.size

    def smooth_gradient(self: Family, gradient: Float[Tensor, "P K"], cells: float) -> Float[Tensor, "P K"]:
        """Unchanged: channels have no neighbours."""
        del cells
        return gradient

    def penalty(self: Family, values: Float[Tensor, "P K"], areas: Int[Tensor, "P"], reduction: str) -> Float[Tensor, "P"]:
        """`chanattr.search.objective.area_penalty`."""
        return area_penalty(values, areas, reduction)

    def binary(self: Family, values: Float[Tensor, "P K"], areas: Int[Tensor, "P"]) -> Bool[Tensor, "P K"]:
        """The `areas` largest values of each row; ties go to the lower channel number."""
        return largest(values, areas)

    def finish(self: Sets, values: Float[Tensor, "P K"], areas: Int[Tensor, "P"]) -> Bool[Tensor, "P K"]:
        """The binary masks: what is reported for channels is always a set."""
        return self.binary(values, areas)

    def every(self: Family, area: int, most: int) -> Bool[Tensor, "S K"]:
        """All sets of `area` channels in lexicographic order, if they are at most `most`; none otherwise."""
        if math.comb(self.size, area) > most:
            return torch.zeros(0, self.size, dtype=torch.bool)
        members = torch.tensor(list(itertools.combinations(range(self.size), area)))
        return torch.zeros(len(members), self.size, dtype=torch.bool).scatter(1, members, True)

    def resolve(self: Family, search: AnySearch) -> AnySearch:
        """The search with the channel family's values for fields left None."""
        return resolve(search, CHANNEL_EXACT if isinstance(search, ExactSearch) else CHANNEL_PENALTY)

    def spread(self, masks: Tensor) -> Tensor:
        """Unchanged: a mask has a value a channel."""
        return masks


CHANNEL_EXACT = ExactSearch(relaxed_steps=15, binary_steps=25, anneal=0.5, relaxed_rate=0.3, momentum=0.5, memory=0.8, exchange=0.5,
                            exploration=0.4, border=5.0, refine_steps=10, smoothing=0.0, starts=1, hard_every=0, shifts=0, sweeps=2)
CHANNEL_PENALTY = PenaltySearch(steps=300, learning_rate=0.01, penalty=1500.0, ramp=150, momentum=0.9, dampening=0.0,
                                start=0.5, reduction="mean", growth=1.0)


def resolve(search: AnySearch, defaults: ExactSearch | PenaltySearch) -> AnySearch:
    """`search` with every field that is None taken from `defaults`, checked."""
    missing = {f.name: getattr(defaults, f.name) for f in dataclasses.fields(check_search(search)) if getattr(search, f.name) is None}
    return check_search(dataclasses.replace(search, **missing))


def largest(values: Float[Tensor, "P K"], areas: Int[Tensor, "P"]) -> Bool[Tensor, "P K"]:
    """Marks the `areas[p]` largest entries of row p; among equals the lower index wins."""
    order = values.sort(dim=1, descending=True, stable=True).indices
    chosen = torch.arange(values.shape[1], device=values.device)[None] < areas[:, None]
    return torch.zeros_like(chosen).scatter(1, order, chosen)


def nested_masks(values: Float[Tensor, "P K"], areas: Int[Tensor, "A"]) -> Bool[Tensor, "P A K"]:
    """The sets of every area along each row's order, the largest values first: each lies in the next larger one."""
    rows, sizes = values.repeat_interleave(len(areas), 0), areas.repeat(len(values))
    return largest(rows, sizes).view(len(values), len(areas), values.shape[1])


def project_capped_simplex(values: Float[Tensor, "P K"],
                           areas: Int[Tensor, "P"] | Float[Tensor, "P"]) -> Float[Tensor, "P K"]:
    """Euclidean projection of each row on ``{0 <= m <= 1, sum m = area}``.

    The answer is ``clip(values - t, 0, 1)`` for the one threshold t that gives the sum: bisection finds which entries lie
    strictly between the caps, and for these t follows exactly.
    """
    area = areas.to(values.dtype)[:, None]
    low, high = values.amin(1, keepdim=True) - 1, values.amax(1, keepdim=True)
    for _ in range(30):
        middle = (low + high) / 2
        over = (values - middle).clamp(0, 1).sum(1, keepdim=True) > area
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    shifted = values - (low + high) / 2
    inside = (shifted > 0) & (shifted < 1)
    missing = area - shifted.clamp(0, 1).sum(1, keepdim=True)
    return (shifted + missing / inside.sum(1, keepdim=True).clamp(min=1)).clamp(0, 1)
