"""A floating-point model that computes what a quantised one does, up to rounding, and through which gradients flow."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chanattr.errors import ModelError

FLOATING = ("FloatFunctional", "FXFloatFunctional")  # not yet in integers, though they lie beside what is
LEVELS = 255  # the largest number of eight bits without a sign, which activations are rounded to


class Rounded(nn.Module):
    """A module, or nothing, whose output is rounded to the numbers that a scale and a zero point allow, and held in their range.

    Slopes pass the rounding as if it were not there (straight through, Bengio et al. 2013); outside the range they are zero.

    Attributes:
        inner: what is computed, in floating point.
        scale: distance of neighbouring numbers.
        zero_point: which of 0 to 255 means zero.
        relu: cut off what is negative before rounding.
    """

    def __init__(self, inner: nn.Module, scale: float, zero_point: int, *, relu: bool = False) -> None:
        super().__init__()
        self.inner, self.scale, self.zero_point, self.relu = inner, scale, zero_point, relu

    def forward(self, given: Tensor) -> Tensor:
        """What is computed of a float tensor, rounded."""
        made = self.inner(given)
        return self.rounded(made.relu() if self.relu else made)

    def rounded(self, values: Tensor) -> Tensor:
        """Values of any shape as eight bits tell them."""
        return torch.fake_quantize_per_tensor_affine(values, self.scale, self.zero_point, 0, LEVELS)


class RoundedFunctions(Rounded):
    """Sums, products and joins of activations, rounded; what `torch.ao.nn.quantized.QFunctional` is called for."""

    def add(self, first: Tensor, second: Tensor) -> Tensor:
        """Their sum."""
        return self.rounded(first + second)

    def add_relu(self, first: Tensor, second: Tensor) -> Tensor:
        """Their sum where it is positive."""
        return self.rounded((first + second).relu())

    def mul(self, first: Tensor, second: Tensor) -> Tensor:
        """Their product."""
        return self.rounded(first * second)

    def cat(self, parts: list[Tensor], dim: int = 0) -> Tensor:
        """All of them in a row."""
        return self.rounded(torch.cat(parts, dim))

    def add_scalar(self, first: Tensor, number: float) -> Tensor:
        """With a number added; the integers only change their zero point, so that nothing is rounded."""
        return first + number

    def mul_scalar(self, first: Tensor, number: float) -> Tensor:
        """Times a number; the integers only change their scale."""
        return first * number


def dequantised(model: nn.Module) -> nn.Module:
    """A copy of a quantised model in floating point: its own weights, rounded as they are, and activations rounded to the same eight bits.

    Integer kernels have no backward pass, so that no slope reaches a mask there. The copy has the same modules by the same names, and some
    inside these, and gives nearly the integers' output: means, hard sigmoids and scalars, which they round too, are left as they are. A
    set found on the copy can be put into the integers by `inject`, and their score read.

    Args:
        model: converted by torch's eager quantisation (``torch.ao.quantization.convert``, torchvision's ``quantize=True``): convolutions,
            linear layers, their fusions with ReLU, and sums, products and joins; left as it is.

    Raises:
        ModelError: the model has no quantised module, or one of a kind that is not known; it is a graph (``convert_fx``), whose calls are
            no modules; or it rounds to signed numbers.

    Examples:
        >>> import torchvision, chanattr as ca
        >>> integers = torchvision.models.quantization.resnet18(weights="DEFAULT", quantize=True)  # doctest: +SKIP
        >>> found = ca.per_image(ca.dequantised(integers), images, "layer3")  # doctest: +SKIP
    """
    if isinstance(model, torch.fx.GraphModule):
        raise ModelError("the model is a graph, as convert_fx makes it, and calls integer kernels that are no modules; expected one of "
                         "torch.ao.quantization.convert; take the model before its conversion")
    made = _turned(copy.deepcopy(model), "", _kinds())
    if not any(isinstance(module, Rounded) for module in made.modules()):
        raise ModelError(f"{type(model).__name__} has no quantised module; expected a model after torch.ao.quantization.convert; "
                         "ask about it as it is")
    return made


Build = Callable[[Any], nn.Module]


def _turned(module: nn.Module, name: str, kinds: dict[type[nn.Module], Build]) -> nn.Module:
    """The module in floating point, or the same with its parts so."""
    if type(module) in kinds:
        return kinds[type(module)](module)
    home = type(module).__module__
    if home.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")) and type(module).__name__ not in FLOATING:
        raise ModelError(f"module {name!r} is a quantised {type(module).__name__}, which is not known here; expected one of "
                         f"{', '.join(sorted(kind.__name__ for kind in kinds))}; take the model before its conversion")
    for part, inner in list(module.named_children()):
        setattr(module, part, _turned(inner, f"{name}.{part}" if name else part, kinds))
    return module


def _kinds() -> dict[type[nn.Module], Build]:
    """Quantised modules, and what computes the same in floating point."""
    from torch.ao.nn import quantized
    from torch.ao.nn.intrinsic import quantized as fused

    def nothing(_old: Any) -> nn.Module:
        return nn.Identity()

    return {quantized.Conv2d: _convolution, fused.ConvReLU2d: _convolution, quantized.Linear: _linear, fused.LinearReLU: _linear,
            quantized.Hardswish: lambda old: _rounded(nn.Hardswish(), old),
            quantized.Quantize: _entrance,
            quantized.QFunctional: lambda old: RoundedFunctions(nn.Identity(), float(old.scale), int(old.zero_point)),
            quantized.DeQuantize: nothing, quantized.Dropout: nothing}


def _rounded(inner: nn.Module, old: Any) -> nn.Module:
    """A computation in the place of a quantised module, with that one's rounding, and its ReLU where it is fused with one."""
    return Rounded(inner, float(old.scale), int(old.zero_point), relu="ReLU" in type(old).__name__)


def _entrance(old: Any) -> nn.Module:
    if old.dtype != torch.quint8:
        raise ModelError(f"the model rounds what it is given to {old.dtype}; expected torch.quint8, 0 to 255; take the model before its "
                         "conversion")
    return _rounded(nn.Identity(), old)


class _Convolution(nn.Module):
    """A convolution by given weights."""

    def __init__(self, old: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(old.weight().dequantize())
        self.bias = None if old.bias() is None else nn.Parameter(old.bias().detach().clone())
        self.rest = tuple(old.stride), tuple(old.padding), tuple(old.dilation), int(old.groups)

    def forward(self, images: Tensor) -> Tensor:
        return functional.conv2d(images, self.weight, self.bias, *self.rest)


def _convolution(old: Any) -> nn.Module:
    if old.padding_mode != "zeros":
        raise ModelError(f"a quantised convolution with padding_mode={old.padding_mode!r} is not known here; expected 'zeros'; "
                         "take the model before its conversion")
    return _rounded(_Convolution(old), old)


def _linear(old: Any) -> nn.Module:
    made = nn.Linear(old.in_features, old.out_features, bias=old.bias() is not None)
    made.weight = nn.Parameter(old.weight().dequantize())
    if old.bias() is not None:
        made.bias = nn.Parameter(old.bias().detach().clone())
    return _rounded(made, old)
