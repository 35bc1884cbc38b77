"""How many attention heads lie side by side in a layer: the input of the projection after them."""

from __future__ import annotations

from torch import nn

from chanattr.errors import LayerError
from chanattr.network.layers import Layer
from chanattr.network.names import INPUT, is_attention, kind, named, split_call, split_input

COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")  # as attention modules call them
SIZES = ("head_dim", "attention_head_size")


def heads_of(model: nn.Module, layer: Layer) -> int:
    """The number of heads in a layer's channels: head h has the channels ``h * d`` to ``(h + 1) * d - 1``.

    That is so where a layer is the input of an attention's projection (``NAME:input``): the heads side by side. The projection's own
    output mixes them.

    Args:
        model: whose modules tell.
        layer: as found.

    Raises:
        LayerError: the layer is no input of a projection in an attention, or its attention tells no number of heads that fits.

    Examples:
        >>> from chanattr.network.layers import describe
        >>> class Attention(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.num_heads, self.proj = 2, nn.Linear(6, 6)
        ...     def forward(self, x):
        ...         return self.proj(x)
        >>> import torch
        >>> model = nn.Sequential(Attention())
        >>> heads_of(model, describe(model, torch.rand(1, 4, 6), "0.proj:input"))
        2
    """
    name, is_input = split_input(split_call(layer.name)[0])
    modules = named(model)
    if not is_input or not isinstance(modules[name], nn.Linear):
        raise LayerError(f"group='heads' at layer {layer.name!r}, which is not the input of a linear projection; expected the heads "
                         f"side by side, which are what the projection after them is given; choose {_projection(modules, name)}, "
                         "or pass group= the group of every channel")
    owner = _attention(modules, name)
    counts, sizes = _numbers(owner, COUNTS), _numbers(owner, SIZES)
    fitting = [count for count in counts if count > 0 and layer.channels % count == 0 and (not sizes or layer.channels // count in sizes)]
    if len(fitting) != 1:
        told = f"tells {sorted(counts)} heads" if counts else "tells no number of heads"
        raise LayerError(f"group='heads' at layer {layer.name!r} of {layer.channels} channels: its attention {told}; expected one of "
                         f"{', '.join(COUNTS)} that divides the channels, in a module around it that is called an attention; "
                         "choose its projection's input, or pass group= the channels of a head")
    return fitting[0]


def _attention(modules: dict[str, nn.Module], name: str) -> nn.Module | None:
    """The nearest module around a projection that is an attention and holds a number of heads, in itself or in what is inside it."""
    while name:
        name = name.rpartition(".")[0]
        module = modules[name]
        if is_attention(kind(module), name.rpartition(".")[2]) and _numbers(module, COUNTS):
            return module
    return None


def _numbers(module: nn.Module | None, names: tuple[str, ...]) -> set[int]:
    """The whole numbers that a module, or else the modules in it, have under one of some names."""
    if module is None:
        return set()
    parts = [[getattr(part, name) for name in names if type(getattr(part, name, None)) is int] for part in module.modules()]
    return set(parts[0]) or {number for part in parts for number in part}


def _projection(modules: dict[str, nn.Module], name: str) -> str:
    """A layer to choose instead, in words."""
    last = ("proj", "out_proj", "o_proj", "dense", "to_out.0", "merge", "c_proj")
    inside = [f"{name}.{part}" for part in last if f"{name}.{part}" in modules]
    here = [name] if name.rpartition(".")[2] in last else []
    return f"'{(inside + here)[0]}{INPUT}'" if inside or here else "'NAME:input' with the name of that projection"
