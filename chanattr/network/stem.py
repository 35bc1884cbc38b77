"""What is kept of images at a layer, so that only what follows it has to run: made in halves where memory runs out, joined and taken."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from chanattr.network.batches import anchor_of, in_batches
from chanattr.network.inputs import join_rows, take_rows
from chanattr.network.outputs import Inputs, batch_size_of


@dataclass(frozen=True, kw_only=True)
class Stem:
    """What is kept of N images at one layer.

    Attributes:
        logits: of the whole network, unmasked, [N, C].
        activation: of the layer, [N, ...].
        sides: what passes the layer by (or, for replay, what was done before it), each [N, ...].
        images: themselves, where the whole network must run again; [N, 0] otherwise.
    """

    logits: Tensor
    activation: Tensor
    sides: tuple[Tensor, ...]
    images: Inputs


def join_stems(parts: Sequence[Stem]) -> Stem:
    """Stems of one layer one after another."""
    alike = len({len(p.sides) for p in parts}) == 1  # replay keeps nothing of images that went another way
    return Stem(logits=torch.cat([p.logits for p in parts]), activation=torch.cat([p.activation for p in parts]),
                sides=tuple(torch.cat(side) for side in zip(*(p.sides for p in parts), strict=True)) if alike else (),
                images=join_rows([p.images for p in parts]))


def take_stem(stem: Stem, rows: Int[Tensor, "R"]) -> Stem:
    """Some images of a stem."""
    return Stem(logits=stem.logits[rows], activation=stem.activation[rows], sides=tuple(side[rows] for side in stem.sides),
                images=take_rows(stem.images, rows))


def halving(run: Callable[[Any, Inputs], Stem]) -> Callable[[Any, Inputs], Stem]:
    """A tail's own way to a stem, run in halves where memory runs out."""

    @functools.wraps(run)
    def stem(tail: Any, images: Inputs) -> Stem:
        count = batch_size_of(images)
        parts = [part for _, part in in_batches(anchor_of(tail), count, count, "stem", lambda rows: run(tail, take_rows(images, rows)))]
        return parts[0] if len(parts) == 1 else join_stems(parts)

    return stem
