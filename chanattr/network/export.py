"""The network after a layer as a graph of its own: exported with a tap at every layer, and cut there."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from chanattr.errors import LayerError, first_line
from chanattr.network.functional import functional
from chanattr.network.hooks import change
from chanattr.network.inputs import outline, tensors_of, with_tensors
from chanattr.network.outputs import Inputs, call, logits_of

LARGEST_BATCH = 2**31 - 1  # without one, torch 2.6 fails to prove that a batch is not infinite


@torch.library.custom_op("chanattr::tap", mutates_args=(), schema="(Tensor activation, int number) -> Tensor")
def tap(activation: Tensor, number: int) -> Tensor:
    """The identity, visible in an exported graph: marks where a layer's activation passes."""
    del number  # read off the graph
    return activation.clone()


@tap.register_fake
def _(activation: Tensor, number: int) -> Tensor:
    del number
    return torch.empty_like(activation)


tap.register_autograd(lambda _context, gradient: (gradient, None))


def no_path(layer: str) -> LayerError:
    """What is said of a layer that the logits do not depend on."""
    return LayerError(f"from layer {layer!r} no path leads to the score; expected one whose activation the logits depend on; "
                      "choose another layer")


class Unsupported(Exception):
    """This model cannot be cut; the message says why. Never leaves the network room."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The tail of one layer.

    Attributes:
        tail: ``tail(activation, *sides) -> logits``.
        sides: positions of its side inputs in what the stem gives, and how many rows each image has there.
    """

    tail: fx.GraphModule
    sides: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Graphs:
    """One export of a model, cut at several layers.

    Attributes:
        stem: ``stem(*tensors of the inputs) -> (logits, activation of each layer ..., side ...)``.
        cuts: one a layer.
        form: outline of the inputs that it was exported for.
    """

    stem: fx.GraphModule
    cuts: tuple[Cut, ...]
    form: str


class _ToLogits(nn.Module):
    """A model of the tensors in its inputs, with its output turned into logits: the graph begins and ends there."""

    def __init__(self, model: nn.Module, example: Inputs, score: Callable[[Any], Tensor] | None) -> None:
        super().__init__()
        self.model, self.example, self.score = model, example, score

    def forward(self, tensors: list[Tensor]) -> Tensor:
        return logits_of(call(self.model, with_tensors(self.example, tensors)), self.score)


def export_and_cut(model: nn.Module, example: Inputs, layers: Sequence[str], score: Callable[[Any], Tensor] | None) -> Graphs:
    """The stem and the tails of a model, which is in eval mode and frozen.

    Args:
        model: whose hooks are used for the length of the export.
        example: at least two images.
        layers: checked names.
        score: turns the output into logits.

    Raises:
        Unsupported: the export failed, or a value beside the layer has no batch axis that can be gathered.
        LayerError: no path leads from a layer to the logits.
    """
    graph_module = _export(model, example, layers, score)
    graph = graph_module.graph
    taps = {node.args[1]: node for node in graph.nodes if node.target is torch.ops.chanattr.tap.default}
    cutter = _Cutter(graph_module, [node for node in graph.nodes if node.op == "placeholder"])
    found = [cutter.cut(taps.get(number), layer) for number, layer in enumerate(layers)]
    sides = list(dict.fromkeys(node for _, nodes in found for node in nodes))
    stem = _stem(graph_module, [taps[number] for number in range(len(layers))], sides)
    cuts = tuple(Cut(tail=tail, sides=tuple((sides.index(node), cutter.rows(node)) for node in nodes)) for tail, nodes in found)
    return Graphs(stem=stem, cuts=cuts, form=outline(example))


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export's remarks and printed graphs are nothing that a caller can act on; what went wrong comes in the exception."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def _export(model: nn.Module, example: Inputs, layers: Sequence[str], score: Callable[[Any], Tensor] | None) -> fx.GraphModule:
    wrapped, tensors = _ToLogits(model, example, score).eval(), tensors_of(example)
    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            stack.enter_context(change(model, layer, functools.partial(tap, number=number)))
        stack.enter_context(_quiet())
        try:
            batch = torch.export.Dim("batch", min=2, max=LARGEST_BATCH)
            program = torch.export.export(wrapped, (tensors,), strict=False, dynamic_shapes=([{0: batch}] * len(tensors),))
            return functional(program)
        except LayerError:
            raise
        except Exception as error:  # torch.export raises whatever the model's code makes it raise
            raise Unsupported(f"torch.export failed: {first_line(error)}") from error


