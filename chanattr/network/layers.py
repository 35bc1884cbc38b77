"""Finds a layer by name, lists layers, tells channel axis and grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from chanattr.errors import LayerError
from chanattr.network.hooks import capture, frozen
from chanattr.network.inputs import at_least_two, take_rows, tensors_of, with_tensors
from chanattr.network.layout import given_axis, grid_of
from chanattr.network.names import Place, check_called, check_calls, find, kind, named
from chanattr.network.observe import Sight, look
from chanattr.network.outputs import Inputs, batch_size_of, call


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one forward pass tells about a layer.

    Attributes:
        name: dotted, as in ``named_modules`` without ``module.`` and ``_orig_mod.``; ``NAME:input`` for what the module is given;
            ``@n`` for the n-th call.
        type: class of the module.
        calls: how often it fired; 0 is never.
        shape: of its output (or input), or of the first tensor in it.
        channel_axis: of that shape; -1 where there is none.
        channels: K.
        grid: (h, w); (1, L) for tokens; (1, 1) without positions.
    """

    name: str
    type: str
    calls: int
    shape: tuple[int, ...]
    channel_axis: int
    channels: int
    grid: tuple[int, int]


def layers(model: nn.Module, example: Inputs) -> tuple[Layer, ...]:
    """Every module of a model in order, with what it gives in one forward pass.

    Args:
        model: left as found.
        example: the model's input for one or two images.

    Raises:
        ModelError: the model fails on the example.

    Examples:
        >>> import torch, chanattr as ca
        >>> [layer.name for layer in ca.layers(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)), torch.rand(1, 3, 8, 8))]
        ['', '0']
    """
    modules = named(model)
    seen = look(model, example, modules)
    return tuple(_layer(name, module, seen[name], None) for name, module in modules.items())


def describe(model: nn.Module, example: Inputs, name: str, *, channel_axis: int | None = None) -> Layer:
    """One layer, checked to be one that a mask can be put on; its name is canonical.

    Raises:
        LayerError: no such layer, it never fires, it fires more than once without ``@n``, or nothing tells its channel axis.
        InputError: the axis given is not one of the activation's.
    """
    return describe_all(model, example, [name], channel_axis=channel_axis)[0]


def describe_all(model: nn.Module, example: Inputs, names: Sequence[str], *, channel_axis: int | None = None) -> tuple[Layer, ...]:
    """Several layers, as `describe` gives them, from one forward pass."""
    places = [find(model, name) for name in names]
    seen = look(model, example, [] if channel_axis is not None else [place.name for place in places],
                [place.name for place in places if place.is_input])
    for place in places:
        if not seen[place.name]:
            check_called(model, place)
    images = batch_size_of(example)
    return tuple(_masked_layer(place, [_by_image(model, example, place, sight, images) for sight in seen[place.name]], images, channel_axis)
                 for place in places)


def _masked_layer(place: Place, sights: Sequence[Sight], images: int, channel_axis: int | None) -> Layer:
    """The layer of a place whose calls were looked at.

    Raises:
        LayerError: as `describe`.
    """
    check_calls(place.name, place.call, len(sights))
    layer = _layer(place.name, place.module, sights[max(0, place.call - 1):], channel_axis)
    layer = dataclasses.replace(layer, calls=len(sights), name=f"{place.name}@{place.call}" if len(sights) > 1 else place.name)
    if layer.channel_axis < 0:
        raise LayerError(f"layer {layer.name!r} gives shape {layer.shape}, and nothing tells which axis has the channels; expected "
                         "[N, K, h, w], [N, h, w, K], [N, L, K] or [N, K]; choose another layer, or pass channel_axis=")
    if layer.shape[0] != images:
        raise LayerError(f"layer {layer.name!r} gives {layer.shape[0]} rows for {images} images (shape {layer.shape}); expected "
                         "the images along its first axis; choose another layer")
    return layer


def _by_image(model: nn.Module, example: Inputs, place: Place, sight: Sight, images: int) -> Sight:
    """What a module is given with its rows an image along an axis of their own, as `hooks.change` gives it: windows of attention."""
    rows = sight.shape[0] if sight.shape else images
    if not place.is_input or rows == images or rows % images or not _rows_follow(model, example, place):
        return sight
    return Sight((images, rows // images, *sight.shape[1:]), sight.axis + (sight.axis > 0))


@torch.inference_mode(False)
@torch.no_grad()
def _rows_follow(model: nn.Module, example: Inputs, place: Place) -> bool:
    """Whether the rows that a module is given for one image are the first of those that it is given for two."""
    two = take_rows(at_least_two(example), slice(0, 2))
    other = [torch.stack([x[0], 0.5 * x[0].flip(-1)]) if x.is_floating_point() and x.ndim > 1 else x for x in tensors_of(two)]
    name = place.name + f"@{place.call}" * bool(place.call)
    kept = []
    for count in (1, 2):
        with frozen(model), capture(model, [name]) as seen:
            call(model, take_rows(with_tensors(two, other), slice(0, count)))
        kept.append(seen[name].float())
    one, both = kept
    near = 1e-3 * one.abs().amax()
    return one.shape[1:] == both.shape[1:] and bool((both[:1] - one).abs().amax() <= near < (both[1:] - one).abs().amax())


def _layer(name: str, module: nn.Module, sights: Sequence[Sight], channel_axis: int | None) -> Layer:
    sight = sights[0] if sights else Sight((), -1)
    axis = sight.axis if channel_axis is None or not sight.shape else given_axis(sight.shape, channel_axis)
    return Layer(name=name, type=kind(module), calls=len(sights), shape=sight.shape, channel_axis=axis,
                 channels=sight.shape[axis] if axis > 0 else 0, grid=grid_of(sight.shape, axis))
