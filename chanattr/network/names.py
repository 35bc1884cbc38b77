"""Finds a module by its dotted name, and the call of it that is meant."""

from __future__ import annotations

import difflib
import re
import sys

from torch import nn

from chanattr.errors import LayerError


def plain_name(name: str) -> str:
    """A module's name with wrappers (`torch.compile`, `DataParallel`) seen through."""
    return ".".join(part for part in name.split(".") if part not in ("_orig_mod", "module"))


def named(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by plain name; a wrapper gives its name to what it wraps. The model itself is ""."""
    modules: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        modules[plain_name(name)] = module  # the innermost of a chain of wrappers comes last
    return modules


def split_name(name: str) -> tuple[str, int]:
    """A layer's name without its call, and the call counted from 1 (0: not given)."""
    match = re.fullmatch(r"(.*)@(\d+)", name)
    return (plain_name(match[1]), int(match[2])) if match else (plain_name(name), 0)


def find(model: nn.Module, name: str) -> tuple[nn.Module, int]:
    """The module of a layer's name and its call (0: not given).

    Raises:
        LayerError: no such layer; says which one may have been meant.
    """
    modules = named(model)
    bare, number = split_name(name)
    if bare in modules:
        return modules[bare], number
    close = difflib.get_close_matches(bare, modules, 1, 0.5)
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
