"""The network as far as a layer, and no further: what a picture that is made is judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from torch import Tensor, nn

from chanattr.network.exactly import float32_exactly
from chanattr.network.hooks import change, frozen
from chanattr.network.names import unwrapped

Read = Callable[[Tensor], Tensor]


class _Reached(BaseException):
    """Ends a forward pass at the layer; no `except Exception` of a model's own catches it."""


@contextmanager
def reaching(model: nn.Module, layer: str) -> Iterator[Read]:
    """Inside, a function from images to the layer's activation, with gradients; what follows the layer does not run.

    Args:
        model: in eval mode and without gradients of its parameters inside; on leaving it is as it was.
        layer: dotted name, with ``:input`` and ``@n`` as for `capture`.

    Raises:
        LayerError: no such layer.

    Examples:
        >>> import torch
        >>> with reaching(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 9)), "0") as read:
        ...     read(torch.rand(4, 2)).shape
        torch.Size([4, 3])
    """
    bare, kept = unwrapped(model), []

    def stop(activation: Tensor) -> Tensor:
        kept.append(activation)
        raise _Reached

    def read(images: Tensor) -> Tensor:
        kept.clear()
        with suppress(_Reached):
            bare(images)
        return kept.pop()

    with float32_exactly(), frozen(model), change(bare, layer, stop):
        yield read
