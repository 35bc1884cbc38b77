"""One forward pass recorded: which calls are over before a layer's begins, and which of their outputs are still read after that."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from chanattr.network.hooks import eager, frozen
from chanattr.network.inputs import with_tensors
from chanattr.network.names import find, named, split_input, unwrapped
from chanattr.network.outputs import Inputs, call, leaves, logits_of, tensors_in

RECORDED = 5  # images of the recorded pass: few tensors that are no batch have as many rows
READING = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
Forward = Callable[..., Any]


@dataclass(eq=False)
class Call:
    """One call of a module: the calls that it is in, what came in and out."""

    name: str
    parent: Call | None
    early: bool = False  # over before the layer's call began
    output: Any = None
    over: int = -1
    able: bool = False


@dataclass(frozen=True)
class _Event:
    """Something of a recorded pass in its order: an operation in a call, or the end of a call that can be answered.

    Attributes:
        call: the innermost; None in the model itself.
        taken, given: memory of the tensors that come in, and that come out.
        read: its numbers reach Python, or what follows the layer.
        end: it is the end of the call.
    """

    call: Call | None
    taken: tuple[int, ...]
    given: tuple[int, ...]
    read: bool
    end: bool = False


@dataclass(eq=False)
class Tape:
    """A recorded pass."""

    calls: list[Call] = field(default_factory=list)
    events: list[_Event] = field(default_factory=list)
    stack: list[Call] = field(default_factory=list)
    target: Call | None = None
    is_input: bool = False  # the layer is what the target is given, so that the target has to run
    passed: bool = False  # the layer's call is over


class _Watch(TorchDispatchMode):
    """Notes which memory every operation reads and writes."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]  # it has no types in torch
        self.tape = tape

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken = _memory(tensors_in((args, kwargs)))
        output = func(*args, **(kwargs or {}))
        written = func._schema.is_mutable  # what is written to must be there
        read = self.tape.passed or written or bool(READING.intersection(func.tags))
        self.tape.events.append(_Event(self.tape.stack[-1] if self.tape.stack else None, taken, _memory(tensors_in(output)), read))
        return output


@torch.inference_mode(False)
@torch.no_grad()
def record(model: nn.Module, images: Inputs, layer: str, score: Callable[[Any], Tensor] | None) -> Tape:
    """One forward pass, every call and every operation noted."""
    place = find(model, layer)
    tape, target, count = Tape(is_input=place.is_input), split_input(place.name)[0], 0

    def forward(name: str, own: Forward, /, *positional: Any, **keywords: Any) -> Any:
        nonlocal count
        one = Call(name, tape.stack[-1] if tape.stack else None)
        tape.calls.append(one)
        if name == target:
            count += 1
            tape.target = one if count == max(1, place.call) else tape.target
        coming = tensors_in((positional, keywords))
        versions = [tensor._version for tensor in coming]
        tape.stack.append(one)
        try:
            output = own(*positional, **keywords)
        finally:
            tape.stack.pop()
        one.early = tape.target is None
        one.able, one.over = _is_able(output, [t for t, v in zip(coming, versions, strict=True) if t._version != v], coming)
        if one.able:
            one.output = _hollow(output)
            passed_on = () if one.over >= 0 else _memory([tensor for tensor in coming if tensor.layout is torch.strided])
            tape.events.append(_Event(one, passed_on, _memory(tensors_in(output)), False, end=True))
        tape.passed |= one is tape.target
        return output

    inner = unwrapped(model)
    watched = {name: module for name, module in named(model).items() if module is not inner}
    with frozen(model), forwards(watched, forward), eager(), _Watch(tape):
        logits = logits_of(call(model, images), score)
    tape.events.append(_Event(None, _memory([logits]), (), True))
    return tape


def _is_able(output: Any, changed: Sequence[Tensor], coming: Sequence[Tensor]) -> tuple[bool, int]:
    """Whether a call can be answered from memory, and which of its inputs it overwrites and gives."""
    over = next((place for place, tensor in enumerate(coming) if tensor is output), -1) if changed else -1
    alone = not changed or (over >= 0 and all(tensor is output for tensor in changed) and not output._is_view())
    tensors = tensors_in(output)
    rest = all(isinstance(leaf, (Tensor, int, str, type(None))) for _, leaf in leaves(output))
    rows = all(tensor.ndim and len(tensor) == RECORDED and tensor.layout is torch.strided for tensor in tensors)
    return alone and bool(tensors) and rest and rows, over


def answered_calls(tape: Tape) -> set[Call]:
    """The outermost calls that were over before the layer's began, and the layer's own, as far as they can be answered."""
    found: set[Call] = set()
    for one in tape.calls:  # a call comes before those inside it
        wanted = one.early or (one is tape.target and not tape.is_input)
        if one.able and wanted and not is_inside(one, found):
            found.add(one)
    return found


def is_inside(one: Call | None, answered: set[Call], itself: bool = False) -> bool:
    """Whether a call is in an answered one (or is one, if `itself` counts)."""
    outer = one if itself else one.parent if one else None
    while outer is not None and outer not in answered:
        outer = outer.parent
    return outer is not None


def needed_tensors(tape: Tape, answered: set[Call]) -> set[tuple[Call, int]]:
    """The tensors of answered calls, by place in their outputs, on which something that still runs depends.

    Memory is followed from operation to operation; what only goes into answered calls is not needed.
    """
    origin: dict[int, frozenset[tuple[Call, int]]] = {}
    needed: set[tuple[Call, int]] = set()
    for event in tape.events:
        if event.end and event.call in answered:
            for memory in set(event.given):  # an output may be a view of what came in, which others may still read
                before = origin.get(memory, frozenset()) if memory in event.taken else frozenset()
                origin[memory] = before | {(event.call, place) for place, other in enumerate(event.given) if other == memory}
        elif not event.end and not is_inside(event.call, answered, itself=True):
            sources = frozenset().union(*(origin.get(memory, frozenset()) for memory in event.taken))
            needed |= sources if event.read else set()
            origin.update(dict.fromkeys(event.given, sources))
    return needed


@contextmanager
def forwards(modules: Mapping[str, nn.Module], new: Callable[..., Any]) -> Iterator[None]:
    """Inside, calling a module gives ``new(name, its own forward, *positional, **by keyword)``; its hooks run around that.

    On leaving, also by an exception, every module has the ``forward`` that it had.
    """
    found = [(name, module, module.forward, "forward" in vars(module)) for name, module in modules.items()
             if not isinstance(module, torch.jit.ScriptModule)]
    try:
        for name, module, own, _ in found:
            object.__setattr__(module, "forward", functools.wraps(own)(functools.partial(new, name, own)))
        yield
    finally:
        for _, module, own, had in found:
            if had:
                object.__setattr__(module, "forward", own)
            else:
                vars(module).pop("forward", None)


def _memory(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """The memory of each tensor, by number: views share it."""
    return tuple(tensor.untyped_storage()._cdata for tensor in tensors)


def _hollow(output: Any) -> Any:
    """The same output with nothing in its tensors."""
    return with_tensors(output, [spread(tensor, len(tensor)) for tensor in tensors_in(output)])


def spread(like: Tensor, rows: int) -> Tensor:
    """A tensor of so many rows that takes no memory and reads as NaN, so that a use nobody saw cannot go unnoticed."""
    value = float("nan") if like.is_floating_point() or like.is_complex() else 0
    return torch.full((), value, dtype=like.dtype, device=like.device).expand(rows, *like.shape[1:])
