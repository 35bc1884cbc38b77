"""What was exported of a model in this process, kept as long as the model lives and is what it was."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from chanattr.network.export import Graphs, Unsupported, export_and_cut
from chanattr.network.inputs import outline, tensors_of
from chanattr.network.outputs import Inputs

MOST = 8
Score = Callable[[Any], Tensor] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Export:
    """One export, or why there is none; of what it was. Score functions are held weakly."""

    score: Callable[[], Any]
    question: tuple[Any, ...]
    state: tuple[Any, ...]
    made: Graphs | Unsupported


_LOCK = threading.Lock()
_KEPT: WeakKeyDictionary[nn.Module, list[_Export]] = WeakKeyDictionary()  # the model used last is last, and so is its export


def graphs_of(model: nn.Module, example: Inputs, layers: Sequence[str], score: Score) -> tuple[Graphs, bool]:
    """As `export_and_cut`, which runs only where nothing fitting is kept; and whether it was kept.

    Fitting is an export of the same object with the same weights (their memory, and how often they were written to), modules and hooks, of
    the same layers, for inputs of the same form, with the same score function. The last MOST exports are kept.

    Raises:
        Unsupported: as `export_and_cut`, also where it is kept that it failed.
    """
    question, state = (tuple(layers), outline(example), *_surroundings(example)), _state(model, score)
    found = _find(model, score, question, state)
    made = found.made if found else _made(model, example, layers, score)
    if not found:
        _keep(model, score, question, state, made)
    if isinstance(made, Unsupported):
        raise Unsupported(str(made))
    return made, found is not None


def forget(model: nn.Module) -> None:
    """Gives up what is kept of a model."""
    with _LOCK:
        _KEPT.pop(model, None)


def _made(model: nn.Module, example: Inputs, layers: Sequence[str], score: Score) -> Graphs | Unsupported:
    try:
        return export_and_cut(model, example, layers, score)
    except Unsupported as error:
        return Unsupported(str(error))  # without its traceback, which holds the model


def _find(model: nn.Module, score: Score, question: tuple[Any, ...], state: tuple[Any, ...]) -> _Export | None:
    """What fits, now the one used last. What is kept of the model with other weights, which will not come again, is given up."""
    with _LOCK:
        ours = [one for one in _KEPT.pop(model, []) if one.state[0] == state[0]]
        found = next((one for one in ours if one.question == question and one.state == state and one.score() == score), None)
        _KEPT[model] = sorted(ours, key=lambda one: one is found)
    return found


def _keep(model: nn.Module, score: Score, question: tuple[Any, ...], state: tuple[Any, ...], made: Graphs | Unsupported) -> None:
    try:
        held = (lambda: None) if score is None else weakref.WeakMethod(score) if inspect.ismethod(score) else weakref.ref(score)
    except TypeError:  # a function that cannot be held weakly cannot be told from another that has its place later
        return
    with _LOCK:
        _KEPT.setdefault(model, []).append(_Export(score=held, question=question, state=state, made=made))
        while sum(map(len, _KEPT.values())) > MOST:
            next(filter(None, _KEPT.values())).pop(0)


def _state(model: nn.Module, score: Score) -> tuple[Any, ...]:
    """What a model is now: its weights, and its modules with what hangs on them. Training flags do not matter."""
    owner = getattr(score, "__self__", score)
    roots = [model, owner] if isinstance(owner, nn.Module) else [model]
    weights = tuple(_weight(tensor) for root in roots for tensor in (*root.parameters(), *root.buffers()))
    modules = tuple((name, id(module), id(vars(module).get("forward")), *_hooks(module)) for root in roots
                    for name, module in root.named_modules())
    return weights, modules


def _weight(tensor: Tensor) -> tuple[Any, ...]:
    place = tensor.data_ptr() if tensor.layout is torch.strided else id(tensor)
    return place, tensor._version, tensor.dtype, tuple(tensor.shape), str(tensor.device)


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    both = module._forward_pre_hooks, module._forward_hooks
    return tuple((number, id(hook)) for hooks in both for number, hook in hooks.items())


def _surroundings(example: Inputs) -> tuple[Any, ...]:
    """What around a model goes into its graph."""
    device = tensors_of(example)[0].device
    cast = torch.is_autocast_enabled(device.type)
    return str(device), torch.get_default_dtype(), torch.get_autocast_dtype(device.type) if cast else None
