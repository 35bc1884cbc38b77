"""The network after a layer as a function of its masked activation: export and cut; replay where that fails; else injection."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chanattr.arguments import check_name
from chanattr.errors import ChanattrError, InputError, ModelError, first_line
from chanattr.network.batches import in_batches
from chanattr.network.cache import forget, graphs_of
from chanattr.network.exactly import float32_exactly
from chanattr.network.export import Graphs, Unsupported, no_path
from chanattr.network.hooks import apply_mask, capture, change, frozen, inject
from chanattr.network.inputs import at_least_two, outline, take_rows, tensors_of
from chanattr.network.layers import Layer, describe_all
from chanattr.network.names import kind
from chanattr.network.outputs import Inputs, batch_size_of, call, logits_of
from chanattr.network.replay import Diverged, Plan, answering, keeping, make_plan
from chanattr.network.rows import check_alone, check_rows, difference
from chanattr.network.stem import Stem, halving
from chanattr.network.weights import check_weights

LOG = logging.getLogger(__name__)
ENGINES = ("auto", "tail", "replay", "injection")
AGREEMENT = 1e-5


class Tail(Protocol):
    """The network after a layer.

    Attributes:
        layer: as found.
        engine: "tail (export)", "replay" or "injection".
        reason: why it is not the tail; "" if it is.
    """

    @property
    def layer(self) -> Layer:
        """As found."""

    @property
    def engine(self) -> str:
        """How masked activations are scored."""

    @property
    def reason(self) -> str:
        """Why not by the tail."""

    def stem(self, images: Inputs) -> Stem:
        """Runs the whole network once and keeps what the tail needs."""

    def logits(self, stem: Stem, masks: Float[Tensor, "M K"], rows: Int[Tensor, "M"], fill: float | Tensor = 0.0) -> Float[Tensor, "M C"]:
        """The logits of image ``rows[m]`` with its activation masked by ``masks[m]``; differentiable in the masks."""

    def logits_from(self, stem: Stem, activation: Float[Tensor, "M ..."], rows: Int[Tensor, "M"]) -> Float[Tensor, "M C"]:
        """The logits of image ``rows[m]`` with ``activation[m]`` in place of its own at the layer; differentiable in the activation."""


@dataclass(frozen=True, kw_only=True)
class ExportedTail:
    """The fast way: a graph of only what follows the layer."""

    layer: Layer
    number: int
    graphs: Graphs
    engine: str = "tail (export)"
    reason: str = ""

    def stem(self, images: Inputs) -> Stem:
        """Runs the exported network once."""
        return self.take(_run_stem(self.graphs, images))

    def take(self, outputs: Sequence[Tensor]) -> Stem:
        """This layer's part of what the common stem gave."""
        count = len(self.graphs.cuts)
        cut = self.graphs.cuts[self.number]
        kept = [outputs[1 + count + position] for position, _ in cut.sides]
        sides = tuple(side.reshape(-1, rows, *side.shape[1:]) for side, (_, rows) in zip(kept, cut.sides, strict=True))
        return Stem(logits=outputs[0], activation=outputs[1 + self.number], sides=sides, images=outputs[0].new_empty(len(outputs[0]), 0))

    @float32_exactly()
    def logits(self, stem: Stem, masks: Float[Tensor, "M K"], rows: Int[Tensor, "M"], fill: float | Tensor = 0.0) -> Float[Tensor, "M C"]:
        """The tail's logits."""
        return self.logits_from(stem, masked_rows(stem.activation, masks, rows, fill, self.layer), rows)

    @float32_exactly()
    def logits_from(self, stem: Stem, activation: Float[Tensor, "M ..."], rows: Int[Tensor, "M"]) -> Float[Tensor, "M C"]:
        """The tail's logits; a single activation is run as two, for the graph is made for batches."""
        if len(rows) == 1:
            return self.logits_from(stem, torch.cat([activation, activation]), rows.expand(2))[:1]
        sides = [side[rows].flatten(0, 1) for side in stem.sides]
        logits: Tensor = self.graphs.cuts[self.number].tail(activation.contiguous(), *sides)  # a graph may view what it was exported with
        return logits


