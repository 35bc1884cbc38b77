"""The score of smooth masks on a picture: perturbed by a lookup, put in place of the layer's input, and run through the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chanattr.attribution.perturbation import Lookup
from chanattr.attribution.score import Judged
from chanattr.network.batches import anchor_of, in_batches
from chanattr.network.fast import FastTail
from chanattr.network.stem import Stem
from chanattr.network.tail import Tail
from chanattr.search.objective import Reward, Scored, log_probability

View = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class PictureScore:
    """Scores masks [M, H * W] of N images, each a row, in batches.

    Attributes:
        tail, stem: the network after the layer, by which masks are judged.
        quick, quick_stem: the same as a search runs them.
        lookup: the images' pyramid.
        targets: class of each image, i8 [N].
        reward: of logits and targets.
        batch_size: perturbed images run at once, at most.
        to_layer: puts [M, C, H, W] in the layer's own layout.
        view: how this score sees perturbed images; the identity by default.
    """

    tail: Tail
    stem: Stem
    quick: Tail | FastTail
    quick_stem: Stem
    lookup: Lookup
    targets: Tensor
    reward: Reward
    batch_size: int
    to_layer: View
    view: View | None = None

    def seen(self, view: View | None) -> PictureScore:
        """The same score by another view."""
        return replace(self, view=view)

    @torch.inference_mode(False)
    def __call__(self, masks: Float[Tensor, "M P"], rows: Int[Tensor, "M"], gradient: bool) -> Scored:
        """The reward of each mask, with its gradient where asked; for searching, not for reporting."""
        masks = masks.detach()

        def run(part: slice) -> tuple[Tensor, Tensor]:
            with torch.set_grad_enabled(gradient):
                leaf = masks[part].requires_grad_(gradient)
                logits = self.quick.logits_from(self.quick_stem, self._perturbed(leaf, rows[part]), rows[part]).float()
                got = self.reward(logits, self.targets[rows[part]])
                return got.detach(), torch.autograd.grad(got.sum(), leaf)[0] if gradient else leaf[:, :0]

        parts = [got for _, got in in_batches(anchor_of(self.quick), len(masks), self.batch_size, gradient, run)]
        return Scored(torch.cat([reward for reward, _ in parts]), torch.cat([slopes for _, slopes in parts]))

    @torch.inference_mode(False)
    @torch.no_grad()
    def judge(self, masks: Float[Tensor, "M P"], rows: Int[Tensor, "M"]) -> Judged:
        """The final figures of masks, by the definition."""

        def run(part: slice) -> Tensor:
            logits = self.tail.logits_from(self.stem, self._perturbed(masks[part], rows[part]), rows[part]).float()
            targets = self.targets[rows[part]]
            return torch.stack([self.reward(logits, targets), (logits.argmax(1) == targets).float(), log_probability(logits, targets)])

        parts = in_batches(anchor_of(self.tail), len(masks), self.batch_size, False, run)
        return Judged(*torch.cat([figures for _, figures in parts], dim=1))

    def _perturbed(self, masks: Tensor, rows: Tensor) -> Tensor:
        made = self.lookup.perturbed(masks, rows)
        return self.to_layer(made if self.view is None else self.view(made))


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
