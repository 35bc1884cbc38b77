"""How a tail sees smooth masks on a picture: perturbed by a lookup, put in place of the layer's output; and the views of a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chanattr.attribution.perturbation import Lookup
from chanattr.attribution.score import NetworkScore
from chanattr.network.fast import FastTail
from chanattr.network.stem import Stem
from chanattr.network.tail import Tail

View = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Seen:
    """What a tail makes of masks [M, H * W] on pictures, as a `NetworkScore` asks.

    Attributes:
        lookup: the pictures' pyramid.
        channel_axis: of the layer, where a picture under a mask is put.
        view: how a perturbed picture is seen; None is as it is.
    """

    lookup: Lookup
    channel_axis: int
    view: View | None = None

    def __call__(self, tail: Tail | FastTail, stem: Stem, masks: Float[Tensor, "M P"], images: Int[Tensor, "M"]) -> Float[Tensor, "M C"]:
        made = self.lookup.perturbed(masks, images)
        made = made if self.view is None else self.view(made)
        return tail.logits_from(stem, made.movedim(1, self.channel_axis).to(stem.activation.dtype), images)


def seen_by(score: NetworkScore, view: View | None) -> NetworkScore:
    """The same score of masks on pictures by another view."""
    return replace(score, logits=replace(cast(Seen, score.logits), view=view))


def flipped(images: Float[Tensor, "M C H W"]) -> Float[Tensor, "M C H W"]:
    """Images mirrored left to right."""
    return images.flip(-1)


def shifted(down: int, right: int) -> View:
    """A view of images moved by so many pixels; what comes in at a border is what was next to it."""

    def view(images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        padded = torch.nn.functional.pad(images, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)), mode="replicate")
        return padded[:, :, max(-down, 0):max(-down, 0) + height, max(-right, 0):max(-right, 0) + width]

    return view
