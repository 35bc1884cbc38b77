"""A floating-point model that computes what a quantised one does, up to rounding, and through which gradients flow."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chanattr.errors import ModelError
from chanattr.network.names import check_module

FLOATING = ("FloatFunctional", "FXFloatFunctional")  # not yet in integers, though they lie beside what is
LEVELS = 255  # the largest number of eight bits without a sign, which activations are rounded to


class Rounded(nn.Module):
    """What is computed of a tensor, here nothing, rounded to the numbers that a scale and a zero point allow, and held in their range.

    Slopes pass the rounding as if it were not there (straight through, Bengio et al. 2013); outside the range they are zero.

    Args:
        old: the quantised module whose place is taken; if its name says so, what is negative is cut off before rounding.

    Attributes:
        scale: distance of neighbouring numbers.
        zero_point: which of 0 to 255 means zero.
    """

    def __init__(self, old: Any) -> None:
        super().__init__()
        self.scale, self.zero_point, self.relu = float(old.scale), int(old.zero_point), "ReLU" in type(old).__name__

    def forward(self, given: Tensor) -> Tensor:
        """What is computed of a float tensor, rounded."""
        made = self.computed(given)
        return self.rounded(made.relu() if self.relu else made)

    def computed(self, given: Tensor) -> Tensor:
        """In floating point."""
        return given

    def rounded(self, values: Tensor) -> Tensor:
        """Values of any shape as eight bits tell them."""
        return torch.fake_quantize_per_tensor_affine(values, self.scale, self.zero_point, 0, LEVELS)


class RoundedHardswish(Rounded):
    """The activation of that name."""

    def computed(self, given: Tensor) -> Tensor:
        """In floating point."""
        return functional.hardswish(given)


class RoundedLinear(Rounded):
    """A linear map by the weights of a quantised one, which hold as they are rounded."""

    def __init__(self, old: Any) -> None:
        super().__init__(old)
        self.weight = nn.Parameter(old.weight().dequantize())
        self.bias = None if old.bias() is None else nn.Parameter(old.bias().detach().clone())

    def computed(self, given: Tensor) -> Tensor:
        """In floating point."""
        return functional.linear(given, self.weight, self.bias)


class RoundedConvolution(RoundedLinear):
    """A convolution by the weights of a quantised one."""

    def __init__(self, old: Any) -> None:
        if old.padding_mode != "zeros":
            raise ModelError(f"a quantised convolution with padding_mode={old.padding_mode!r} is not known here; expected 'zeros'; "
                             "take the model before its conversion")
        super().__init__(old)
        self.rest = tuple(old.stride), tuple(old.padding), tuple(old.dilation), int(old.groups)

    def computed(self, given: Tensor) -> Tensor:
        """In floating point."""
        return functional.conv2d(given, self.weight, self.bias, *self.rest)


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

    def matmul(self, first: Tensor, second: Tensor) -> Tensor:
        """Their matrix product."""
        return self.rounded(first @ second)

    def cat(self, parts: list[Tensor], dim: int = 0) -> Tensor:
        """All of them in a row."""
        return self.rounded(torch.cat(parts, dim))

    def add_scalar(self, first: Tensor, number: float) -> Tensor:
        """With a number added, not rounded: the integers move their zero point, and round anew where it leaves their range."""
        return first + number

    def mul_scalar(self, first: Tensor, number: float) -> Tensor:
        """Times a number, not rounded: the integers change their scale, and mirror themselves where it is negative."""
        return first * number


def dequantised(model: nn.Module) -> nn.Module:
    """A copy of a quantised model in floating point: its own weights, rounded as they are, and activations rounded to the same eight bits.

    Integer kernels have no backward pass, so that no slope reaches a mask there. The copy has the same modules by the same names,
    and gives nearly the integers' output: means, hard sigmoids and scalars, which they round too, are left as they are. A set found on the
    copy can be put into the integers by `inject`, and their score read.

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
    check_module(model)
    made = _turned(copy.deepcopy(model), "", {})
    if not any(isinstance(module, Rounded) for module in made.modules()):
        raise ModelError(f"{type(model).__name__} has no quantised module; expected a model after torch.ao.quantization.convert; "
                         "ask about it as it is")
    return made


def _turned(module: nn.Module, name: str, made: dict[nn.Module, nn.Module]) -> nn.Module:
    """The module in floating point, or the same with its parts so; one that lies in several places becomes one again."""
    if module in made:
        return made[module]
    kinds, home = _kinds(), type(module).__module__
    if isinstance(module, torch.fx.GraphModule) and any(hasattr(part, "_packed_params") for part in module.modules()):
        raise ModelError(f"{f'module {name!r}' if name else 'the model'} is a graph, as convert_fx makes it, and calls integer kernels "
                         "that are no modules; expected one of torch.ao.quantization.convert; take the model before its conversion")
    if type(module) in kinds:
        made[module] = kinds[type(module)](module)
        return made[module]
    if home.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")) and type(module).__name__ not in FLOATING:
        raise ModelError(f"module {name!r} is a quantised {type(module).__name__}, which is not known here; expected one of "
                         f"{', '.join(sorted(kind.__name__ for kind in kinds))}; take the model before its conversion")
    made[module] = module
    for part, inner in list(module._modules.items()):
        if inner is not None and (new := _turned(inner, f"{name}.{part}" if name else part, made)) is not inner:
            setattr(module, part, new.train(module.training))
    return module


def _kinds() -> dict[type[nn.Module], Callable[[Any], nn.Module]]:
    """Quantised modules, and what computes the same in floating point."""
    from torch.ao.nn import quantized
    from torch.ao.nn.intrinsic import quantized as fused

    return {quantized.Conv2d: RoundedConvolution, fused.ConvReLU2d: RoundedConvolution, quantized.Linear: RoundedLinear,
            fused.LinearReLU: RoundedLinear, quantized.Hardswish: RoundedHardswish, quantized.QFunctional: RoundedFunctions,
            quantized.Quantize: _entrance, quantized.DeQuantize: nn.Identity, quantized.Dropout: nn.Identity}


def _entrance(old: Any) -> nn.Module:
    if old.dtype != torch.quint8:
        raise ModelError(f"the model rounds what it is given to {old.dtype}; expected torch.quint8, 0 to 255; take the model before its "
                         "conversion")
    return Rounded(old)
