"""Finds a layer by name, lists layers, tells channel axis and grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from chanattr.errors import LayerError
from chanattr.network.hooks import frozen, watch
from chanattr.network.layout import axis_of, grid_of
from chanattr.network.names import Place, check_calls, find, kind, named
from chanattr.network.outputs import Inputs, batch_size_of, call, first_tensor


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one forward pass tells about a layer.

    Attributes:
        name: dotted, as in ``named_modules`` without ``module.`` and ``_orig_mod.``; ``@n`` for the n-th call.
        type: class of the module.
        calls: how often it fired; 0 is never.
        shape: of its output, or of the first tensor in it.
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

    Example:
        >>> import torch, chanattr as ca
        >>> [layer.name for layer in ca.layers(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)), torch.rand(1, 3, 8, 8))]
        ['', '0']
    """
    modules = named(model)
    shapes = _observe(model, modules, example)
    return tuple(_layer(name, module, shapes[name], None) for name, module in modules.items())


def describe(model: nn.Module, example: Inputs, name: str, *, channel_axis: int | None = None) -> Layer:
    """One layer, checked to be one that a mask can be put on; its name is canonical.

    Raises:
        LayerError: no such layer, it never fires, it fires more than once without ``@n``, or no channel axis is found.
    """
    return describe_all(model, example, [name], channel_axis=channel_axis)[0]


def describe_all(model: nn.Module, example: Inputs, names: Sequence[str], *, channel_axis: int | None = None) -> tuple[Layer, ...]:
    """Several layers, as `describe` gives them, from one forward pass."""
    places = [find(model, name) for name in names]
    shapes = _observe(model, {place.name: place.module for place in places}, example)
    return tuple(_masked_layer(place, shapes[place.name], batch_size_of(example), channel_axis) for place in places)


def canonical(model: nn.Module, example: Inputs, names: Sequence[str]) -> tuple[str, ...]:
    """The one name of each layer, under which answers are stored: without wrappers' words, and with ``@n`` where it fires more than once.

    Args:
        model: left as found.
        example: the model's input for one or two images.
        names: as a caller may write them.

    Raises:
        LayerError: as `describe`.

    Example:
        >>> import torch
        >>> model = torch.nn.DataParallel(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()))
        >>> canonical(model, torch.rand(1, 2), ["module.1", "1@1", "1"])
        ('1', '1', '1')
    """
    return tuple(layer.name for layer in describe_all(model, example, names))


def _masked_layer(place: Place, shapes: Sequence[tuple[int, ...]], images: int, channel_axis: int | None) -> Layer:
    """The layer of a place whose shapes are known.

    Raises:
        LayerError: as `describe`.
    """
    check_calls(place.name, place.call, len(shapes))
    layer = _layer(place.name, place.module, shapes[max(0, place.call - 1):], channel_axis)
    layer = dataclasses.replace(layer, calls=len(shapes), name=f"{place.name}@{place.call}" if len(shapes) > 1 else place.name)
    if layer.channel_axis < 0:
        raise LayerError(f"layer {layer.name!r} gives shape {layer.shape}; expected images and channels, [N, K, h, w], [N, h, w, K], "
                         "[N, L, K] or [N, K]; choose another layer, or pass channel_axis=")
    if layer.shape[0] != images:
        raise LayerError(f"layer {layer.name!r} gives {layer.shape[0]} rows for {images} images (shape {layer.shape}); expected "
                         "the images along its first axis; choose another layer")
    return layer


def _observe(model: nn.Module, modules: Mapping[str, nn.Module], example: Inputs) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of every call of some modules in one forward pass."""
    shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in modules}

    def note(name: str, output: object) -> None:
        tensor = first_tensor(output)
        shapes[name].append(tuple(tensor.shape) if tensor is not None else ())

    with frozen(model), watch(modules, note), torch.no_grad():
        call(model, example)
    return shapes


def _layer(name: str, module: nn.Module, shapes: Sequence[tuple[int, ...]], channel_axis: int | None) -> Layer:
    shape = shapes[0] if shapes else ()
    axis = axis_of(module, shape, channel_axis)
    return Layer(name=name, type=kind(module), calls=len(shapes), shape=shape, channel_axis=axis,
                 channels=shape[axis] if axis > 0 else 0, grid=grid_of(shape, axis))