class _Cutter:
    """Cuts tails out of one exported graph, remembering what depends on the images."""

    def __init__(self, graph_module: fx.GraphModule, inputs: Sequence[fx.Node]) -> None:
        self.graph_module = graph_module
        self.data = set().union(*map(_reachable, inputs))
        self.batch = inputs[0].meta["val"].shape[0]

    def cut(self, start: fx.Node | None, layer: str) -> tuple[fx.GraphModule, list[fx.Node]]:
        """The tail after a tap, and the nodes that it needs beside the activation."""
        after = _reachable(start) if start is not None else set()
        if start is None or not any(node.op == "output" for node in after):
            raise no_path(layer)
        graph = fx.Graph()
        new: dict[fx.Node, fx.Node] = {start: graph.placeholder("activation")}
        sides = self._sides(start, after)
        for number, node in enumerate(sides):
            new[node] = graph.placeholder(f"side_{number}")
        for node in self.graph_module.graph.nodes:
            if node in after and node is not start:
                if node.op == "output":
                    graph.output(fx.node.map_arg(node.args[0], lambda n: self._copied(n, graph, new, start))[0])
                else:
                    self._copied(node, graph, new, start)
        return _detached(fx.GraphModule(self.graph_module, graph)), sides

    def rows(self, node: fx.Node) -> int:
        """How many rows of a side input belong to one image."""
        size = node.meta["val"].shape[0] if node.meta["val"].ndim else 0
        ratio = size // self.batch if size is not self.batch else 1
        with contextlib.suppress(Exception):  # a symbolic ratio that is no number
            if int(ratio) >= 1 and int(ratio) * self.batch == size:
                return int(ratio)
        raise Unsupported(f"{node.name} passes the layer by with {size} rows, not a multiple of the batch")

    def _sides(self, start: fx.Node, after: set[fx.Node]) -> list[fx.Node]:
        """What is used after the tap and depends on the images, but not through the tap."""
        needed = dict.fromkeys(node for user in self.graph_module.graph.nodes if user in after and user is not start
                               for node in user.all_input_nodes)
        return [node for node in needed if node in self.data and node not in after and isinstance(node.meta.get("val"), Tensor)]

    def _copied(self, node: fx.Node, graph: fx.Graph, new: dict[fx.Node, fx.Node], start: fx.Node) -> fx.Node:
        """The node in the tail: itself, and first whatever constants and sizes it needs."""
        if node not in new:
            value = node.meta.get("val")
            if isinstance(value, torch.SymInt) and str(value) == str(self.batch):
                new[node] = graph.call_function(torch.ops.aten.sym_size.int, (new[start], 0))
            elif isinstance(value, torch.SymInt) and node.target is torch.ops.aten.sym_size.int:
                raise Unsupported(f"{node.name} is a size that is not the batch ({value})")
            else:
                for needed in node.all_input_nodes:
                    self._copied(needed, graph, new, start)
                new[node] = graph.node_copy(node, lambda n: new[n])
        return new[node]


def _reachable(start: fx.Node) -> set[fx.Node]:
    """A node and everything that depends on it."""
    found, waiting = {start}, [start]
    while waiting:
        for user in waiting.pop().users:
            if user not in found:
                found.add(user)
                waiting.append(user)
    return found


def _stem(graph_module: fx.GraphModule, taps: Sequence[fx.Node], sides: Sequence[fx.Node]) -> fx.GraphModule:
    graph, new = fx.Graph(), dict[fx.Node, fx.Node]()
    logits: Any = graph.graph_copy(graph_module.graph, new)
    graph.output((logits[0], *(new[node] for node in (*taps, *sides))))
    return _detached(fx.GraphModule(graph_module, graph))


def _detached(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Its constants without gradients, sharing the model's memory: only masks are ever differentiated."""
    for name, value in list(graph_module.named_parameters(remove_duplicate=False)):
        path, _, last = name.rpartition(".")
        owner = graph_module.get_submodule(path)
        delattr(owner, last)
        owner.register_buffer(last, value.detach(), persistent=False)
    return graph_module
