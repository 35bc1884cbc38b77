"""The network after a layer as a function of its masked activation: export and cut, or injection where that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chanattr.errors import InputError, LayerError, ModelError
from chanattr.network.export import Graphs, Unsupported, export_and_cut
from chanattr.network.hooks import apply_mask, capture, frozen, inject
from chanattr.network.inputs import at_least_two, join_rows, outline, take_rows, tensors_of
from chanattr.network.layers import Layer, describe_all
from chanattr.network.names import kind
from chanattr.network.outputs import Inputs, batch_size_of, call, logits_of

LOG = logging.getLogger(__name__)
ENGINES = ("auto", "tail", "injection")
AGREEMENT = 1e-5


@dataclass(frozen=True, kw_only=True)
class Stem:
    """What is kept of N images at one layer.

    Attributes:
        logits: of the whole network, unmasked, [N, C].
        activation: of the layer, [N, ...].
        sides: what passes the layer by, each [N, ...].
        images: themselves, where the whole network must run again; [N, 0] otherwise.
    """

    logits: Tensor
    activation: Tensor
    sides: tuple[Tensor, ...]
    images: Inputs


class Tail(Protocol):
    """The network after a layer.

    Attributes:
        layer: as found.
        engine: "tail (export)" or "injection".
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

    def logits(self, stem: Stem, masks: Float[Tensor, "M K"], rows: Int[Tensor, "M"], fill: float | Tensor = 0.0) -> Float[Tensor, "M C"]:
        """The tail's logits; a single mask is run as two, for the graph is made for batches."""
        if len(rows) == 1:
            return self.logits(stem, masks.expand(2, -1), rows.expand(2), fill)[:1]
        masked = _masked(stem.activation[rows], masks, rows, fill, self.layer)
        sides = [side[rows].flatten(0, 1) for side in stem.sides]
        return self.graphs.cuts[self.number].tail(masked, *sides)


@dataclass(frozen=True, kw_only=True)
class InjectedTail:
    """The definition: the whole network with the mask put in by a hook."""

    layer: Layer
    model: nn.Module
    score: Callable[[Any], Tensor] | None
    engine: str = "injection"
    reason: str = ""

    @torch.inference_mode(False)
    def stem(self, images: Inputs) -> Stem:
        """Runs the network once and keeps the images."""
        with frozen(self.model), capture(self.model, [self.layer.name]) as seen, torch.no_grad():
            logits = logits_of(call(self.model, images), self.score)
        return Stem(logits=logits, activation=seen[self.layer.name], sides=(), images=images)

    def logits(self, stem: Stem, masks: Float[Tensor, "M K"], rows: Int[Tensor, "M"], fill: float | Tensor = 0.0) -> Float[Tensor, "M C"]:
        """The whole network's logits."""
        values = _fill_at(fill, rows)
        with frozen(self.model), inject(self.model, self.layer.name, masks, fill=values, channel_axis=self.layer.channel_axis):
            return logits_of(call(self.model, take_rows(stem.images, rows)), self.score)


@torch.inference_mode(False)
def bind(model: nn.Module, example: Inputs, names: Sequence[str], *, engine: str = "auto",
         score: Callable[[Any], Tensor] | None = None, channel_axis: int | None = None) -> dict[str, Tail]:
    """The tails of some layers, all from one export, each checked against injection on random masks.

    Args:
        model: left as found.
        example: one or two images as the model takes them: a tensor, or a tuple (positional) or mapping (by keyword) with one row an
            image in every tensor.
        names: dotted layer names; each tail is found under its name as it is given here, and its layer has the canonical one.
        engine: "auto", "tail" (an error where it cannot be had) or "injection".
        score: turns the model's output into logits.
        channel_axis: of the layers' outputs, where it is not found rightly.

    Raises:
        InputError: no such engine, or tensors of different lengths in the example.
        LayerError: a layer cannot be masked, or does not reach the score.
        ModelError: the model gives no logits, or was built in inference mode; with engine="tail", no tail.
    """
    if engine not in ENGINES:
        raise InputError(f"engine={engine!r}; expected one of {', '.join(ENGINES)}")
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(f"{kind(model)} has weights made in inference mode, through which no gradient flows to the mask; expected weights "
                         "made outside torch.inference_mode; build or load the model outside it")
    layers = describe_all(model, example, names, channel_axis=channel_axis)
    plain = {name: InjectedTail(layer=layer, model=model, score=score, reason="asked for")
             for name, layer in zip(names, layers, strict=True)}
    if engine == "injection":
        return {name: _reaching(tail, example) for name, tail in plain.items()}
    try:
        with frozen(model):
            graphs = export_and_cut(model, at_least_two(example), [layer.name for layer in layers], score)
    except Unsupported as error:
        if engine == "tail":
            raise ModelError(f"no tail can be cut from {kind(model)} ({error}); expected a model that torch.export takes; "
                             "use engine='auto', which falls back to injection") from error
        LOG.warning("whole network runs for every mask, by injection: %s", error)
        return {name: _reaching(replace(tail, reason=str(error)), example) for name, tail in plain.items()}
    exported = {name: ExportedTail(layer=layer, number=number, graphs=graphs)
                for number, (name, layer) in enumerate(zip(names, layers, strict=True))}
    return {name: _checked(exported[name], plain[name], example, engine) for name in names}


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


