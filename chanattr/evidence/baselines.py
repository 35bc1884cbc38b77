"""Baselines: what every channel is worth by the attributions of the field, one function each, through one table."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chanattr.attribution.asking import Asking
from chanattr.attribution.score import NetworkScore, channels_last
from chanattr.evidence.whole import at_layer
from chanattr.network.inputs import tensors_of, with_tensors
from chanattr.network.outputs import Inputs
from chanattr.search.exact import FORWARDS

INTEGRATED_STEPS, CONDUCTANCE_STEPS = 16, 16  # gradients along the path
PERMUTATIONS, SUBSETS = 20, 1000  # Shapley's orders of all channels, in pairs of opposites; Banzhaf's random halves


class Subject(NamedTuple):
    """What a baseline may look at: N images, a row each, the network, and the question about them.

    Attributes:
        asking: a row an image; its score runs in float32 (`in_float32`).
        model: left as found.
        images: as the model takes them.
        output_score: turns the model's output into logits, or None.
        keys: of the images; what is drawn for one hangs on its key and the seed alone.
        seed: of what is drawn.
    """

    asking: Asking
    model: nn.Module
    images: Inputs
    output_score: Callable[..., Tensor] | None
    keys: Sequence[str]
    seed: int = 0

    @property
    def score(self) -> NetworkScore:
        """The mean reward of masks, whatever the game: every baseline explains the reward itself."""
        return self.asking.score

    @property
    def entries(self) -> int:
        """K."""
        return int(self.asking.question.family.size)

    def ones(self) -> Float[Tensor, "N K"]:
        """Nothing dropped, of every row."""
        return torch.ones(len(self.keys), self.entries, device=self.score.targets.device, dtype=torch.float32)

    def rows(self) -> Tensor:
        """Row numbers."""
        return torch.arange(len(self.keys), device=self.score.targets.device)

    def generator(self, row: int) -> torch.Generator:
        """Of one image's draws."""
        digest = hashlib.sha256(f"{self.seed}/{self.keys[row]}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


class Worth(NamedTuple):
    """What every channel (or group) of every image is worth, the worthiest to be kept first, and the evaluations an image."""

    values: Float[Tensor, "N K"]
    evaluations: float


Baseline = Callable[[Subject], Worth]


def in_float32(asking: Asking) -> Asking:
    """The same question with its slopes taken in the plain tail, without the search's fast graph."""
    score = asking.score
    return asking._replace(score=dataclasses.replace(score, quick=score.tail, quick_stem=score.stem))


def random(subject: Subject) -> Worth:
    """An order drawn for each image: the floor that an attribution has to lie above."""
    values = [torch.rand(subject.entries, generator=subject.generator(row), dtype=torch.float32) for row in range(len(subject.keys))]
    return Worth(torch.stack(values).to(subject.score.targets.device), 0.0)


def activation_norm(subject: Subject) -> Worth:
    """The Euclidean norm of a channel's activation over its positions, which knows nothing of the class."""
    score = subject.score
    square = channels_last(score.stem.activation, score.tail.layer).float().square().sum(1)
    return Worth(by_entry(subject, square).sqrt(), 0.0)


def gradient_x_activation(subject: Subject) -> Worth:
    """The reward's slope along a channel's mask, nothing dropped: gradient times activation (less fill), summed over positions.

    Source: Simonyan, Vedaldi and Zisserman 2013; at a hidden layer Captum's LayerGradientXActivation, summed over positions.
    """
    return Worth(subject.score(subject.ones(), subject.rows(), True).gradient, 1.0)


def integrated_gradients(subject: Subject) -> Worth:
    """The same slope, meant over the straight way from the fill to the activation (midpoints).

    Source: Sundararajan, Taly and Yan 2017, at the layer, with the fill as its baseline.
    """
    total = torch.zeros_like(subject.ones())
    for step in range(INTEGRATED_STEPS):
        share = (step + 0.5) / INTEGRATED_STEPS
        total += subject.score(share * subject.ones(), subject.rows(), True).gradient
    return Worth(total / INTEGRATED_STEPS, float(INTEGRATED_STEPS))


def grad_cam(subject: Subject) -> Worth:
    """Grad-CAM's weight of a channel: the reward's gradient, meant over positions; of a group the sum.

    Source: Selvaraju et al. 2017, equation 1.
    """
    _, slopes = _at_layer(subject, subject.images)
    return Worth(by_entry(subject, slopes.mean(1)), 1.0)


def conductance(subject: Subject) -> Worth:
    """What of integrated gradients flows through a channel while the input is scaled from nothing to the image.

    Source: Dhamdhere, Sundararajan and Yan 2018, as in Captum's LayerConductance with a zero baseline and left-hand sums: slopes at one
    step times the activation's change to the next.
    """
    total = torch.zeros(len(subject.keys), subject.score.tail.layer.channels, device=subject.score.targets.device, dtype=torch.float32)
    before = _at_layer(subject, _scaled(subject.images, 0.0))
    for step in range(CONDUCTANCE_STEPS):
        after = _at_layer(subject, _scaled(subject.images, (step + 1) / CONDUCTANCE_STEPS))
        total += ((after[0] - before[0]) * before[1]).sum(1)
        before = after
    return Worth(by_entry(subject, total), float(CONDUCTANCE_STEPS))


def ablation(subject: Subject) -> Worth:
    """What the reward loses when one channel alone is dropped."""
    masks = 1 - torch.eye(subject.entries, device=subject.score.targets.device, dtype=torch.float32)
    found = []
    for row, whole in enumerate(_forwards(subject, subject.ones(), subject.rows())):
        found.append(whole - _forwards(subject, masks, torch.full((len(masks),), row, device=masks.device)))
    return Worth(torch.stack(found), (1 + subject.entries) / FORWARDS)


def shapley(subject: Subject) -> Worth:
    """Shapley values by orders drawn at random, each used forwards and backwards: the mean gain of the reward as a channel enters.

    Source: Castro, Gomez and Tejada 2009; opposite orders as in Mitchell et al. 2022.
    """
    found = []
    for row, orders in _drawn(subject, lambda generator: _orders(generator, subject.entries)):
        place = orders.argsort(1)  # of every channel in an order
        steps = torch.arange(subject.entries + 1, device=place.device)
        gains = []
        for one in place:
            masks = (one[None] < steps[:, None]).float()
            gains.append(_forwards(subject, masks, torch.full((len(masks),), row, device=masks.device)).diff()[one])
        found.append(torch.stack(gains).mean(0))
    return Worth(torch.stack(found), PERMUTATIONS * (subject.entries + 1) / FORWARDS)


def banzhaf(subject: Subject) -> Worth:
    """Banzhaf values by random halves: the mean reward of the sets that a channel is in, less that of those that it is not in.

    Source: Wang and Jia 2023 (every sample serves all channels).
    """
    found = []
    shape = SUBSETS, subject.entries
    for row, masks in _drawn(subject, lambda generator: (torch.rand(shape, generator=generator, dtype=torch.float32) < 0.5).float()):
        rewards = _forwards(subject, masks, torch.full((len(masks),), row, device=masks.device))
        inside = masks.sum(0)
        found.append(masks.T @ rewards / inside.clamp(min=1) - (1 - masks).T @ rewards / (len(masks) - inside).clamp(min=1))
    return Worth(torch.stack(found), SUBSETS / FORWARDS)


BASELINES: dict[str, Baseline] = {
    "random": random, "activation_norm": activation_norm, "gradient_x_activation": gradient_x_activation,
    "integrated_gradients": integrated_gradients, "grad_cam": grad_cam, "conductance": conductance, "ablation": ablation,
    "shapley": shapley, "banzhaf": banzhaf}
SAMPLED = ("shapley", "banzhaf")  # cost hundreds to thousands of evaluations an image, and are asked for by name


def _forwards(subject: Subject, masks: Tensor, rows: Tensor) -> Float[Tensor, "M"]:
    return subject.score(masks, rows, False).reward


def _drawn(subject: Subject, draw: Callable[[torch.Generator], Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Each row with what was drawn for it."""
    for row in range(len(subject.keys)):
        yield row, draw(subject.generator(row)).to(subject.score.targets.device)


def _orders(generator: torch.Generator, entries: int) -> Tensor:
    """Orders of all entries, each followed by its opposite."""
    drawn = [torch.randperm(entries, generator=generator) for _ in range(PERMUTATIONS // 2)]
    return torch.stack([order for one in drawn for order in (one, one.flip(0))])


def by_entry(subject: Subject, values: Float[Tensor, "N L"]) -> Float[Tensor, "N K"]:
    """Values of channels as values of the family's entries: a group has the sum of its channels."""
    family = subject.asking.question.family
    group = family.spread(torch.arange(family.size, device=values.device)[None])[0]
    return values.new_zeros(len(values), family.size).index_add_(1, group, values)


def _at_layer(subject: Subject, images: Inputs) -> tuple[Float[Tensor, "N P L"], Float[Tensor, "N P L"]]:
    """The layer's activation and the reward's gradient there, by the whole network, over all images at once."""
    score = subject.score
    return at_layer(subject.model, images, score.tail.layer, targets=score.targets, reward=score.reward, score=subject.output_score)


def _scaled(images: Inputs, share: float) -> Inputs:
    """The images times a share; whole numbers (masks, token types) stay."""
    return with_tensors(images, [share * tensor if tensor.is_floating_point() else tensor for tensor in tensors_of(images)])
