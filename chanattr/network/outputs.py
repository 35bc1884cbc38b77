"""What modules give: the tensor that is meant in an output of any shape, and the same output with another tensor in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from chanattr.errors import ModelError
from chanattr.network.names import check_module

Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]


def call(model: nn.Module, inputs: Inputs) -> Any:
    """The model's output for a tensor, a tuple (positional) or a mapping (by keyword)."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def first_tensor(output: Any) -> Tensor | None:
    """The first tensor in an output (tensor, tuple, list, mapping or dataclass; None inside is passed over), or None."""
    return next((leaf for _, leaf in leaves(output) if isinstance(leaf, Tensor)), None)


def tensors_in(output: Any) -> list[Tensor]:
    """The tensors that an output holds, in order."""
    return [leaf for _, leaf in leaves(output) if isinstance(leaf, Tensor)]


def leaves(output: Any, way: str = "") -> Iterator[tuple[str, Any]]:
    """What an output holds, without the tuples, lists, mappings and dataclasses around it, each with the way to it."""
    parts = [] if isinstance(output, Tensor) else parts_of(output)
    if not parts:
        yield way, output
    for name, part in parts:
        yield from leaves(part, f"{way}[{name!r}]")


def replace_tensor(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same output with its first tensor changed."""
    if isinstance(output, Tensor):
        return change(output)
    for name, part in parts_of(output):
        if first_tensor(part) is not None:
            return with_part(output, name, replace_tensor(part, change))
    raise ModelError(f"a layer gave {type(output).__name__} without a tensor in it; expected a tensor, or a tuple, list, mapping or "
                     "dataclass that holds one; choose another layer")


def logits_of(output: Any, score: Callable[[Any], Tensor] | None) -> Tensor:
    """The logits [B, C] in a model's output: what `score` makes of it, else what is called ``logits``, else the only tensor that fits.

    Raises:
        ModelError: no two-axis floating tensor, or several and none called ``logits``.
    """
    logits = score(output) if score is not None else _unscored(output)
    if not _fits(logits):
        what = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"the {'score function' if score else 'model'} gave {what}; expected logits [images, classes]; "
                         "pass score=, a function of the model's output that gives them")
    return logits


def _unscored(output: Any) -> Any:
    """The logits of an output without a score function, or what is there instead."""
    called = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if called is not None:
        return called
    fitting = {way: leaf for way, leaf in leaves(output) if _fits(leaf)}
    if len({id(tensor) for tensor in fitting.values()}) > 1:
        listed = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in fitting.items())
        raise ModelError(f"the model gave {len(fitting)} tensors that may be its logits ({listed}); expected one, or one called 'logits'; "
                         "pass score=, a function of the model's output that gives them")
    if fitting:
        return next(iter(fitting.values()))
    first = first_tensor(output)
    return output if first is None else first


def _fits(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and value.is_floating_point()


def parts_of(output: Any) -> list[tuple[Any, Any]]:
    """What a tuple, list, mapping or dataclass holds, each with its place or name; nothing for anything else."""
    if isinstance(output, (tuple, list)):
        return list(enumerate(output))
    if isinstance(output, Mapping):
        return list(output.items())
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    return []


def with_part(output: Any, name: Any, part: Any) -> Any:
    """The same tuple, list, mapping or dataclass with another part at one place or name."""
    if isinstance(output, (tuple, list)):
        values = [part if i == name else value for i, value in enumerate(output)]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
    if isinstance(output, Mapping):
        return type(output)({**output, name: part})  # type: ignore[call-arg]
    return dataclasses.replace(output, **{name: part})


def batch_size_of(inputs: Inputs) -> int:
    """The number of images in a model's inputs: the first axis of the first tensor.

    Raises:
        ModelError: no tensor in the inputs.
    """
    found = first_tensor(inputs)
    if found is None or not found.ndim:
        raise ModelError("the example holds no tensor with a batch axis; expected the model's input for one or two images")
    return len(found)


def dtype_of(model: nn.Module) -> torch.dtype:
    """In what the model's first floating parameter or buffer is, and so its images; float32 where it has none."""
    return next((tensor.dtype for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()), torch.float32)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer lives.

    Raises:
        ModelError: it is no module.
    """
    check_module(model)
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
