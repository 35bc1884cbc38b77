"""Networks with a planted answer: the best set of one area is known by construction.

With ``m`` the mask, every network of K channels scores

    f(m) = sum over k of linear[k] m[k]  +  sum over groups g of worth[g] form(strengths[g] * m[members[g]])

A channel belongs to at most one group, and has linear worth only outside of groups. The forms:

    maximum    max(u)                                    OR: one is enough
    product    0.9 prod(u) + 0.1 mean(u)                 AND: useful only together; the mean leaves a slope everywhere
    minimum    0.9 min(u) + 0.1 mean(u)                  AND
    logarithm  log(1 + sum(u))                           saturating

Each kind of network is drawn from a seed (0 to 49 in the tests) by the one function of its name, whose docstring says what is planted and
why nothing else of that area is as good. Channels are shuffled. Distractors have activations 5 to 20 times larger than planted channels
have, and little or negative worth: the layer's weights undo the difference. The generators were fixed before any search was tried on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

CHANNELS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
SLOPE = 0.1  # share of a conjunction's worth that its members have one by one


class Group(NamedTuple):
    """Channels that are worth something together."""

    form: str
    members: np.ndarray
    strengths: np.ndarray
    worth: float


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A network's formula and its answer.

    Attributes:
        linear: worth of each channel by itself [K].
        groups: the rest of the formula.
        activation: mean activation of each channel [K].
        mask: the planted set, bool [K]; others may be equally good where copies are alike.
    """

    linear: np.ndarray
    groups: tuple[Group, ...]
    activation: np.ndarray
    mask: np.ndarray

    @property
    def area(self) -> int:
        return int(self.mask.sum())


def channels_of(seed: int) -> int:
    """K runs through 8 to 512 with the seeds."""
    return CHANNELS[seed % len(CHANNELS)]


