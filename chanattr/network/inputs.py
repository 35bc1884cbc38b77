"""What a model takes as rows, one an image: the tensors of a tuple or a mapping are taken, joined and doubled together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from chanattr.errors import ChanattrError, InputError, ModelError, first_line
from chanattr.network.outputs import Inputs, batch_size_of, parts_of, with_part


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """All tensors of a model's inputs that have a row an image, in order. What has no axes, and what is no tensor, is the same for all.

    Raises:
        ModelError: no tensor with a batch axis.
        InputError: tensors of different lengths.
    """
    count, found = batch_size_of(inputs), []

    def note(tensor: Tensor) -> Tensor:
        if len(tensor) != count:
            raise InputError(f"the model's inputs hold tensors of {count} and of {len(tensor)} rows (shape {tuple(tensor.shape)}); "
                             "expected one row an image in each; repeat what is the same for all images, or keep it in the model")
        found.append(tensor)
        return tensor

    _changed(inputs, note)
    return found


def with_tensors(inputs: Inputs, tensors: Sequence[Tensor]) -> Inputs:
    """The same inputs with other tensors, as `tensors_of` lists them."""
    rest: Iterator[Tensor] = iter(tensors)
    changed: Inputs = _changed(inputs, lambda _: next(rest))
    return changed


def take_rows(inputs: Inputs, rows: Int[Tensor, "R"] | slice) -> Inputs:
    """Some images of a model's inputs."""
    return with_tensors(inputs, [tensor[rows if isinstance(rows, slice) else rows.to(tensor.device)] for tensor in tensors_of(inputs)])


def join_rows(parts: Sequence[Inputs]) -> Inputs:
    """Inputs of the same form one after another."""
    return with_tensors(parts[0], [torch.cat(same) for same in zip(*map(tensors_of, parts), strict=True)])


def at_least_two(inputs: Inputs) -> Inputs:
    """The inputs, a single image twice."""
    if batch_size_of(inputs) > 1:
        return inputs
    return with_tensors(inputs, [tensor.expand(2, *tensor.shape[1:]).contiguous() for tensor in tensors_of(inputs)])


def outline(inputs: Any) -> str:
    """The form of a model's inputs: where its tensors are, and what else is in it. Equal for inputs that differ in their rows only."""
    if isinstance(inputs, Tensor):
        return f"{inputs.dtype} [N{''.join(f', {size}' for size in inputs.shape[1:])}]" if inputs.ndim else str(inputs.item())
    parts = parts_of(inputs)
    return f"{type(inputs).__name__}({', '.join(f'{name}: {outline(part)}' for name, part in parts)})" if parts else repr(inputs)


def described(images: Inputs) -> str:
    """Images as an error names them: the shape of a tensor or the form of all that the model takes, type and device."""
    first = tensors_of(images)[0]
    shape = f"of shape {tuple(first.shape)}, {first.dtype}" if images is first else outline(images)
    return f"images {shape[:200]}, {first.device}"


@contextmanager
def running(model: nn.Module, images: Inputs) -> Iterator[None]:
    """In here the model runs as it is: what it fails with comes with what it was given.

    Raises:
        ModelError: it failed.
    """
    try:
        yield
    except ChanattrError:
        raise
    except Exception as error:
        single = "a single image [C, H, W] lacks the batch axis: give image[None]; otherwise " if tensors_of(images)[0].ndim == 3 else ""
        raise ModelError(f"{type(model).__name__} failed on {described(images)} ({first_line(error)}); expected images as the model takes "
                         f"them; {single}check their channels, size and device, and that model(images) runs by itself") from error


def _changed(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The inputs with every tensor that has axes changed."""
    if isinstance(inputs, Tensor):
        return change(inputs) if inputs.ndim else inputs
    for name, part in parts_of(inputs):
        inputs = with_part(inputs, name, _changed(part, change))
    return inputs
