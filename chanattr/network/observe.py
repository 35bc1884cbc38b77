"""What forward passes show of every module: shapes, and from its neighbours and other image sizes the channel axis."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from chanattr.network.hooks import frozen, watch
from chanattr.network.inputs import running
from chanattr.network.layout import INPUT_SIZES, OUTPUT_SIZES, clues, keeps_layout, told
from chanattr.network.names import INPUT, named
from chanattr.network.outputs import Inputs, call, first_tensor, replace_tensor


class Sight(NamedTuple):
    """One call of a module: the shape of (the first tensor in) its output, or input, and the channel axis; -1 where nothing tells."""

    shape: tuple[int, ...]
    axis: int


class Value(NamedTuple):
    """A tensor that passed: its number, the same wherever the same tensor is seen, and its shape."""

    number: int
    shape: tuple[int, ...]


class Call(NamedTuple):
    """One call of a module, by plain name: the first tensor in its inputs and in its output."""

    name: str
    given: Value | None
    output: Value | None


def look(model: nn.Module, example: Inputs, wanted: Collection[str], inputs: Collection[str] = ()) -> dict[str, list[Sight]]:
    """Every call of every module, by plain name; and of some inputs of modules, by ``NAME:input``.

    The axis is taken from what the module is, or which modules made or take the same tensor (a convolution, a linear layer); else from
    what is inside it, where the sizes agree; else from a pass with images of twice the size, in which only the channels stay as many.

    Args:
        model: left as found.
        example: the model's input for one or two images.
        wanted: names whose axis is worth that second pass.
        inputs: names of inputs that are looked at too.

    Raises:
        ModelError: the model fails on the example.
    """
    modules = named(model)
    calls: list[Call] = []
    with running(model, example):
        _run(model, modules, example, calls)
    flow = _axes_by_flow(modules, calls)
    square = _is_square(first_tensor(example))
    seen: dict[str, list[Sight]] = {name: [] for name in (*modules, *inputs)}
    for name, value in _passed(calls, inputs):
        seen[name].append(Sight(value.shape, _axis(value, flow)) if value is not None else Sight((), -1))
    if square:  # two equal sizes mean something
        _fill_in_clues(seen, modules, square)
    if any(sight.axis < 0 and len(sight.shape) == 4 for name in wanted for sight in seen[name]):
        _fill_in(seen, _passed(_watched_at_twice_the_size(model, modules, example), inputs))
    if not square:
        _fill_in_clues(seen, modules, square)
    return seen


def _passed(calls: list[Call], inputs: Collection[str]) -> list[tuple[str, Value | None]]:
    """What passed at every call, by name: outputs, and inputs that are asked for."""
    found = [[(name, output), *([(name + INPUT, given)] if name + INPUT in inputs else [])] for name, given, output in calls]
    return [pair for pairs in found for pair in pairs]


def _axis(value: Value, flow: Mapping[int, int]) -> int:
    """By the flow; else of tokens the last."""
    if len(value.shape) < 3:
        return 1 if len(value.shape) == 2 else -1
    return flow.get(value.number, 2 if len(value.shape) == 3 else -1)


@torch.inference_mode(False)
@torch.no_grad()
def _run(model: nn.Module, modules: Mapping[str, nn.Module], example: Inputs, calls: list[Call]) -> None:
    """One forward pass, its calls noted as they come: what came before an error is kept."""
    numbers: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # ids of tensors that are gone are given again
    count = 0

    def value(found: Tensor | None) -> Value | None:
        nonlocal count
        if found is None:
            return None
        if found not in numbers:
            numbers[found] = count = count + 1
        return Value(numbers[found], tuple(found.shape))

    def note(name: str, inputs: Any, output: Any) -> None:
        calls.append(Call(name, value(first_tensor(inputs)), value(first_tensor(output))))

    with frozen(model), watch(modules, note):
        call(model, example)


def _axes_by_flow(modules: Mapping[str, nn.Module], calls: list[Call]) -> dict[int, int]:
    """The channel axis of tensors by number: what their makers and takers tell, if these agree, passed on through pointwise modules."""
    votes: defaultdict[int, set[int]] = defaultdict(set)
    joined = []
    for name, given, output in calls:
        module = modules[name]
        for found, sizes in ((given, INPUT_SIZES), (output, OUTPUT_SIZES)):
            if found is not None and (axis := told(module, found.shape, sizes)) > 0:
                votes[found.number].add(axis)
        if given is not None and output is not None and given.shape == output.shape and keeps_layout(module):
            joined.append((given.number, output.number))
    for pairs in (joined, joined[::-1]):  # along a chain, and back
        for one, other in pairs:
            votes[one] |= votes[other]
            votes[other] |= votes[one]
    return {number: next(iter(axes)) for number, axes in votes.items() if len(axes) == 1}


def _is_square(images: Tensor | None) -> bool:
    return images is not None and images.ndim == 4 and len({images.shape[axis] for axis in _spatial(images)}) == 1


def _spatial(images: Tensor) -> tuple[int, int]:
    """The axes of height and width of images."""
    last = images.shape[3] in (1, 3, 4) and min(images.shape[1:3]) > 4
    return (1, 2) if last else (2, 3)


def _watched_at_twice_the_size(model: nn.Module, modules: Mapping[str, nn.Module], example: Inputs) -> list[Call]:
    """The calls for images twice as high and wide; as far as the model comes, where it takes one size only."""
    calls: list[Call] = []
    images = first_tensor(example)
    if images is None or images.ndim != 4 or not images.is_floating_point():
        return calls
    high, wide = _spatial(images)
    larger = replace_tensor(example, lambda x: x.repeat_interleave(2, high).repeat_interleave(2, wide))
    with contextlib.suppress(Exception):  # whatever the model's code raises at a size that it is not made for
        _run(model, modules, larger, calls)
    return calls


def _fill_in(seen: dict[str, list[Sight]], larger: list[tuple[str, Value | None]]) -> None:
    """Axes that are not known, from the one axis that did not grow."""
    shapes: defaultdict[str, list[tuple[int, ...]]] = defaultdict(list)
    for name, output in larger:
        shapes[name].append(output.shape if output is not None else ())
    for name, sights in seen.items():
        for number, (sight, other) in enumerate(zip(sights, shapes[name], strict=False)):
            same = [axis for axis in range(1, len(sight.shape)) if sight.shape[axis:axis + 1] == other[axis:axis + 1]]
            if sight.axis < 0 and len(sight.shape) == len(other) == 4 and same in ([1], [3]):
                sights[number] = sight._replace(axis=same[0])


def _fill_in_clues(seen: dict[str, list[Sight]], modules: Mapping[str, nn.Module], square: bool) -> None:
    """Axes that are not known, from what is inside the module (which tells nothing of its input), if that and equal sizes agree."""
    for name, sights in seen.items():
        for number, sight in enumerate(sights):
            unknown = sight.axis < 0 and len(sight.shape) > 3
            likely = clues(modules.get(name), sight.shape, square) if unknown else set()
            if len(likely) == 1:
                sights[number] = sight._replace(axis=likely.pop())