def join_stems(parts: Sequence[Stem]) -> Stem:
    """Stems of one layer one after another."""
    return Stem(logits=torch.cat([p.logits for p in parts]), activation=torch.cat([p.activation for p in parts]),
                sides=tuple(torch.cat(side) for side in zip(*(p.sides for p in parts), strict=True)),
                images=join_rows([p.images for p in parts]))


def take_stem(stem: Stem, rows: Int[Tensor, "R"]) -> Stem:
    """Some images of a stem."""
    return Stem(logits=stem.logits[rows], activation=stem.activation[rows], sides=tuple(side[rows] for side in stem.sides),
                images=take_rows(stem.images, rows))


def _masked(activation: Tensor, masks: Tensor, rows: Tensor, fill: float | Tensor, layer: Layer) -> Tensor:
    return apply_mask(activation, masks, _fill_at(fill, rows), layer.channel_axis, layer.name)


def _fill_at(fill: float | Tensor, rows: Tensor) -> Tensor:
    """The fill of some rows, usable in a backward pass also where it was made in inference mode."""
    values = torch.as_tensor(fill)
    values = values[rows.to(values.device)] if values.ndim == 2 else values
    return values.clone() if values.is_inference() and not torch.is_inference_mode_enabled() else values


@torch.inference_mode(False)
@torch.no_grad()
def _run_stem(graphs: Graphs, images: Inputs) -> tuple[Tensor, ...]:
    """The stem's outputs; a single image is run as two, for the graph is made for batches."""
    if outline(images) != graphs.form:
        raise InputError(f"images come as {outline(images)}, but the tail was cut for {graphs.form}; expected the same form; "
                         "give images and example alike")
    outputs = graphs.stem(*tensors_of(at_least_two(images)))
    if batch_size_of(images) > 1:
        return tuple(outputs)
    return tuple(output[: len(output) // 2] for output in outputs)


def _checked(tail: ExportedTail, plain: InjectedTail, example: Inputs, engine: str) -> Tail:
    """The tail, if it agrees with injection on random masks; else injection, with the reason."""
    difference, allowed = _disagreement(tail, plain, example)
    if difference <= allowed:
        return tail
    reason = f"the tail of {tail.layer.name!r} differs from injection by {difference:.1e} of the logits' scale (at most {allowed:.0e})"
    if engine == "tail":
        raise ModelError(f"{reason}; expected the same numbers; use engine='auto', which falls back to injection")
    LOG.warning("%s; the whole network runs for every mask", reason)
    return replace(plain, reason=reason)


@torch.no_grad()
def _disagreement(tail: ExportedTail, plain: InjectedTail, example: Inputs) -> tuple[float, float]:
    """The largest difference of logits over random masks of all densities, as a share of their scale; and how much there may be.

    Half precision rounds by more than the limit, and may round otherwise in another batch.
    """
    generator = torch.Generator().manual_seed(0)
    images, device = batch_size_of(example), tensors_of(example)[0].device
    count = 3 * images
    density = torch.rand(count, 1, generator=generator)
    masks = (torch.rand(count, tail.layer.channels, generator=generator) < density).float().to(device)
    rows = torch.arange(count, device=device) % images
    stem = tail.stem(example)
    fast, slow = tail.logits(stem, masks, rows).float(), plain.logits(plain.stem(example), masks, rows).float()
    allowed = max(AGREEMENT, *(4 * torch.finfo(t.dtype).eps for t in (stem.activation, stem.logits) if t.is_floating_point()))
    finite = slow.isfinite()
    if not torch.equal(finite, fast.isfinite()):
        return float("inf"), allowed
    scale = slow[finite].abs().amax().clamp(min=1e-30) if finite.any() else torch.ones(())
    return float((fast - slow)[finite].abs().amax() / scale) if finite.any() else 0.0, allowed


def _reaching(tail: InjectedTail, example: Inputs) -> InjectedTail:
    """The tail, if the logits depend on its layer.

    Raises:
        LayerError: they do not.
    """
    stem = tail.stem(example)
    rows = torch.arange(len(stem.logits), device=stem.logits.device)
    masks = torch.ones(len(rows), tail.layer.channels, device=rows.device, requires_grad=True)
    with torch.enable_grad():
        logits = tail.logits(stem, masks, rows)
        slope = torch.autograd.grad(logits.sum(), masks, allow_unused=True)[0] if logits.requires_grad else None
    if slope is None:
        raise LayerError(f"from layer {tail.layer.name!r} no path leads to the score; expected one whose activation the logits depend on; "
                         "choose another layer")
    return tail
