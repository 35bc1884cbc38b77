"""Finds a module by its dotted name, and what of it is meant: its output or its input, and of which call."""

from __future__ import annotations

import difflib
import re
import sys
from typing import NamedTuple

from torch import nn

from chanattr.errors import LayerError, ModelError

INPUT = ":input"  # after a module's name: what it is given, in place of what it gives


class Place(NamedTuple):
    """A layer found by name: its module, its plain name, the call that is meant, counted from 1 (0: not said), and whether its input is."""

    module: nn.Module
    name: str
    call: int
    is_input: bool = False


def check_module(model: object) -> None:
    """Refuses what is no module, such as what `load_model` gives, which holds one.

    Raises:
        ModelError: so.
    """
    if not isinstance(model, nn.Module):
        what = "its .module" if isinstance(getattr(model, "module", None), nn.Module) else "the network itself"
        raise ModelError(f"model is {type(model).__name__}; expected a torch.nn.Module; pass {what}")


def plain_names(model: nn.Module) -> dict[str, str]:
    """The plain name of every module by its name in ``named_modules``: wrappers are seen through, each where it wraps.

    A child that only is called ``module`` keeps its name: the word is dropped below a wrapper, and nowhere else.
    """
    check_module(model)
    plain: dict[str, str] = {}
    inner: dict[str, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        parent, _, last = name.rpartition(".")
        above = plain.get(parent, "")
        plain[name] = above if last == inner.get(parent, "") else f"{above}.{last}".removeprefix(".")
        inner[name] = inner_name(module)
    return plain


def named(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by plain name; a wrapper gives its name to what it wraps. The model itself is ""."""
    plain = plain_names(model)
    return {plain[name]: module for name, module in model.named_modules()}  # the innermost of a chain of wrappers comes last


def split_call(name: str) -> tuple[str, int]:
    """A layer's name without its call, and the call counted from 1 (0: not said)."""
    match = re.fullmatch(r"(.*)@(\d+)", name)
    return (match[1], int(match[2])) if match else (name, 0)


def split_input(name: str) -> tuple[str, bool]:
    """The name of a layer's module, and whether its input is meant (``NAME:input``).

    Examples:
        >>> split_input("blocks.0.attn.proj:input"), split_input("blocks.0")
        (('blocks.0.attn.proj', True), ('blocks.0', False))
    """
    return name.removesuffix(INPUT), name.endswith(INPUT)


def find(model: nn.Module, name: str) -> Place:
    """What a layer's name means: a plain name, else one of ``named_modules``, also with the words of a wrapper that is gone.

    With ``:input`` after it, and before ``@n``, the module's input is meant.

    Raises:
        LayerError: no such layer; says which one may have been meant.
    """
    if not isinstance(name, str):
        its = next((f"; its own is {plain!r}" for plain, module in named(model).items() if module is name), "")
        raise LayerError(f"layer is a {type(name).__name__}{its}; expected a dotted name as in named_modules; pass that")
    whole, call = split_call(name)
    bare, is_input = split_input(whole)
    modules, raw = named(model), dict(model.named_modules(remove_duplicate=False))
    unwrapped_name = ".".join(part for part in bare.split(".") if part not in ("_orig_mod", "module"))
    module = next((known[key] for known, key in ((modules, bare), (raw, bare), (modules, unwrapped_name)) if key in known), None)
    if module is not None:
        inner = unwrapped(module)
        plain = next(plain for plain, other in modules.items() if other is inner)
        return Place(inner, plain + INPUT * is_input, call, is_input)
    swapped = re.fullmatch(r"(.*)(@\d+):input", name)
    close = [f"{swapped[1]}:input{swapped[2]}"] if swapped else difflib.get_close_matches(bare, modules, 1, 0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise LayerError(f"no layer {bare!r} in {kind(model)}{hint} Expected a dotted name as in named_modules; "
                     f"'chanattr layers MODEL' lists all {len(modules) - 1}.")


def check_calls(name: str, number: int, calls: int) -> None:
    """Refuses a layer that did not fire, or fired more than once without being told which call is meant.

    Raises:
        LayerError: so.
    """
    if not calls:
        raise LayerError(f"layer {name!r} never fires in a forward pass (an auxiliary head, or a path that is off in eval mode); "
                         "expected one that does; 'chanattr layers MODEL' shows the calls of each")
    if number > calls:
        raise LayerError(f"layer {name!r} fires {calls} time(s) in a forward pass, but call {number} was asked; "
                         f"expected {name}@1 to {name}@{calls}")
    if calls > 1 and not number:
        raise LayerError(f"layer {name!r} fires {calls} times in a forward pass; expected its call to be named; "
                         f"use {name}@1 to {name}@{calls}")


def check_called(model: nn.Module, place: Place) -> None:
    """Refuses a module of attention whose weights are used without calling it, which no hook can see.

    Raises:
        LayerError: so.
    """
    owner, _, last = split_input(place.name)[0].rpartition(".")
    parent = kind(named(model)[owner])
    if owner and is_attention(parent) and isinstance(place.module, nn.Linear):
        raise LayerError(f"layer {place.name!r} is never called: {parent} {owner!r} uses the weights of its {last!r} itself, as torch's "
                         "attention does, and no hook sees what passes there (the attention heads side by side); expected a module that is "
                         f"called; choose {owner!r}, its output, or for heads a model of timm or transformers, which call their projection")


def is_attention(*names: str) -> bool:
    """Whether one of some names says that a module is an attention."""
    return any(re.search("attention|attn", name, re.IGNORECASE) for name in names)


def inner_name(module: nn.Module) -> str:
    """Under which name a wrapper (`torch.compile`, `DataParallel`, `DistributedDataParallel`) holds what it wraps; "" for no wrapper."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "module"
    compiler = sys.modules.get("torch._dynamo")  # not loaded: nothing is compiled, and the import takes seconds
    return "_orig_mod" if compiler is not None and isinstance(module, compiler.OptimizedModule) else ""


def unwrapped(module: nn.Module) -> nn.Module:
    """The module itself, taken out of its wrappers."""
    while name := inner_name(module):
        module = module.get_submodule(name)
    return module


def kind(module: nn.Module) -> str:
    """The class name of a module, seen through its wrappers."""
    return type(unwrapped(module)).__name__
