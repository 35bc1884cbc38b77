"""The only place that registers hooks: `capture`, `inject`, `frozen`, each a context that undoes itself."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chanattr.arguments import listed
from chanattr.errors import InputError, LayerError
from chanattr.network.layout import axis_for_mask
from chanattr.network.names import check_calls, check_module, find, unwrapped
from chanattr.network.outputs import first_tensor, replace_tensor

Change = Callable[[Tensor], Tensor]


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode and its parameters ask for no gradient; on leaving it is exactly as it was.

    Training flags are kept module by module, and ``requires_grad`` and ``.grad`` parameter by parameter.

    Args:
        model: any module.

    Examples:
        >>> import torch, chanattr as ca
        >>> model = torch.nn.Linear(2, 3)
        >>> with ca.frozen(model):
        ...     model.training, model.weight.requires_grad
        (False, False)
        >>> model.training, model.weight.requires_grad
        (True, True)
    """
    check_module(model)
    training = [(module, module.training) for module in model.modules()]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _, _ in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, flag in training:
            module.training = flag
        for parameter, needed, gradient in parameters:
            with torch.inference_mode(parameter.is_inference()):  # one made in that mode may ask for gradients only there
                parameter.requires_grad_(needed)
            parameter.grad = gradient


@contextmanager
def eager() -> Iterator[None]:
    """Inside, compiled code runs as it is written: what `torch.compile` made before a hook was placed would run past the hook."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled in this process, and the import takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def watch(modules: Mapping[str, nn.Module], note: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """Inside, ``note(name, inputs, output)`` is called at every call of the modules; inputs are ``(positional, by keyword)``."""
    def hook(name: str, _module: nn.Module, positional: Any, keywords: Any, output: Any) -> None:
        note(name, (positional, keywords), output)

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(functools.partial(hook, name), with_kwargs=True).remove)
        stack.enter_context(eager())
        yield


@contextmanager
def change(model: nn.Module, layer: str, new: Change) -> Iterator[None]:
    """Inside, the layer's output (its first tensor) is replaced by ``new(output)`` at the call that its name means.

    Of ``NAME:input`` it is the first tensor of what the module is given, for this module only: others that take it see it as it is. Where
    that has several rows an image (windows of attention), `new` is given [N, rows, ...]; an image's rows must follow one another.

    Raises:
        LayerError: no such layer; or, at the forward pass, it fires more than once and its name does not say which call; or, at its end,
            the call that the name means never came.
    """
    module, bare, number, is_input = find(model, layer)
    calls = threading.local()  # `DataParallel` runs its copies, which share the hooks, each in a thread

    def begin(_model: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        calls.count = 0
        first = first_tensor((positional, keywords)) if is_input else None
        calls.images = first.shape[0] if first is not None and first.ndim else 0  # len() would tie an export to the example's

    def by_image(activation: Tensor) -> Tensor:
        images = getattr(calls, "images", 0)
        if not is_input or not activation.ndim or not images or activation.shape[0] == images or activation.shape[0] % images:
            return new(activation)
        return new(activation.unflatten(0, (images, activation.shape[0] // images))).flatten(0, 1)

    def changed(passing: Any) -> Any:
        calls.count = getattr(calls, "count", 0) + 1
        if not number and calls.count > 1:
            raise LayerError(f"layer {bare!r} fires more than once in a forward pass; expected its call to be named; use {bare}@1, "
                             f"{bare}@2, ...; 'chanattr layers MODEL' shows how many")
        return replace_tensor(passing, by_image) if number in (0, calls.count) else passing

    def end(_model: nn.Module, _inputs: Any, _output: Any) -> None:
        check_calls(bare, number, getattr(calls, "count", 0))

    with ExitStack() as stack:
        stack.callback(unwrapped(model).register_forward_pre_hook(begin, with_kwargs=True).remove)
        if is_input:
            placed = module.register_forward_pre_hook(lambda _module, *given: changed(given), with_kwargs=True)
        else:
            placed = module.register_forward_hook(lambda _module, _inputs, output: changed(output))
        stack.callback(placed.remove)
        stack.callback(unwrapped(model).register_forward_hook(end).remove)  # after the layer's, which may be the model itself
        stack.enter_context(eager())
        yield


@contextmanager
def inject(model: nn.Module, layer: str, mask: Tensor | np.ndarray | Sequence[float], *,
           fill: float | Tensor | np.ndarray = 0.0, channel_axis: int | None = None) -> Iterator[None]:
    """Inside, every forward pass runs with the layer's activation masked: kept where the mask is 1, `fill` where it is 0.

    Compiled models (`torch.compile`) run as they are written in here, for compiled code runs past hooks. The model's training mode is as
    it was found: put it in eval mode yourself if that is what you want to see.

    Args:
        model: any module; on leaving, also by an exception, it has the hooks that it had.
        layer: dotted name; ``NAME:input`` is what a module is given; with ``@n`` for the n-th call.
        mask: [K], or [N, K] with one row an image of the batch; bool or in [0, 1].
        fill: what a dropped channel becomes: a number, [K] or [N, K].
        channel_axis: of the layer's output, where it is not found rightly.

    Raises:
        LayerError: no such layer; at the forward pass, it fires more than once without ``@n``, or the call that is meant never comes.
        InputError: at the forward pass, the mask does not fit the activation, or nothing tells its channel axis.

    Examples:
        >>> import torch, chanattr as ca
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1, bias=False))
        >>> with ca.inject(model, "0", [0, 0, 0]):
        ...     model(torch.rand(4, 2)).abs().sum().item()
        0.0
    """
    place = find(model, layer)
    given, filled = _numbers("mask", mask), _numbers("fill", fill)
    size = next((values.shape[-1] for values in (given, filled) if values.ndim), None)

    def masked(activation: Tensor) -> Tensor:
        axis = axis_for_mask(place, tuple(activation.shape), size, channel_axis, layer)
        if given.requires_grad and torch.is_grad_enabled():
            activation = activation.clone()  # the slope of the mask is the activation, which others than this module may overwrite
        return apply_mask(activation, given, filled, axis, layer)

    with change(model, layer, masked):
        yield


def _numbers(name: str, given: Tensor | np.ndarray | Sequence[float] | float) -> Tensor:
    try:
        values = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{name}={str(given)[:80]} are no numbers; expected one, or one a channel; give a tensor, an array or a "
                         "list") from error
    return values


def apply_mask(activation: Tensor, mask: Tensor, fill: Tensor, axis: int, layer: str) -> Tensor:
    """``m x + (1 - m) fill`` with the mask along the channel axis and over all positions.

    Args:
        activation: [N, ...] with K along `axis`.
        mask: [K] or [N, K].
        fill: [], [K] or [N, K].
        axis: of the channels.
        layer: for messages.

    Raises:
        InputError: the sizes do not fit.
    """
    if activation.is_quantized:  # by its numbers, and back to the same integers
        masked = apply_mask(activation.dequantize(), mask, fill, axis, layer)
        return torch.quantize_per_tensor(masked, activation.q_scale(), activation.q_zero_point(), activation.dtype)
    channels = activation.shape[axis]
    for what, values in (("mask", mask), ("fill", fill)):
        if values.ndim and (values.ndim > 2 or values.shape[-1] != channels or (values.ndim == 2 and len(values) != len(activation))):
            raise InputError(f"the {what} for layer {layer!r} has shape {tuple(values.shape)}; expected [{channels}] or "
                             f"[{len(activation)}, {channels}]: its activation is {tuple(activation.shape)} with "
                             f"channels along axis {axis}")

    def spread(values: Tensor) -> Tensor:
        values = values.to(device=activation.device, dtype=activation.dtype)
        if not values.ndim:
            return values
        shape = [1] * activation.ndim
        shape[axis] = channels
        shape[0] = len(values) if values.ndim == 2 else 1
        return values.reshape(shape)

    kept = spread(mask)
    if not fill.is_meta and fill.ndim == 0 and not fill:
        return activation * kept
    return activation * kept + (1 - kept) * spread(fill)


@contextmanager
def capture(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Inside, a forward pass leaves the layers' activations in the dictionary that is given.

    Each is a copy (a module that works in place may follow), with its history for gradients. A later pass replaces an earlier one's.

    Args:
        model: any module; on leaving it has the hooks that it had.
        layers: dotted names, with ``:input`` for what a module is given and ``@n`` for the n-th call.

    Raises:
        InputError: one name in the place of several.
        LayerError: no such layer; at the forward pass, one fires more than once without ``@n``, or the call that is meant never comes.

    Examples:
        >>> import torch, chanattr as ca
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(inplace=True))
        >>> with ca.capture(model, ["0"]) as seen:
        ...     _ = model(torch.rand(4, 2))
        >>> seen["0"].shape
        torch.Size([4, 3])
    """
    if isinstance(layers, str):
        raise InputError(f"layers={layers!r}; expected a list of dotted names; put a single name in a list")
    seen: dict[str, Tensor] = {}

    def keep(name: str, activation: Tensor) -> Tensor:
        seen[name] = activation.clone()
        return activation

    with ExitStack() as stack:
        for name in listed("layers", layers, "layer names", "put a single name in a list"):
            stack.enter_context(change(model, name, functools.partial(keep, name)))
        yield seen
