"""The model's own forward with what finished before a layer answered from memory: where no graph can be exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from chanattr.errors import first_line
from chanattr.network.export import Unsupported
from chanattr.network.hooks import eager
from chanattr.network.inputs import outline, take_rows, with_tensors
from chanattr.network.names import named
from chanattr.network.outputs import Inputs, batch_size_of, tensors_in
from chanattr.network.recording import RECORDED, Call, Forward, Tape, answered_calls, forwards, is_inside, needed_tensors, record, spread

ACTIVATION = -1
NOWHERE = -2


class Diverged(Exception):
    """The model called other modules than when it was recorded. Never leaves the network room."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call of a module on the way to the layer, by plain name, and what it gives without being run.

    Attributes:
        module: plain name.
        like: its output for the recorded images, every tensor one number spread over the shape.
        places: of each tensor in it: its place among the stem's sides; ACTIVATION for the layer's own; NOWHERE for one that nothing reads.
            Empty where the call is not answered, and runs.
        over: which of the tensors that come in is overwritten and is the output; -1 for none.
    """

    module: str
    like: Any
    places: tuple[int, ...]
    over: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a model calls up to a layer, and what of it is kept.

    Attributes:
        steps: the calls in order, the layer's last; calls inside an answered one are not among them.
        sides: how many tensors are kept beside the activation.
    """

    steps: tuple[Step, ...]
    sides: int


def make_plan(model: nn.Module, example: Inputs, layer: str, score: Callable[[Any], Tensor] | None) -> Plan:
    """What of a model need not run again after a layer, from one recorded pass.

    Args:
        model: left as found.
        example: the model's input for one or more images.
        layer: canonical name.
        score: turns the output into logits.

    Raises:
        Unsupported: the pass cannot be recorded.
    """
    if len(getattr(model, "device_ids", None) or ()) > 1:
        raise Unsupported("the model is spread over several devices")
    images = take_rows(example, torch.arange(RECORDED) % batch_size_of(example))
    try:
        tape = record(model, images, layer, score)
    except Exception as error:  # whatever the model's code raises under a recorder
        raise Unsupported(f"recording failed: {first_line(error)}") from error
    if tape.target is None:
        raise Unsupported(f"{layer} did not fire")
    return _plan(tape, tape.target)


@contextmanager
def answering(model: nn.Module, plan: Plan, activation: Tensor, sides: Sequence[Tensor], rows: Int[Tensor, "M"]) -> Iterator[None]:
    """Inside, one forward pass over images ``rows`` of a stem runs only what was not kept; a hook must put the layer's activation in.

    Raises:
        Diverged: at the forward pass, it calls other modules than were recorded.
    """
    def answer(step: Step, _run: Callable[[], Any], given: list[Tensor]) -> Any:
        tensors = []
        for like, place in zip(tensors_in(step.like), step.places, strict=True):
            source = activation if place == ACTIVATION else sides[place] if place != NOWHERE else None
            tensors.append(spread(like, len(rows)) if source is None else source[rows.to(source.device)])
        output = with_tensors(step.like, tensors)
        return output if step.over < 0 else _overwritten(given[step.over], output)

    with _walking(model, plan, answer):
        yield


@contextmanager
def keeping(model: nn.Module, plan: Plan, images: int) -> Iterator[list[Tensor]]:
    """Inside, one forward pass over so many images leaves what the plan keeps of it in the list, as copies.

    Raises:
        Diverged: at the forward pass, it calls other modules than were recorded, or they give other forms.
    """
    kept: list[Tensor] = [torch.empty(0)] * plan.sides

    def keep(step: Step, run: Callable[[], Any], _given: list[Tensor]) -> Any:
        output = run()
        if outline(output) != outline(step.like) or any(len(tensor) != images for tensor in tensors_in(output)):
            raise Diverged(f"{step.module} gave {outline(output)}, and {outline(step.like)} when it was recorded")
        for tensor, place in zip(tensors_in(output), step.places, strict=True):
            if place >= 0:
                kept[place] = tensor.detach().clone()
        return output

    with _walking(model, plan, keep):
        yield kept


@contextmanager
def _walking(model: nn.Module, plan: Plan, take: Callable[[Step, Callable[[], Any], list[Tensor]], Any]) -> Iterator[None]:
    """Inside, one forward pass follows the plan step by step: what it answers is given by ``take``, all else runs as it is written."""
    modules = named(model)
    watched = {step.module: modules[step.module] for step in plan.steps}
    at, inside = 0, False

    def forward(name: str, own: Forward, /, *positional: Any, **keywords: Any) -> Any:
        nonlocal at, inside
        if inside or at == len(plan.steps):
            return own(*positional, **keywords)
        step = plan.steps[at]
        if step.module != name:
            at = len(plan.steps)
            raise Diverged(f"{name} was called, and {step.module} when it was recorded")
        at += 1
        if not step.places:
            return own(*positional, **keywords)
        inside = True
        try:
            return take(step, lambda: own(*positional, **keywords), tensors_in((positional, keywords)))
        finally:
            inside = False

    with forwards(watched, forward), eager():
        yield
    if at < len(plan.steps):
        raise Diverged(f"{plan.steps[at].module} was not called")


def _plan(tape: Tape, target: Call) -> Plan:
    """The calls up to the layer's of all modules that are answered at least once."""
    answered = answered_calls(tape)
    needed = needed_tensors(tape, answered)
    watched = {call.name for call in answered} | {target.name}
    steps: list[Step] = []
    count = 0
    for call in tape.calls:
        if call.name not in watched or is_inside(call, answered):
            continue
        places: list[int] = []
        if call in answered:
            for number, _ in enumerate(tensors_in(call.output)):
                if call is target and not number:  # a hook puts the masked activation in the place of the output, not of the input
                    places.append(ACTIVATION if call.over >= 0 else NOWHERE)
                else:
                    places.append(count if (call, number) in needed else NOWHERE)
                count += places[-1] >= 0
        steps.append(Step(module=call.name, like=call.output, places=tuple(places), over=call.over))
        if call is target:
            break
    return Plan(steps=tuple(steps), sides=count)


@torch.no_grad()
def _overwritten(given: Tensor, output: Any) -> Tensor:
    """The tensor that came in, holding what a module in place would have left in it."""
    given.set_(output)
    return given