@dataclass(frozen=True, kw_only=True)
class InjectedTail:
    """The definition: the whole network with the mask put in by a hook."""

    layer: Layer
    model: nn.Module
    score: Callable[[Any], Tensor] | None
    engine: str = "injection"
    reason: str = ""

    @halving
    @torch.inference_mode(False)
    @float32_exactly()
    def stem(self, images: Inputs) -> Stem:
        """Runs the network once and keeps the images."""
        return self.whole(images)

    def whole(self, images: Inputs) -> Stem:
        """The same of all images at once, and in the caller's modes."""
        with frozen(self.model), capture(self.model, [self.layer.name]) as seen, torch.no_grad():
            logits = logits_of(call(self.model, images), self.score)
        check_rows(logits, images)
        return Stem(logits=logits, activation=seen[self.layer.name], sides=(), images=images)

    @float32_exactly()
    def logits(self, stem: Stem, masks: Float[Tensor, "M K"], rows: Int[Tensor, "M"], fill: float | Tensor = 0.0) -> Float[Tensor, "M C"]:
        """The whole network's logits."""
        values = _fill_at(fill, rows)
        with frozen(self.model), inject(self.model, self.layer.name, masks, fill=values, channel_axis=self.layer.channel_axis):
            return logits_of(call(self.model, take_rows(stem.images, rows)), self.score)

    @float32_exactly()
    def logits_from(self, stem: Stem, activation: Float[Tensor, "M ..."], rows: Int[Tensor, "M"]) -> Float[Tensor, "M C"]:
        """The whole network's logits."""
        with frozen(self.model), change(self.model, self.layer.name, lambda _: activation):
            return logits_of(call(self.model, take_rows(stem.images, rows)), self.score)


@dataclass(frozen=True, kw_only=True)
class ReplayTail:
    """The model's own forward, in which what was done before the layer is answered from memory.

    Images whose pass goes another way than the recorded one are scored by injection.
    """

    layer: Layer
    model: nn.Module
    score: Callable[[Any], Tensor] | None
    plan: Plan
    engine: str = "replay"
    reason: str = ""

    @halving
    @torch.inference_mode(False)
    @float32_exactly()
    def stem(self, images: Inputs) -> Stem:
        """Runs the network once and keeps what the plan says, and the images."""
        try:
            with keeping(self.model, self.plan, batch_size_of(images)) as kept:
                stem = self._plain().whole(images)
        except Diverged as error:
            LOG.info("%s: these images are scored by injection: %s", self.layer.name, error)
            return self._plain().stem(images)
        return replace(stem, sides=tuple(kept))

    @float32_exactly()
    def logits(self, stem: Stem, masks: Float[Tensor, "M K"], rows: Int[Tensor, "M"], fill: float | Tensor = 0.0) -> Float[Tensor, "M C"]:
        """The logits of what still has to run."""
        return self.logits_from(stem, masked_rows(stem.activation, masks, rows, fill, self.layer), rows)

    @float32_exactly()
    def logits_from(self, stem: Stem, activation: Float[Tensor, "M ..."], rows: Int[Tensor, "M"]) -> Float[Tensor, "M C"]:
        """The logits of what still has to run."""
        if len(stem.sides) != self.plan.sides:
            return self._plain().logits_from(stem, activation, rows)
        try:
            with answering(self.model, self.plan, stem.activation, stem.sides, rows):
                return self._plain().logits_from(stem, activation, rows)
        except Diverged as error:
            LOG.info("%s: these masks are scored by injection: %s", self.layer.name, error)
            return self._plain().logits_from(stem, activation, rows)

    def _plain(self) -> InjectedTail:
        return InjectedTail(layer=self.layer, model=self.model, score=self.score)


