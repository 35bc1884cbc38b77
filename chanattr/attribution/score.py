"""The score of masks on a network: a tail, kept activations, targets and a reward, meaned over the images of each row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from chanattr.attribution.inputs import array_of
from chanattr.errors import InputError
from chanattr.network.batches import anchor_of, in_batches
from chanattr.network.fast import FastTail
from chanattr.network.layers import Layer
from chanattr.network.stem import Stem
from chanattr.network.tail import Tail
from chanattr.search.objective import Reward, Scored, log_probability
from chanattr.settings import FILLS

Logits = Callable[[Tail | FastTail, Stem, Tensor, Tensor], Tensor]


class Judged(NamedTuple):
    """Final figures of M masks, in float32: mean reward (or what the game makes of it), share of the row's images still named, mean
    log-probability.
    """

    score: Float[Tensor, "M"]
    top1: Float[Tensor, "M"]
    log_probability: Float[Tensor, "M"]


class Fill(NamedTuple):
    """What a dropped channel becomes: its name, the digest of given values, and the values, [K] or [N, K]."""

    name: str
    sha256: str
    values: Tensor

    def of(self, images: Tensor) -> Fill:
        """The same fill for some of the images."""
        return self if self.values.ndim == 1 else self._replace(values=self.values[images])

    def taken(self, device: torch.device) -> Tensor:
        """The values as a tail takes them: one 0, which is not added, where all are."""
        values = self.values.to(device)
        return values if values.any() else torch.zeros((), dtype=torch.float32)

    def stored(self) -> Tensor:
        """[K] values as they are stored: NaN where they depend on the image."""
        return self.values if self.values.ndim == 1 else self.values.new_full(self.values.shape[1:], torch.nan)


@dataclass(frozen=True, kw_only=True)
class NetworkScore:
    """Scores masks by running the tail, in batches, on the images that belong to each row.

    Attributes:
        tail, stem: the network after the layer, and the kept activations of N images; by them masks are judged.
        quick, quick_stem: the same as a search runs them, faster and less exact.
        logits: what a tail makes of masks [B, K] on images [B] of its stem.
        targets: class of each image, i8 [N].
        reward: of logits and targets.
        members: for each row the images it is over; an image may belong to several rows.
        batch_size: masked images run at once, at most; less where memory runs out.
    """

    tail: Tail
    stem: Stem
    quick: Tail | FastTail
    quick_stem: Stem
    logits: Logits
    targets: Tensor
    reward: Reward
    members: tuple[Tensor, ...]
    batch_size: int

    @torch.inference_mode(False)
    def __call__(self, masks: Float[Tensor, "M K"], rows: Int[Tensor, "M"], gradient: bool) -> Scored:
        """Mean reward of each mask over its row's images, with the gradient where asked; for searching, not for reporting."""
        masks = masks.detach()
        owner, image = self._pairs(rows)

        def run(part: slice) -> tuple[Tensor, Tensor]:
            with torch.set_grad_enabled(gradient):
                leaf = masks[owner[part]].requires_grad_(gradient)
                logits = self.logits(self.quick, self.quick_stem, leaf, image[part]).float()
                got = self.reward(logits, self.targets[image[part]]).to(masks.dtype)
                return got.detach(), torch.autograd.grad(got.sum(), leaf)[0] if gradient else leaf[:, :0]

        rewards = torch.zeros(len(masks), device=masks.device, dtype=masks.dtype)
        gradients = torch.zeros_like(masks) if gradient else masks.new_empty(0, masks.shape[1])
        for part, (got, slope) in in_batches(anchor_of(self.quick), len(owner), self.batch_size, gradient, run):
            rewards.index_add_(0, owner[part], got)
            if gradient:
                gradients.index_add_(0, owner[part], slope)
        counts = self._places[0][rows].to(masks.dtype)
        return Scored(rewards / counts, gradients / counts[:, None] if gradient else gradients)

    @torch.inference_mode(False)
    @torch.no_grad()
    def judge(self, masks: Tensor, rows: Int[Tensor, "M"]) -> Judged:
        """The final figures of masks, by the definition."""
        owner, image = self._pairs(rows)

        def run(part: slice) -> Tensor:
            logits = self.logits(self.tail, self.stem, masks[owner[part]].float(), image[part]).float()
            targets = self.targets[image[part]]
            return torch.stack([self.reward(logits, targets), (logits.argmax(1) == targets).float(), log_probability(logits, targets)])

        sums = torch.zeros(3, len(masks), device=masks.device, dtype=torch.float32)
        for part, figures in in_batches(anchor_of(self.tail), len(owner), self.batch_size, False, run):
            sums.index_add_(1, owner[part], figures)
        return Judged(*(sums / self._places[0][rows].float()))

    @cached_property
    def _places(self) -> tuple[Int[Tensor, "R"], Int[Tensor, "R"], Int[Tensor, "I"]]:
        """How many images each row has, where its first is in the list of all rows' images, and that list."""
        counts = torch.tensor([len(m) for m in self.members], device=self.targets.device)
        return counts, counts.cumsum(0) - counts, torch.cat(self.members)

    def _pairs(self, rows: Int[Tensor, "M"]) -> tuple[Int[Tensor, "B"], Int[Tensor, "B"]]:
        """(mask, image) pairs of all masks with all images of their rows."""
        counts, first, images = self._places
        if len(images) == len(counts):  # one image a row, for none has none
            return torch.arange(len(rows), device=rows.device), images[rows]
        own = counts[rows]
        owner = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), own)
        before = (own.cumsum(0) - own)[owner]
        return owner, images[first[rows][owner] + torch.arange(len(owner), device=rows.device) - before]


