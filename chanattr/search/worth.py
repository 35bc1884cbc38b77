"""What a channel is worth to a set: slopes seen with it in and with it out, which count more if they are new, or of a set much like it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chanattr.network.exactly import float32_exactly

DOUBT = 0.5  # evaluations: a side of a channel that was seen this much counts half of one seen for ever
LIKE = 0.7  # square roots of the area: a set of which so many members are others counts e times less
LONGEST = 640  # masks that a walk keeps, the last ones; over the default grid it has 416 at most, over the paper's areas 554
FLAT = 1e-6  # slopes that differ by less than this share of the largest are rounding


class Seen(NamedTuple):
    """Discounted sums over the masks tried: slopes, and how often seen; first with the channel in, then out."""

    slopes: Float[Tensor, "2 P K"]
    times: Float[Tensor, "2 P K"]

    @classmethod
    def nothing(cls, values: Float[Tensor, "P K"]) -> Seen:
        """Before the first mask."""
        none = values.new_zeros(2, *values.shape)
        return cls(none, none)

    def add(self, masks: Float[Tensor, "P K"], slopes: Float[Tensor, "P K"], memory: float) -> Seen:
        """After one more mask: in a relaxed one a channel is partly in and partly out. Slopes that are not finite say nothing."""
        told = slopes.isfinite().all(1, keepdim=True)
        sides, slopes = torch.stack([masks, 1 - masks]) * told, torch.where(told, slopes, 0)
        return Seen(memory * self.slopes + sides * slopes, memory * self.times + sides)

    def worth(self) -> Float[Tensor, "P K"]:
        """What a channel adds: the mean of its slope where it is out and where it is in, each as far as it is known.

        The first slope alone promises what the channel's first bit adds, the second what its last bit does; with both, the answer is right
        to second order (the trapezoid rule), so a channel whose copy is in the set is worth little before it is tried.
        """
        doubted = self.times + DOUBT
        trust = (self.times / doubted).sum(0)
        return (self.slopes / doubted).sum(0) / trust.clamp(min=torch.finfo(trust.dtype).tiny)


class Past:
    """What a walk over sets has seen: discounted sums, and its last masks with their slopes, which count more the more they are like a set.

    So what was seen at an area on the way down is remembered on the way back up.
    """

    def __init__(self, sums: Seen, memory: float, most: int) -> None:
        """From the sums of what came before, with room for the last `most` masks, `LONGEST` at most."""
        _, pairs, channels = sums.times.shape
        self.sums, self._memory = sums, memory
        self._kept = sums.times.new_zeros(pairs, min(most, LONGEST), 3, channels)  # masks, slopes, and their products; zeros are no mask
        self._areas = sums.times.new_zeros(self._kept.shape[:2])
        self._count = 0

    def add(self, masks: Float[Tensor, "P K"], slopes: Float[Tensor, "P K"]) -> None:
        """One more mask. Slopes that are not finite say nothing."""
        self.sums = self.sums.add(masks, slopes, self._memory)
        told = slopes.isfinite().all(1, keepdim=True)
        masks, slopes = masks * told, torch.where(told, slopes, 0)
        place = self._count % self._kept.shape[1]
        self._kept[:, place], self._areas[:, place] = torch.stack([masks, slopes, masks * slopes], 1), masks.sum(1)
        self._count += 1

    @float32_exactly()
    def worth(self, masks: Bool[Tensor, "P K"]) -> Float[Tensor, "P K"]:
        """What a channel adds to sets: as `Seen.worth`, of the discounted sums and of sums by likeness.

        A mask that differs from a set by d, half the sum of their differences (members exchanged, where areas are equal), has the weight
        exp(-d / (LIKE sqrt(area))), and all of them together at most 1 / (1 - memory), which is what the discounted ones have in the long
        run: where all sets are alike, what is new must still count.
        """
        sets, kept, areas = masks.float(), self._kept[:, :self._count], self._areas[:, :self._count]
        area = sets.sum(1, keepdim=True)
        apart = (area + areas) / 2 - (kept[:, :, 0] @ sets[:, :, None])[:, :, 0]
        weights = torch.where(areas > 0, (-apart / (LIKE * area.sqrt())).exp(), 0)
        weights = weights / ((1 - self._memory) * weights.sum(1, keepdim=True)).clamp(min=1)
        inside, slopes, slopes_inside = (weights[:, None] @ kept.flatten(2)).view(len(sets), 3, -1).unbind(1)
        outside = (weights.sum(1, keepdim=True) - inside).clamp(min=0)
        alike = Seen(torch.stack([slopes_inside, slopes - slopes_inside]), torch.stack([inside, outside]))
        return Seen(self.sums.slopes + alike.slopes, self.sums.times + alike.times).worth()

    def keep(self, pairs: Bool[Tensor, "P"]) -> None:
        """Forgets the others."""
        self.sums = Seen(self.sums.slopes[:, pairs], self.sums.times[:, pairs])
        self._kept, self._areas = self._kept[pairs], self._areas[pairs]


def standardised(slopes: Float[Tensor, "P K"]) -> Float[Tensor, "P K"]:
    """Slopes less their mean over a mask, in their standard deviations; zeros where they are all alike.

    A constant added to every slope moves no mask of a fixed area.
    """
    largest = slopes.abs().amax(1, keepdim=True)
    scaled = slopes / largest.clamp(min=torch.finfo(slopes.dtype).tiny)  # first, so that no square leaves the range of floats
    centred = scaled - scaled.mean(1, keepdim=True)
    deviation = centred.square().mean(1, keepdim=True).sqrt()
    alike = deviation <= FLAT
    return torch.where(alike, 0, centred / torch.where(alike, 1, deviation))
