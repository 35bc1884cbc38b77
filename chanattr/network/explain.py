"""What a mask at a layer means: the layout that was inferred, and the data that passes the layer by, which no mask there cuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from chanattr.network.layers import Layer
from chanattr.network.names import plain_names
from chanattr.network.outputs import Inputs, first_tensor
from chanattr.network.stem import Stem
from chanattr.network.tail import ExportedTail, ReplayTail, Tail

WRAPPED = "model"  # under which name the exported module holds the user's
PREFIX_WORDS = ("cls_token", "class_token", "dist_token", "distillation_token", "reg_token", "register_token", "register_tokens")
OWN_CODE = "the model itself"  # for what arises in no module inside it
MOST_PREFIX = 16  # tokens before the grid's: a class token, distillation, registers


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where an activation has what.

    Attributes:
        name: "NCHW", "NHWC", "tokens [N, L, K]", "[N, K, L]", "vector [N, K]", or the channel axis in words.
        grid: (h, w) of the positions; of tokens the grid that is left without `prefix`, (1, L) where they are no grid.
        prefix: tokens before the grid's.
        prefix_names: parameters that these are, as far as the model names them.
    """

    name: str
    grid: tuple[int, int]
    prefix: int = 0
    prefix_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bypass:
    """Data that passes a layer by.

    Attributes:
        source: the module whose output it is, or in which it arises.
        operation: the last operation that made it, as torch names it.
        whole: whether it is the module's output; else it arises inside.
        shape: for one image.
        bytes: for one image.
    """

    source: str
    operation: str
    whole: bool
    shape: tuple[int, ...]
    bytes: int


def layout_of(model: nn.Module, layer: Layer, example: Inputs) -> Layout:
    """The layout of a layer's activation, in words and numbers.

    Args:
        model: whose parameters may name the tokens before the grid.
        layer: as found.
        example: tells the images' height and width, which tokens are a grid of.
    """
    axes, axis = len(layer.shape), layer.channel_axis
    if axes == 3 and axis == 2:
        prefix, grid = _token_grid(layer.shape[1], first_tensor(example))
        return Layout(name="tokens [N, L, K]", grid=grid, prefix=prefix, prefix_names=_token_names(model, layer.channels, prefix))
    names = {(2, 1): "vector [N, K]", (3, 1): "[N, K, L]", (4, 1): "NCHW", (4, 3): "NHWC"}
    return Layout(name=names.get((axes, axis), f"channels along axis {axis} of {axes}"), grid=layer.grid)


def bypasses_of(model: nn.Module, tail: Tail, stem: Stem) -> tuple[Bypass, ...]:
    """What is kept beside the layer's activation because the rest of the network needs it too, in the order of its use.

    Nothing is known of it where the whole network runs again.

    Args:
        model: gives modules the names that its user knows.
        tail: of the layer.
        stem: of some images.
    """
    nodes, answers, plain = _side_nodes(tail), _answers(tail), plain_names(model)
    found = []
    for number, side in enumerate(stem.sides):
        source, operation, whole = _origin(nodes[number], plain) if nodes else (answers.get(number, f"value {number + 1}"), "", True)
        shape = tuple(side.shape[2:]) if side.shape[1:2] == (1,) else tuple(side.shape[1:])
        found.append(Bypass(source=source, operation=operation, whole=whole, shape=shape, bytes=row_bytes(side)))
    return tuple(found)


def kept_bytes(stem: Stem) -> int:
    """Bytes of one image that are kept for the search: the activation, what passes by, and the images where they run again."""
    again = first_tensor(stem.images)
    return sum(map(row_bytes, (stem.activation, *stem.sides, *(() if again is None else (again,)))))


def row_bytes(values: Tensor) -> int:
    """Bytes of one row."""
    return values[0].numel() * values.element_size()


def _token_grid(length: int, images: Tensor | None) -> tuple[int, tuple[int, int]]:
    """(tokens before the grid, grid): the fewest that leave a grid of whole patches of the images; else (0, (1, L))."""
    high, wide = images.shape[-2:] if images is not None and images.ndim == 4 else (1, 1)
    grids = {high // side * (wide // side): (high // side, wide // side)
             for side in range(min(high, wide), 0, -1) if high % side == wide % side == 0}
    for prefix in range(min(MOST_PREFIX, length - 1) + 1):
        if length - prefix > 1 and length - prefix in grids:
            return prefix, grids[length - prefix]
    return 0, (1, length)


def _token_names(model: nn.Module, channels: int, prefix: int) -> tuple[str, ...]:
    """Parameters that are the tokens before the grid, if those that are named so are as many."""
    plain = plain_names(model)
    found, count = [], 0
    for name, parameter in model.named_parameters():
        owner, _, last = name.rpartition(".")
        if last in PREFIX_WORDS and parameter.ndim == 3 and parameter.shape[-1] == channels and parameter.shape[1]:
            found.append(f"{plain.get(owner, owner)}.{last}".removeprefix("."))
            count += parameter.shape[1]
    return tuple(found) if count == prefix else ()


def _side_nodes(tail: Tail) -> list[fx.Node]:
    """The nodes of the exported network whose values are the tail's side inputs; none for other ways."""
    if not isinstance(tail, ExportedTail):
        return []
    cuts = tail.graphs.cuts
    given: Any = next(node for node in tail.graphs.stem.graph.nodes if node.op == "output").args[0]
    return [given[1 + len(cuts) + position] for position, _ in cuts[tail.number].sides]


def _answers(tail: Tail) -> dict[int, str]:
    """Of a replayed model, the module that gives each kept value, by the value's place."""
    steps = tail.plan.steps if isinstance(tail, ReplayTail) else ()
    return {place: step.module for step in steps for place in step.places if place >= 0}


def _origin(node: fx.Node, plain: Mapping[str, str]) -> tuple[str, str, bool]:
    """(module, operation, whether it is the module's output) of a value, by the calls of modules that it and its users are in.

    The outermost module call that the value leaves is the one whose output it is.
    """
    if node.op == "placeholder":
        return "the images", "", True
    operation = str(node.target).split(".")[1] if "." in str(node.target) else str(node.target)
    stack = _calls(node)
    users = [_calls(user) for user in node.users]
    left = next((key for key in stack if all(key not in user for user in users)), None)
    key = left if left is not None else next(reversed(stack), "")
    return _shown(node, key, stack.get(key, ""), plain) or OWN_CODE, operation, left is not None


def _calls(node: fx.Node) -> dict[str, str]:
    """The module calls that a value was made in, outermost first: the exporter's key of the call to the module's name; not the model's."""
    stack = node.meta.get("nn_module_stack") or {}
    names = {str(key): str(path) for key, (path, _) in stack.items()}
    return {key: path.removeprefix(f"{WRAPPED}.") for key, path in names.items() if path not in ("", WRAPPED)}


def _shown(node: fx.Node, key: str, path: str, plain: Mapping[str, str]) -> str:
    """A module's name as its user knows it, with the call where it fires more than once."""
    keys = list(dict.fromkeys(call for other in node.graph.nodes for call, name in _calls(other).items() if name == path))
    name = plain.get(path, path)
    return f"{name}@{keys.index(key) + 1}" if len(keys) > 1 else name
