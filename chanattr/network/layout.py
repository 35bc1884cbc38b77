"""Where an activation has its channels, and its grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def axis_of(module: nn.Module, shape: tuple[int, ...], given: int | None) -> int:
    """The channel axis of a module's output: the one given (negative counts from the end), or as found; -1 where there is none."""
    if given is None or not shape:
        return channel_axis(module, shape)
    return given % len(shape)


def channel_axis(module: nn.Module, shape: tuple[int, ...]) -> int:
    """1 for [N, K] and [N, K, h, w], the last for [N, L, K] and [N, h, w, K]; -1 where there is no telling."""
    if len(shape) == 2:
        return 1
    if len(shape) == 3:
        return 2
    if len(shape) == 4:
        return 3 if _channels_last(module, shape) else 1
    return -1


def _channels_last(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether [N, ?, ?, ?] has its channels last: by the last module inside that tells, else by which two sizes are equal."""
    for inner in reversed(list(module.modules())):
        if isinstance(inner, (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d)):
            weight = getattr(inner, "weight", None)
            if not isinstance(weight, Tensor) or len(weight) != shape[3] or len(weight) == shape[1]:
                return False
        if isinstance(inner, (nn.Linear, nn.LayerNorm)):
            size = inner.out_features if isinstance(inner, nn.Linear) else inner.normalized_shape[-1]
            if size in (shape[1], shape[3]):
                return size == shape[3] and (size != shape[1] or shape[2] != shape[3])
    return shape[1] == shape[2] != shape[3]


def grid_of(shape: tuple[int, ...], axis: int) -> tuple[int, int]:
    """(h, w) of an activation with its channels along `axis`; (1, L) for tokens, (1, 1) without positions."""
    rest = [size for place, size in enumerate(shape) if place not in (0, axis)]
    if len(rest) == 2:
        return rest[0], rest[1]
    return (1, int(torch.Size(rest).numel())) if rest else (1, 1)