@torch.inference_mode(False)
@float32_exactly()
def bind(model: nn.Module, example: Inputs, names: Sequence[str], *, engine: str = "auto",
         score: Callable[[Any], Tensor] | None = None, channel_axis: int | None = None) -> dict[str, Tail]:
    """The tails of some layers, all from one export, each checked against injection on random masks.

    By itself it takes the exported tail; where there is none, or it differs, replay; else injection. Exports are kept in this process.

    Args:
        model: left as found.
        example: one or two images as the model takes them: a tensor, or a tuple (positional) or mapping (by keyword) with one row an
            image in every tensor.
        names: dotted layer names; each tail is found under its name as it is given here, and its layer has the canonical one.
        engine: "auto", "tail" or "replay" (an error where it cannot be had), or "injection".
        score: turns the model's output into logits.
        channel_axis: of the layers' outputs, where it is not found rightly.

    Raises:
        InputError: no such engine, or tensors of different lengths in the example.
        LayerError: a layer cannot be masked, or does not reach the score.
        ModelError: the model gives no logits or not one row an image, or was built in inference mode; the engine asked for cannot be had.
    """
    check_name("engine", engine, ENGINES)
    check_weights(model)
    layers = describe_all(model, example, names, channel_axis=channel_axis)
    check_alone(model, example, score)
    plain = {name: InjectedTail(layer=layer, model=model, score=score, reason="asked for")
             for name, layer in zip(names, layers, strict=True)}
    if engine == "injection":
        return {name: _reaching(tail, example) for name, tail in plain.items()}
    if engine == "replay":
        return {name: _replayed(_reaching(tail, example), example, "asked for", engine) for name, tail in plain.items()}
    return _exported(plain, example, engine)


def _exported(plain: Mapping[str, InjectedTail], example: Inputs, engine: str) -> dict[str, Tail]:
    """The exported tail of each layer, or what comes instead."""
    first = next(iter(plain.values()), None)
    if first is None:
        return {}
    layers = [tail.layer.name for tail in plain.values()]
    try:
        with frozen(first.model):
            graphs, kept = graphs_of(first.model, at_least_two(example), layers, first.score)
    except Unsupported as error:
        if engine == "tail":
            raise ModelError(f"no tail can be cut from {kind(first.model)} ({error}); expected a model that torch.export takes; "
                             "use engine='auto', which falls back to replay and injection") from error
        return {name: _replayed(_reaching(tail, example), example, str(error), engine) for name, tail in plain.items()}
    tails = {name: ExportedTail(layer=tail.layer, number=number, graphs=graphs) for number, (name, tail) in enumerate(plain.items())}
    wrong = {name: why for name, tail in tails.items() if (why := _objection(tail, plain[name], example))}
    if wrong and kept:  # something changed that nothing tells of: an attribute of a module, what a score function refers to
        forget(first.model)
        return _exported(plain, example, engine)
    if wrong and engine == "tail":
        raise ModelError(f"{next(iter(wrong.values()))}; expected the same numbers; use engine='auto', which falls back to replay and "
                         "injection")
    return {name: _replayed(plain[name], example, wrong[name], engine) if name in wrong else tail for name, tail in tails.items()}


def _replayed(plain: InjectedTail, example: Inputs, reason: str, engine: str) -> Tail:
    """Replay, if it agrees with injection; else injection. Either with the reason why it is not what comes first."""
    name, images = plain.layer.name, at_least_two(example)
    try:
        plan = make_plan(plain.model, images, name, plain.score)
        tail = ReplayTail(layer=plain.layer, model=plain.model, score=plain.score, plan=plan, reason=reason)
        why = _objection(tail, plain, images)
    except Unsupported as error:
        why = str(error)
    if not why:
        LOG.info("%s is replayed: %s", name, reason)
        return tail
    if engine == "replay":
        raise ModelError(f"{name} of {kind(plain.model)} cannot be replayed ({why}); expected a model whose modules give the images along "
                         "their first axis; use engine='auto', which falls back to injection")
    LOG.warning("whole network runs for every mask, by injection: %s; no replay: %s", reason, why)
    return replace(plain, reason=f"{reason}; no replay: {why}")


def stems(tails: Mapping[str, Tail], images: Inputs) -> dict[str, Stem]:
    """What is kept of some images at several layers; one pass for all tails of one export."""
    outputs: dict[int, tuple[Tensor, ...]] = {}
    found = {}
    for name, tail in tails.items():
        if isinstance(tail, ExportedTail):
            key = id(tail.graphs)
            if key not in outputs:
                outputs[key] = _run_stem(tail.graphs, images)
            found[name] = tail.take(outputs[key])
        else:
            found[name] = tail.stem(images)
    return found


def masked_rows(activation: Tensor, masks: Tensor, rows: Tensor, fill: float | Tensor, layer: Layer) -> Tensor:
    """The activation of image ``rows[m]`` masked by ``masks[m]``."""
    return apply_mask(activation[rows], masks, _fill_at(fill, rows), layer.channel_axis, layer.name)


