"""Groups of channels as a family: a mask selects whole groups, and areas count groups."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from chanattr.errors import InputError, first_line
from chanattr.search.family import Channels

GroupOfEvery = Sequence[int] | np.ndarray | Tensor  # channel, numbered from 0 without a gap
Group = str | int | GroupOfEvery | Callable[[int], GroupOfEvery]  # "", "heads", channels a group, [K], or a function that gives it for K


@dataclass(frozen=True, eq=False)
class Groups:
    """Masks over G groups of a layer's channels: parameters are a value a group, in [0, 1]^G; areas count groups.

    A group is to the search what a channel is elsewhere, so its settings are those of `Channels`; only the network sees the
    channels, and the slope of a group is the sum over its channels.

    Attributes:
        groups: group of every channel, i8 [K], each of 0 to G - 1 at least once.
        name: "heads" or "given", as it is stored.
    """

    groups: Tensor
    name: str = "given"
    unit: str = "groups"

    @classmethod
    def consecutive(cls, width: int, channels: int, name: str = "given") -> Groups:
        """Groups of `width` channels in order."""
        return cls(torch.arange(channels) // width, name, "heads" if name == "heads" else "groups")

    @cached_property
    def size(self) -> int:
        """G."""
        return int(self.groups.max()) + 1

    @property
    def sha256(self) -> str:
        """Of the group of every channel, in hex."""
        return hashlib.sha256(self.groups.cpu().numpy().astype("<i4").tobytes()).hexdigest()

    def spread(self, masks: Tensor) -> Tensor:
        """[P, G] to [P, K]: each channel has its group's value. In a backward pass the channels' slopes are summed."""
        return masks[..., self.groups.to(masks.device)]

    @property
    def full(self) -> float:
        """All groups."""
        return self.size

    # To a search a group is what a channel is elsewhere.
    start, project, smooth_gradient = Channels.start, Channels.project, Channels.smooth_gradient
    penalty, binary, finish, every, resolve = Channels.penalty, Channels.binary, Channels.finish, Channels.every, Channels.resolve


def groups_of(group: object, channels: int, layer: str) -> Groups:
    """Groups as a caller gives them.

    Args:
        group: channels a group, in order; the group of every channel, [K], numbered from 0 without a gap; or a function of K that gives
            one of these, which serves layers of any width.
        channels: K.
        layer: for messages.

    Raises:
        InputError: something else.

    Examples:
        >>> groups_of(2, 6, "mix").groups.tolist()
        [0, 0, 1, 1, 2, 2]
        >>> groups_of([1, 0, 0], 3, "mix").spread(torch.tensor([[0.5, 1.0]])).tolist()
        [[1.0, 0.5, 0.5]]
        >>> groups_of(lambda channels: torch.arange(channels) % 2, 4, "mix").groups.tolist()
        [0, 1, 0, 1]
    """
    remedy = (f"expected 'heads', a divisor of {channels} (channels a group, in order), the group of each of the {channels} channels of "
              f"layer {layer!r}, numbered from 0 without a gap, or a function of {channels} that gives one of these; "
              "leave it out for single channels")
    if callable(group):
        try:
            group = group(channels)
        except Exception as error:
            raise InputError(f"the function given as group failed on {channels} channels ({first_line(error)}); {remedy}") from error
    values = _whole_numbers(group)
    if values.ndim == 0 and values.size and int(values) > 0 and channels % int(values) == 0:
        return Groups.consecutive(int(values), channels)
    if values.shape != (channels,):
        what = repr(group) if isinstance(group, (str, int, float)) else f"{type(group).__name__} of shape {values.shape}"
        raise InputError(f"group={what}; {remedy}")
    if values.min() != 0 or len(np.unique(values)) != values.max() + 1:
        raise InputError(f"group has the numbers {np.unique(values)[:10].tolist()}; {remedy}")
    return Groups(torch.from_numpy(values.astype(np.int64)))


def _whole_numbers(group: object) -> np.ndarray:
    """The numbers given, i8; none where they are no whole numbers."""
    if isinstance(group, Tensor):
        group = group.detach().cpu().numpy()
    try:
        values = np.asarray(group)
    except (TypeError, ValueError):
        return np.zeros((0, 0), np.int64)
    return values.astype(np.int64) if values.dtype.kind in "iu" else np.zeros((0, 0), np.int64)
