"""The fast graph of a tail, for searching only: folded, channels last, in bfloat16 where the device has it, checked against the tail."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, fx

from chanattr.errors import first_line
from chanattr.network.batches import anchor_of, in_batches, is_out_of_memory
from chanattr.network.folding import ATTENTION, CONVOLUTIONS, folded, has, lowered, work
from chanattr.network.layers import Layer
from chanattr.network.rows import difference
from chanattr.network.stem import Stem
from chanattr.network.tail import ExportedTail, Tail, masked_rows

LOG = logging.getLogger(__name__)
WORTH = 1_000_000  # multiplications of an image from which lower precision gains more than its conversions cost
COMPILE = 200_000  # evaluations of one run from which compiling pays for itself (a minute or two, on CUDA)
AGREEMENT = 1e-4  # of the logits' scale: how far float32 may be from the plain tail
LOW_AGREEMENT = 0.05  # the same in bfloat16, whose numbers have steps of 1/256 of their size
LOW_CORRELATION = 0.99  # of the slopes of a mask in bfloat16 with those of the plain tail, on average over masks
CHECKED = 32  # random masks
COMPILED = ("cuda",)  # devices where compiling pays
GRAPHS = 64  # that a compiled one may have: sizes, with and without gradients; torch's own limit of 8 ends in eager steps


@dataclass(frozen=True, kw_only=True, eq=False)
class FastTail:
    """A graph of what follows a layer that gives nearly the tail's logits in less time.

    Attributes:
        layer: as found.
        run: ``run(activation, *sides) -> logits`` in float32.
        anchor: what batch sizes are remembered by.
        rows: rows of an image in each side input.
        dtype, memory_format: of what `prepare` gives.
        padded: whether batches are filled up to powers of two, so that few graphs are compiled.
        engine: "tail (export)", with the precision where it is not float32, and "compiled" where it is.
    """

    layer: Layer
    run: Callable[..., Tensor]
    anchor: fx.GraphModule
    rows: tuple[int, ...]
    dtype: torch.dtype
    memory_format: torch.memory_format
    padded: bool
    engine: str

    def prepare(self, stem: Stem) -> Stem:
        """The stem as this graph reads it; for `logits` of this tail only."""
        sides = tuple(self._as_read(side[:, 0] if rows == 1 else side) for side, rows in zip(stem.sides, self.rows, strict=True))
        return Stem(logits=stem.logits, activation=self._as_read(stem.activation), sides=sides, images=stem.images)

    def logits(self, stem: Stem, masks: Float[Tensor, "M K"], rows: Int[Tensor, "M"], fill: float | Tensor = 0.0) -> Float[Tensor, "M C"]:
        """The logits of image ``rows[m]`` with its activation masked by ``masks[m]``, in float32; `stem` is a prepared one."""
        masked = masked_rows(stem.activation, masks, rows, fill, self.layer)
        return self.logits_from(stem, masked, rows)

    def logits_from(self, stem: Stem, activation: Float[Tensor, "M ..."], rows: Int[Tensor, "M"]) -> Float[Tensor, "M C"]:
        """The logits of image ``rows[m]`` with ``activation[m]`` in place of its own, in float32; `stem` is a prepared one."""
        count = len(rows)
        size = max(2, 1 << (count - 1).bit_length() if self.padded else count)
        if size > count:
            missing = size - count
            activation = torch.cat([activation, activation[-1:].expand(missing, *activation.shape[1:])])
            rows = torch.cat([rows, rows[-1:].expand(missing)])
        sides = [side[rows] if own == 1 else side[rows].flatten(0, 1) for side, own in zip(stem.sides, self.rows, strict=True)]
        return self.run(self._as_read(activation), *sides)[:count]

    def _as_read(self, values: Tensor) -> Tensor:
        values = values.to(self.dtype) if values.is_floating_point() else values
        return values.contiguous(memory_format=self.memory_format) if values.ndim == 4 else values


_MADE: WeakKeyDictionary[fx.GraphModule, dict[Any, FastTail | str]] = WeakKeyDictionary()  # or why there is none


def fast(tail: Tail, stem: Stem, *, precision: str = "auto", evaluations: int = 0, at_once: int = CHECKED) -> Tail | FastTail:
    """What to search with in place of a tail: a graph made once a process and checked when it is, or the tail itself.

    The choice hangs on the device, the graph, the arguments and the two images that it was first checked on in this process, never on a
    clock. Below the precision asked for come a graph that is not compiled, then float32, then the tail itself.

    Args:
        tail: only an exported one in float32 can be made faster.
        stem: of some images; the first two are for the check, and must be finite.
        precision: "float32"; "bfloat16"; or "auto", which is bfloat16 where the device computes in it and the graph is large enough.
        evaluations: planned in the whole run; where they are many, and on CUDA, the graph is compiled.
        at_once: masked images that the check runs together, at most; fewer where memory runs out.
    """
    if not isinstance(tail, ExportedTail) or {stem.activation.dtype, stem.logits.dtype} != {torch.float32}:
        return tail
    device = stem.activation.device
    graph = tail.graphs.cuts[tail.number].tail
    low = precision == "bfloat16" or (precision == "auto" and _gains(graph, device))
    worth_compiling = (True, False) if device.type in COMPILED and evaluations >= COMPILE else (False,)
    for dtype, compiled in itertools.product((torch.bfloat16, torch.float32) if low else (torch.float32,), worth_compiling):
        key = (device, dtype, compiled, tail.layer, _fingerprint(graph))
        kept = _MADE.setdefault(graph, {})
        if key not in kept:
            for old in [other for other in kept if other[-1] != key[-1]]:  # of weights that were changed in place
                del kept[old]
            kept[key] = _made(tail, stem, dtype, compiled, at_once)
        found = kept[key]
        if isinstance(found, FastTail):
            return found
    return tail


def _gains(graph: fx.GraphModule, device: torch.device) -> bool:
    """Whether a graph is faster in bfloat16, as far as was measured."""
    return has_bfloat16(device) and work(graph) >= WORTH and not (device.type == "cpu" and has(graph, ATTENTION))


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0) or torch.version.hip is not None
    if device.type != "cpu":
        return False
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    older = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(told.get("avx512_bf16") or told.get("amx_bf16") or older())


def _fingerprint(graph: fx.GraphModule) -> str:
    """Tells whether the weights, which the graph shares with the model and a fast graph does not, are what they were."""
    sums = [_weighted(values.detach().flatten()) for values in graph.buffers() if values.is_floating_point()]
    return str(torch.stack([value.to(sums[0].device) for value in sums]).tolist()) if sums else ""


def _weighted(values: Tensor) -> Tensor:
    """A sum that tells places and signs apart."""
    return (values * torch.linspace(1, 2, len(values), device=values.device, dtype=values.dtype)).sum(dtype=torch.float64)


@torch.inference_mode(False)
def _made(tail: ExportedTail, stem: Stem, dtype: torch.dtype, compiled: bool, at_once: int) -> FastTail | str:
    """A fast graph that agrees with its tail; or why there is none, which is logged."""
    with torch.no_grad():
        made = _make(tail, dtype, stem, compiled)
    try:
        why = _objection(made, tail, stem, at_once)
    except Exception as error:  # compilers raise what they like
        if is_out_of_memory(error):
            raise
        why = f"it fails ({first_line(error)})"
    if not why:
        return made
    LOG.warning("no %sfast graph in %s at %r: %s; the search runs without it", "compiled " * compiled, _word(dtype), tail.layer.name, why)
    return why


def _make(tail: ExportedTail, dtype: torch.dtype, stem: Stem, compiled: bool) -> FastTail:
    cut, activation = tail.graphs.cuts[tail.number], stem.activation
    graph = folded(cut.tail)
    last = activation.ndim == 4 and tail.layer.channel_axis == 1 and activation.device.type in ("cpu", "cuda") and has(graph, CONVOLUTIONS)
    memory_format = torch.channels_last if last else torch.contiguous_format
    graph = lowered(graph, dtype, memory_format, (activation, *stem.sides), grouped_wide=activation.device.type == "cpu")
    run: Callable[..., Tensor] = _compiled(graph) if compiled else graph
    words = (tail.engine, *([_word(dtype)] if dtype != torch.float32 else []), *(["compiled"] if compiled else []))
    return FastTail(layer=tail.layer, run=run, anchor=graph, rows=tuple(rows for _, rows in cut.sides), dtype=dtype,
                    memory_format=memory_format, padded=compiled, engine=", ".join(words))


def _compiled(graph: fx.GraphModule) -> Callable[..., Tensor]:
    """A graph compiled for every size of a batch that comes: a power of two each, with gradients and without."""
    from torch._dynamo import config

    run = torch.compile(graph, dynamic=False)
    limit = next(name for name in ("recompile_limit", "cache_size_limit") if hasattr(config, name))  # torch 2.6 has the second

    def limited(*values: Tensor) -> Tensor:
        with config.patch({limit: GRAPHS}):
            logits: Tensor = run(*values)
        return logits

    return limited


def _objection(made: FastTail, tail: ExportedTail, stem: Stem, at_once: int) -> str:
    """How a fast graph differs from its tail on random masks of all densities by more than it may; "" if it does not."""
    generator = torch.Generator().manual_seed(0)
    device = stem.activation.device
    drawn, density = (torch.rand(CHECKED, width, generator=generator, dtype=torch.float32) for width in (tail.layer.channels, 1))
    masks = (drawn < density).float().to(device)
    rows = torch.arange(CHECKED, device=device) % min(2, len(stem.logits))
    low = made.dtype != torch.float32
    ours, our_slopes = _tried(made, made.prepare(stem), masks, rows, at_once)
    theirs, their_slopes = _tried(tail, stem, masks, rows, at_once, slopes=low)
    if not theirs.isfinite().any():
        return "no logit is finite"
    apart = difference(ours, theirs)
    allowed = LOW_AGREEMENT if low else AGREEMENT
    if apart > allowed:
        return f"logits differ by {apart:.1e} of their scale (at most {allowed:.0e})"
    correlation = _correlation(our_slopes, their_slopes) if low else 1.0
    return f"slopes correlate by {correlation:.3f} (at least {LOW_CORRELATION})" if correlation < LOW_CORRELATION else ""


def _tried(tail: Tail | FastTail, stem: Stem, masks: Tensor, rows: Tensor, at_once: int, slopes: bool = True) -> tuple[Tensor, Tensor]:
    """Logits, and the slopes of the class that each image is predicted to be; 0 where nobody asks for them."""

    @torch.set_grad_enabled(slopes)
    def run(part: slice) -> tuple[Tensor, Tensor]:
        leaf = masks[part].detach().requires_grad_()
        logits = tail.logits(stem, leaf, rows[part]).float()
        named = logits.gather(1, stem.logits[rows[part]].argmax(1, keepdim=True))
        return logits.detach(), torch.autograd.grad(named.sum(), leaf)[0] if slopes else torch.zeros_like(leaf)

    parts = [found for _, found in in_batches(anchor_of(tail), len(rows), at_once, True, run)]
    return torch.cat([logits for logits, _ in parts]), torch.cat([found for _, found in parts])


def _correlation(ours: Float[Tensor, "M K"], theirs: Float[Tensor, "M K"]) -> float:
    """Mean over the masks of how their slopes correlate; masks whose slopes are all alike, or not finite, tell nothing."""
    centred = [values - values.mean(1, keepdim=True) for values in (ours.double(), theirs.double())]
    sizes = [values.norm(dim=1) for values in centred]
    cosine = (centred[0] * centred[1]).sum(1) / (sizes[0] * sizes[1])
    told = cosine[(sizes[1] > 0) & cosine.isfinite()]
    return float(told.mean()) if len(told) else 1.0


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