def additive(seed: int) -> Planted:
    """Planted: P channels of worth 0.5 to 1.5, a quarter of them four times that; area P, from K/16 to K/3.

    Every other channel is worth less than 0.4: a third is worth 0 to 0.4, a third nothing, a third -3 to 0.
    """
    rng = np.random.default_rng([1, seed])
    size = channels_of(seed)
    planted = int(rng.integers(max(1, size // 16), size // 3 + 1))
    worth = rng.uniform(0.5, 1.5, planted) * np.where(rng.uniform(size=planted) < 0.25, 4, 1)
    rest = size - planted
    others = np.choose(np.arange(rest) % 3, [rng.uniform(0, 0.4, rest), np.zeros(rest), rng.uniform(-3, 0, rest)])
    return _shuffled(rng, np.concatenate([worth, others]), [], np.arange(planted))


def redundant(seed: int) -> Planted:
    """Planted: one strongest copy of each group of 2 to 4 copies, groups worth 1 to 2; area = number of groups.

    In every other group all copies are alike, in the rest the weaker ones reach 0.6 to 0.95 of the strongest. A second copy adds nothing;
    a channel outside the groups (half of K) adds less than 0.5, so a set that leaves a group out is worse.
    """
    rng = np.random.default_rng([2, seed])
    size = channels_of(seed)
    groups: list[Group] = []
    used = 0
    while not groups or used + 4 <= size // 2:
        copies = int(rng.integers(2, 5))
        strengths = np.ones(copies)
        if len(groups) % 2:
            strengths[1:] = rng.uniform(0.6, 0.95, copies - 1)
        groups.append(Group("maximum", np.arange(used, used + copies), strengths, float(rng.uniform(1, 2))))
        used += copies
    linear = np.concatenate([np.zeros(used), _lone(rng, size - used, 0.5)])
    return _shuffled(rng, linear, groups, np.array([group.members[0] for group in groups]))


def conjunctive(seed: int) -> Planted:
    """Planted: half of the groups of n = 2, 3 or 4 channels, worth n to 2n when complete; area = n times their number.

    Even seeds join by product, odd ones by minimum. In its complete group a planted channel adds 1 or more, and nothing else does: a
    complete decoy group adds at most 0.9 a channel, a channel outside the groups (half of K) less than 0.9. Alone, a planted channel adds
    at most 0.2, so that most channels outside look better than it.
    """
    rng = np.random.default_rng([3, seed])
    size = channels_of(seed)
    together = 2 if size < 16 else 2 + seed % 3
    count = size // 2 // together
    planted = (count + 1) // 2
    form = ("product", "minimum")[seed % 2]
    members = np.arange(count * together).reshape(count, together)
    worth = together * np.where(np.arange(count) < planted, rng.uniform(1, 2, count), rng.uniform(0.3, 0.9, count))
    groups = [Group(form, row, np.ones(together), float(w)) for row, w in zip(members, worth, strict=True)]
    linear = np.concatenate([np.zeros(members.size), _lone(rng, size - members.size, 0.9)])
    return _shuffled(rng, linear, groups, members[:planted].flatten())


def saturating(seed: int) -> Planted:
    """Planted: the 1 to 3 strong channels (0.9 to 1.1) of every group, beside 1 to 4 weak ones (0.05 to 0.2); groups worth 1 to 1.5.

    The gains of a group's channels fall as it fills, so the best set is that of the largest gains: a strong channel adds at least
    log(4.1 / 3.2) = 0.248, a weak one after its group's strong ones at most 1.5 log(2.1 / 1.9) = 0.15, one outside the groups (a quarter
    of K) less than 0.2. With everything on, a strong channel's slope may be under that of one outside.
    """
    rng = np.random.default_rng([4, seed])
    size = channels_of(seed)
    groups: list[Group] = []
    planted: list[int] = []
    used = 0
    while not groups or used + 7 <= size * 3 // 4:
        strong, weak = int(rng.integers(1, 4)), int(rng.integers(1, 5))
        weak = min(weak, size * 3 // 4 - used - strong)  # of consequence in the smallest networks only
        strengths = np.concatenate([rng.uniform(0.9, 1.1, strong), rng.uniform(0.05, 0.2, weak)])
        groups.append(Group("logarithm", np.arange(used, used + strong + weak), strengths, float(rng.uniform(1, 1.5))))
        planted.extend(range(used, used + strong))
        used += strong + weak
    linear = np.concatenate([np.zeros(used), _lone(rng, size - used, 0.2)])
    return _shuffled(rng, linear, groups, np.array(planted))


KINDS: dict[str, Callable[[int], Planted]] = {"additive": additive, "redundant": redundant, "conjunctive": conjunctive,
                                               "saturating": saturating}


def _lone(rng: np.random.Generator, count: int, most: float) -> np.ndarray:
    """Worth of channels outside groups: every other one 0 to `most`, the rest -1 to 0."""
    return np.where(np.arange(count) % 2 == 0, rng.uniform(0, most, count), rng.uniform(-1, 0, count))


def _shuffled(rng: np.random.Generator, linear: np.ndarray, groups: Sequence[Group], planted: np.ndarray) -> Planted:
    """The formula with its channels in random order, and activations: 0.5 to 1.5 where planted, 5 to 20 times that elsewhere."""
    place = rng.permutation(len(linear))
    mask = np.zeros(len(linear), bool)
    mask[place[planted]] = True
    moved = np.empty_like(linear)
    moved[place] = linear
    activation = rng.uniform(0.5, 1.5, len(linear)) * np.where(mask, 1, rng.uniform(5, 20, len(linear)))
    return Planted(linear=moved, groups=tuple(g._replace(members=place[g.members]) for g in groups), activation=activation, mask=mask)


def score(planted: Planted, masks: np.ndarray) -> np.ndarray:
    """The formula in float64 for masks [M, K]."""
    total = masks @ planted.linear
    for group in planted.groups:
        u = masks[:, group.members] * group.strengths
        formed = {"maximum": lambda u: u.max(1), "logarithm": lambda u: np.log1p(u.sum(1)),
                  "product": lambda u: (1 - SLOPE) * u.prod(1) + SLOPE * u.mean(1),
                  "minimum": lambda u: (1 - SLOPE) * u.min(1) + SLOPE * u.mean(1)}[group.form](u)
        total = total + group.worth * formed
    return total


class Network(nn.Module):
    """The formula as a network: images [N, K, h, w] are the activation of layer 'body'; logits are (f, 0)."""

    weight: Tensor
    linear: Tensor

    def __init__(self, planted: Planted) -> None:
        super().__init__()
        self.body = nn.Identity()
        self.register_buffer("weight", torch.tensor(1 / planted.activation, dtype=torch.float32))
        self.register_buffer("linear", torch.tensor(planted.linear, dtype=torch.float32))
        self.blocks = nn.ModuleList(Block([g for g in planted.groups if len(g.members) == size])
                                    for size in sorted({len(g.members) for g in planted.groups}))

    def forward(self, x: Tensor) -> Tensor:
        u = self.body(x).mean((2, 3)) * self.weight
        total = u @ self.linear
        for block in self.blocks:
            total = total + block(u)
        return torch.stack([total, torch.zeros_like(total)], 1)


class Block(nn.Module):
    """Groups of one form and size, worked out side by side."""

    members: Tensor
    strengths: Tensor
    worth: Tensor

    def __init__(self, groups: Sequence[Group]) -> None:
        super().__init__()
        self.form = groups[0].form
        self.register_buffer("members", torch.tensor(np.stack([g.members for g in groups])))
        self.register_buffer("strengths", torch.tensor(np.stack([g.strengths for g in groups]), dtype=torch.float32))
        self.register_buffer("worth", torch.tensor([g.worth for g in groups]))

    def forward(self, u: Tensor) -> Tensor:
        u = u[:, self.members] * self.strengths
        if self.form == "maximum":
            formed = u.amax(2)
        elif self.form == "logarithm":
            formed = u.sum(2).log1p()
        else:
            joined = u.prod(2) if self.form == "product" else u.amin(2)
            formed = (1 - SLOPE) * joined + SLOPE * u.mean(2)
        return formed @ self.worth


def image(planted: Planted, seed: int = 0) -> Tensor:
    """An image [1, K, 3, 3] whose channels have the planted mean activations, unevenly over space."""
    pattern = np.random.default_rng(seed).uniform(0.2, 1.8, (len(planted.activation), 9))
    pattern /= pattern.mean(1, keepdims=True)
    return torch.tensor(planted.activation[:, None] * pattern, dtype=torch.float32).reshape(1, -1, 3, 3)