def channels_last(values: Tensor, layer: Layer) -> Float[Tensor, "N P K"]:
    """An activation as [images, positions, channels]."""
    return values.movedim(layer.channel_axis, -1).reshape(len(values), -1, layer.channels)


def zeros(layer: Layer) -> Fill:
    """The fill "zero", which needs no activation."""
    return Fill("zero", "", torch.zeros(layer.channels, dtype=torch.float32))


@torch.inference_mode(False)
def fill_of(fill: str | float | Sequence[float] | np.ndarray | Tensor, activation: Tensor, layer: Layer) -> Fill:
    """What a dropped channel becomes.

    Args:
        fill: "zero" (the paper), "mean" (of each channel over all images and positions given), "spatial_mean" (of each channel over
            the positions of its own image), a number, or K values.
        activation: of the images the mean is over.
        layer: tells the channel axis.

    Raises:
        InputError: no such fill, or not K values.
    """
    if isinstance(fill, str):
        if fill not in FILLS or fill == "values":
            raise InputError(f"fill={fill!r}; expected 'zero', 'mean', 'spatial_mean', a number, or {layer.channels} values")
        flat = channels_last(activation, layer).float()
        values = {"zero": flat.new_zeros(layer.channels), "mean": flat.mean((0, 1)), "spatial_mean": flat.mean(1)}[fill]
        return Fill(fill, "", values)
    given = array_of(fill)
    if given is None:
        raise InputError(f"fill={str(fill)[:80]}; expected one of {', '.join(FILLS[:-1])}, a number, or {layer.channels} values; leave it "
                         f"out for {FILLS[0]!r}")
    values = torch.as_tensor(given.astype(np.float32), device=activation.device)
    if values.ndim == 0:
        values = values.expand(layer.channels)
    if values.shape != (layer.channels,) or not values.isfinite().all():
        raise InputError(f"fill has shape {tuple(values.shape)}; expected {layer.channels} finite values for layer '{layer.name}'")
    return Fill("values", hashlib.sha256(values.cpu().contiguous().numpy().tobytes()).hexdigest(), values)
