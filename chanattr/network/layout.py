"""Where an activation has its channels, and its grid: what modules, sizes and masks tell."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import nn

from chanattr.errors import InputError
from chanattr.network.names import Place

FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.modules.pooling._MaxPoolNd,
         nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd,
         nn.modules.pooling._LPPoolNd, nn.Upsample, nn.PixelShuffle, nn.LocalResponseNorm, nn.Dropout2d, nn.Dropout3d)
LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm)
OUTPUT_SIZES = ("out_channels", "out_features", "num_features", "num_channels", "normalized_shape")
INPUT_SIZES = ("in_channels", "in_features", "num_features", "num_channels", "normalized_shape")
POINTWISE = ("torch.nn.modules.activation", "torch.nn.modules.dropout")


def given_axis(shape: tuple[int, ...], given: int) -> int:
    """The channel axis that a caller gives, counted from the front (negative counts from the end).

    Raises:
        InputError: not one of the axes after the images'.
    """
    whole = isinstance(given, Integral) and not isinstance(given, bool)
    axis = int(given) + len(shape) * (given < 0) if whole else 0
    if not 0 < axis < len(shape):
        raise InputError(f"channel_axis={given!r} for an activation of shape {shape}; expected 1 to {len(shape) - 1} (or counted from the "
                         "end): axis 0 is the images'")
    return axis


def told(module: nn.Module, shape: tuple[int, ...], sizes: tuple[str, ...]) -> int:
    """The channel axis as the module itself tells; -1 where it does not.

    It goes by what kind of module it is; its own count of channels decides where it is no module of torch itself.

    Args:
        module: that gives or takes the activation.
        shape: of the activation.
        sizes: what modules call their count of channels: OUTPUT_SIZES for what it gives, INPUT_SIZES for what it takes.
    """
    if len(shape) < 3 or not isinstance(module, FIRST + LAST):
        return 1 if len(shape) == 2 else -1
    usual = 1 if isinstance(module, FIRST) else len(shape) - 1
    size = _size(module, sizes)
    fitting = [axis for axis in (1, len(shape) - 1) if shape[axis] == size]
    if len(fitting) == 1:
        return fitting[0]
    return usual if type(module).__module__.startswith("torch.nn.") and (fitting or size is None) else -1


def _size(module: nn.Module, names: tuple[str, ...]) -> int | None:
    found = next((getattr(module, name) for name in names if hasattr(module, name)), None)
    return int(found[-1]) if isinstance(found, (tuple, torch.Size)) else found


def keeps_layout(module: nn.Module) -> bool:
    """Whether an output of the input's shape has its channels where the input has them."""
    kind = type(module)
    return kind.__module__ in POINTWISE or kind is nn.Identity or kind.__name__ in ("StochasticDepth", "DropPath")


def clues(module: nn.Module | None, shape: tuple[int, ...], square: bool) -> set[int]:
    """Channel axes that are likely: by the last module inside that tells, and by which two sizes are equal.

    Args:
        module: that gives it; None where what is inside the module tells nothing, as of its input.
        shape: of the activation, [N, ...] with four axes or more.
        square: whether the images are, so that two equal sizes are height and width.
    """
    inner = reversed(list(module.modules())) if module is not None else ()
    found = {next((axis for part in inner if (axis := _by_size(part, shape)) >= 0), -1)}
    if square and len(shape) == 4:
        found |= {3 if shape[1] == shape[2] != shape[3] else 1 if shape[2] == shape[3] != shape[1] else -1}
    return found - {-1, 0}


def _by_size(module: nn.Module, shape: tuple[int, ...]) -> int:
    """The one axis, first or last, that has as many channels as the module gives; 0 for none or both; -1 where the module has no count."""
    if not isinstance(module, FIRST + LAST) or (size := _size(module, OUTPUT_SIZES)) is None:
        return -1
    fitting = [axis for axis in (1, len(shape) - 1) if shape[axis] == size]
    return fitting[0] if len(fitting) == 1 else -1


def axis_for_mask(place: Place, shape: tuple[int, ...], size: int | None, given: int | None, layer: str) -> int:
    """The channel axis of an activation that a mask is put on, where only the module and the mask can tell.

    Args:
        place: of the layer.
        shape: of its activation.
        size: of the mask and the fill; None for single numbers.
        given: by the caller.
        layer: for messages.

    Raises:
        InputError: the axis given is none, or there is no telling.
    """
    if given is not None:
        return given_axis(shape, given)
    axis = told(place.module, shape, INPUT_SIZES if place.is_input else OUTPUT_SIZES)
    if axis > 0 or len(shape) == 3:
        return axis if axis > 0 else 2
    if size is None:
        return min(1, len(shape) - 1)  # the same number for every channel
    likely = clues(None if place.is_input else place.module, shape, square=True) if len(shape) > 3 else set()
    fitting = {axis for axis in (1, len(shape) - 1) if shape[axis] == size} if len(shape) > 3 else set()
    left = likely & fitting if likely and fitting else likely | fitting
    if len(left) != 1:
        raise InputError(f"layer {layer!r} gives shape {shape}, and neither it nor a mask of {size} tells which axis has the channels; "
                         "expected [N, K], [N, L, K], [N, K, h, w] or [N, h, w, K]; pass channel_axis=")
    return left.pop()


def grid_of(shape: tuple[int, ...], axis: int) -> tuple[int, int]:
    """(h, w) of an activation with its channels along `axis`; (1, L) for tokens, (1, 1) without positions."""
    rest = [size for place, size in enumerate(shape) if place not in (0, axis)]
    if len(rest) == 2:
        return rest[0], rest[1]
    return (1, int(torch.Size(rest).numel())) if rest else (1, 1)
