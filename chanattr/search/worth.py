"""What a channel is worth to a set: the slopes seen with it in and with it out, older ones counting less."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

DOUBT = 0.5  # evaluations: a side of a channel that was seen this much counts half of one seen for ever
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
        tiny = torch.finfo(self.times.dtype).tiny
        trust = self.times / (self.times + DOUBT)
        mean = self.slopes / self.times.clamp(min=tiny)
        return (trust * mean).sum(0) / trust.sum(0).clamp(min=tiny)


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