def _fill_at(fill: float | Tensor, rows: Tensor) -> Tensor:
    """The fill of some rows, usable in a backward pass also where it was made in inference mode."""
    values = torch.as_tensor(fill)
    values = values[rows.to(values.device)] if values.ndim == 2 else values
    return values.clone() if values.is_inference() and not torch.is_inference_mode_enabled() else values


def _run_stem(graphs: Graphs, images: Inputs) -> tuple[Tensor, ...]:
    """The stem's outputs, in halves where memory runs out."""
    if outline(images) != graphs.form:
        raise InputError(f"images come as {outline(images)}, but the tail was cut for {graphs.form}; expected the same form; "
                         "give images and example alike")
    count = batch_size_of(images)
    parts = [part for _, part in in_batches(graphs.stem, count, count, "stem", lambda rows: _outputs(graphs, take_rows(images, rows)))]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(same) for same in zip(*parts, strict=True))


@torch.inference_mode(False)
@float32_exactly()
@torch.no_grad()
def _outputs(graphs: Graphs, images: Inputs) -> tuple[Tensor, ...]:
    """What the stem gives; a single image is run as two, for the graph is made for batches."""
    doubled = at_least_two(images)
    outputs = graphs.stem(*tensors_of(doubled))
    check_rows(outputs[0], doubled)
    if batch_size_of(images) > 1:
        return tuple(outputs)
    return tuple(output[: len(output) // 2] for output in outputs)


def _objection(tail: Tail, plain: InjectedTail, example: Inputs) -> str:
    """Why a tail cannot be used: it fails, or differs from injection on random masks; "" if it can."""
    theirs = plain.stem(example)
    try:
        apart, allowed = _disagreement(tail, plain, example, theirs)
    except ChanattrError:
        raise
    except Exception as error:  # whatever the model's code raises when it is not run as a whole
        return f"the {tail.engine} of {tail.layer.name!r} failed: {first_line(error)}"
    if apart <= allowed:
        return ""
    return f"the {tail.engine} of {tail.layer.name!r} differs from injection by {apart:.1e} of the logits' scale (at most {allowed:.0e})"


@torch.no_grad()
def _disagreement(tail: Tail, plain: InjectedTail, example: Inputs, theirs: Stem) -> tuple[float, float]:
    """The largest difference of logits over random masks of all densities, as a share of their scale; and how much there may be.

    Half precision rounds by more than the limit, and may round otherwise in another batch.
    """
    generator = torch.Generator().manual_seed(0)
    images, device = batch_size_of(example), tensors_of(example)[0].device
    count = 3 * images
    density = torch.rand(count, 1, generator=generator, dtype=torch.float32)
    masks = (torch.rand(count, tail.layer.channels, generator=generator, dtype=torch.float32) < density).float().to(device)
    rows = torch.arange(count, device=device) % images
    stem = tail.stem(example)
    _slope(tail, stem, masks[:1], rows[:1])  # operators without a backward pass fail here, not in the search
    fast, slow = tail.logits(stem, masks, rows).float(), plain.logits(theirs, masks, rows).float()
    allowed = max(AGREEMENT, *(4 * torch.finfo(t.dtype).eps for t in (stem.activation, stem.logits) if t.is_floating_point()))
    return difference(fast, slow), allowed


@torch.enable_grad()
def _slope(tail: Tail, stem: Stem, masks: Tensor, rows: Tensor) -> Tensor | None:
    """The slope of all logits at some masks; None if they do not depend on them."""
    leaf = masks.detach().requires_grad_()
    logits = tail.logits(stem, leaf, rows)
    return torch.autograd.grad(logits.sum(), leaf, allow_unused=True)[0] if logits.requires_grad else None


def _reaching(tail: InjectedTail, example: Inputs) -> InjectedTail:
    """The tail, if the logits depend on its layer.

    Raises:
        LayerError: they do not.
    """
    stem = tail.stem(example)
    rows = torch.arange(len(stem.logits), device=stem.logits.device)
    if _slope(tail, stem, torch.ones(len(rows), tail.layer.channels, device=rows.device, dtype=torch.float32), rows) is None:
        raise no_path(tail.layer.name)
    return tail
