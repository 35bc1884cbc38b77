"""Rewrites a tail's graph: batch norms and paddings folded into what is before and after them, and lower precision up to the last sums."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

ATEN = torch.ops.aten
CONVOLUTIONS = (ATEN.conv1d.default, ATEN.conv2d.default, ATEN.conv3d.default)
NORMS = (ATEN._native_batch_norm_legit_no_training.default, ATEN.batch_norm.default)
PRODUCTS = (ATEN.linear.default, ATEN.addmm.default, ATEN.mm.default, ATEN.matmul.default)
ATTENTION = (ATEN.scaled_dot_product_attention.default,)  # around which CPUs copy bfloat16 slowly
VIEWS = (ATEN.view.default, ATEN._unsafe_view.default)
# What gives in a lower precision exactly what it gives in a higher one, of the same numbers.
EXACT = (ATEN.relu.default, ATEN.hardtanh.default, ATEN.max_pool2d.default, ATEN.max_pool3d.default, ATEN.cat.default, ATEN.clone.default,
         ATEN.reshape.default, ATEN.permute.default, ATEN.pad.default, ATEN.slice.Tensor, ATEN.select.int, ATEN.squeeze.dims,
         ATEN.unsqueeze.default, ATEN.expand.default, ATEN.dropout.default, ATEN.flatten.using_ints, ATEN.contiguous.default,
         operator.getitem)


def folded(tail: fx.GraphModule) -> fx.GraphModule:
    """A copy without batch norms after convolutions and linear maps, and without paddings before convolutions, where that is exact.

    A convolution whose output is used elsewhere too stays as it is. What is not rewritten shares the constants of the graph given.
    """
    copy = fx.GraphModule(tail, _copied(tail))
    for node in list(copy.graph.nodes):
        if node.target in VIEWS:
            node.target = ATEN.reshape.default  # in another memory format a view may need a copy
        elif node.target in NORMS:
            _fold_norm(copy, node)
        elif node.target is ATEN.pad.default:
            _fold_padding(node)
    return _cleaned(copy)


def lowered(tail: fx.GraphModule, dtype: torch.dtype, memory_format: torch.memory_format, inputs: Sequence[Tensor], *,
            grouped_wide: bool = False) -> fx.GraphModule:
    """A copy that computes in `dtype` from inputs of it, with kernels in a memory format; in a low precision but for its last sums.

    Logits in bfloat16 would have steps of 1/256 of their size, in which masks cannot be told apart. So the last linear map, the pooling
    before it, and all that follows the last convolution and is not exact in any precision stays in float32. `inputs` tell which of the
    graph's are floating; `grouped_wide` leaves convolutions in groups in float32 too.
    """
    copy = fx.GraphModule(tail, _copied(tail))
    for node, given in zip((node for node in copy.graph.nodes if node.op == "placeholder"), inputs, strict=True):
        node.meta["val"] = torch.empty(0, dtype=given.dtype, device="meta")
    late = _late(copy) if dtype != torch.float32 else set()
    wide = late | {node for node in copy.graph.nodes if dtype != torch.float32 and grouped_wide and is_grouped(node)}
    for node in list(copy.graph.nodes):
        if node.op in ("placeholder", "get_attr"):
            continue
        for need in list(node.all_input_nodes):
            if need.op == "get_attr":
                kind = torch.float32 if node in wide or node.target in NORMS else dtype  # norms take what they give in any precision
                values = _value(copy, need)
                values = values.to(kind) if values.is_floating_point() else values
                if values.ndim == 4 and node.target in CONVOLUTIONS:
                    values = values.contiguous(memory_format=memory_format)
                node.replace_input_with(need, _new_constant(copy, values, node))
            elif (node in wide) != (need in wide) and _is_floating(need):
                with copy.graph.inserting_before(node):
                    cast = copy.graph.call_function(ATEN._to_copy.default, (need,), {"dtype": torch.float32 if node in wide else dtype})
                node.replace_input_with(need, cast)
    return _cleaned(copy)


def is_grouped(node: fx.Node) -> bool:
    """Whether a node is a convolution in groups, whose backward pass CPUs run slower in bfloat16 than in float32."""
    return node.target in CONVOLUTIONS and len(node.args) > 6 and bool(node.args[6] != 1)


def has(tail: fx.GraphModule, operations: Sequence[Any]) -> bool:
    """Whether a graph has one of some operations."""
    return any(node.target in operations for node in tail.graph.nodes)


def _copied(tail: fx.GraphModule) -> fx.Graph:
    graph = fx.Graph()
    graph.output(graph.graph_copy(tail.graph, {}))
    return graph


def _cleaned(module: fx.GraphModule) -> fx.GraphModule:
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _new_constant(module: fx.GraphModule, values: Tensor, user: fx.Node) -> fx.Node:
    """A constant, read before its user."""
    number = sum(1 for _ in module.buffers())
    while hasattr(module, name := f"folded_{number}"):
        number += 1
    module.register_buffer(name, values, persistent=False)
    with module.graph.inserting_before(user):
        return module.graph.get_attr(name)


def _value(module: fx.GraphModule, node: fx.Node) -> Tensor:
    return operator.attrgetter(str(node.target))(module)  # type: ignore[no-any-return]


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_constant(node: Any) -> bool:
    return node is None or (isinstance(node, fx.Node) and node.op == "get_attr")


def _fold_norm(module: fx.GraphModule, norm: fx.Node) -> None:
    """A batch norm in eval mode into the convolution or linear map before it, if nothing else uses what that gives."""
    args: tuple[Any, ...] = norm.args
    before, weight, bias, mean, var = args[:5]
    training, eps = (False, args[6]) if norm.target is NORMS[0] else (args[5], args[7])
    if not isinstance(before, fx.Node) or len(before.users) > 1 or training or mean is None or var is None:
        return
    linear = before.target is ATEN.linear.default and getattr(before.meta.get("val"), "ndim", 0) == 2
    if not (linear or before.target in CONVOLUTIONS):
        return
    constants = (before.args[1], before.args[2] if len(before.args) > 2 else None, weight, bias, mean, var)
    if not all(map(_is_constant, constants)):
        return
    values: list[Any] = [_value(module, node) if isinstance(node, fx.Node) else None for node in constants]
    kernel, shift = (_new_constant(module, new, before) for new in _scaled(*values, eps=float(eps)))
    with module.graph.inserting_before(before):
        joined = module.graph.create_node("call_function", before.target, (before.args[0], kernel, shift, *before.args[3:]), before.kwargs)
    joined.meta = dict(before.meta)
    outputs = [norm] if norm.target is NORMS[1] else [user for user in norm.users if user.args[1] == 0]
    for output in outputs:
        output.replace_all_uses_with(joined)


def _scaled(kernel: Tensor, shift: Tensor | None, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, *,
            eps: float) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a map followed by a batch norm, worked out in float64."""
    scale = (var.double() + eps).rsqrt() * (1 if weight is None else weight.double())
    start = torch.zeros_like(mean, dtype=torch.float64) if shift is None else shift.double()
    moved = (start - mean.double()) * scale + (0 if bias is None else bias.double())
    return (kernel.double() * scale.reshape(-1, *[1] * (kernel.ndim - 1))).to(kernel.dtype), moved.to(kernel.dtype)


def _fold_padding(padding: fx.Node) -> None:
    """Zeros added alike on both sides of every axis, into the convolutions that are the only users."""
    given: tuple[Any, ...] = padding.args
    before, sizes, mode, value = given + ("constant", None)[len(given) - 2:]
    if mode != "constant" or value or not all(isinstance(size, int) and size >= 0 for size in sizes) or sizes[::2] != sizes[1::2]:
        return
    added = sizes[::2][::-1]
    if any(user.target not in CONVOLUTIONS or user.args[0] is not padding or len(added) != _axes(user) for user in padding.users):
        return
    for user in list(padding.users):
        args: list[Any] = [*user.args, *(None, [1], [0])[len(user.args) - 2:]] if len(user.args) < 5 else list(user.args)
        inner = list(args[4]) * (_axes(user) if len(args[4]) == 1 else 1)
        args[0], args[4] = before, [own + more for own, more in zip(inner, added, strict=True)]
        user.args = tuple(args)


def _axes(convolution: fx.Node) -> int:
    return 1 + CONVOLUTIONS.index(convolution.target)


def _late(module: fx.GraphModule) -> set[fx.Node]:
    """The nodes that stay in float32: back from the output to the first convolution or the second linear map, but for what is exact."""
    output = next(node for node in module.graph.nodes if node.op == "output")
    late: set[fx.Node] = {output}
    waiting = [(node, False) for node in output.all_input_nodes]
    while waiting:
        node, passed = waiting.pop()
        product = node.target in PRODUCTS
        if node in late or node.op != "call_function" or node.target in CONVOLUTIONS or (product and passed):
            continue
        late.add(node)
        waiting.extend((need, passed or product) for need in node.all_input_nodes)
    for node in reversed(module.graph.nodes):
        if any(user not in late for user in node.users):  # a residual block before the last one
            late.discard(node)
    for node in module.graph.nodes:
        if node in late and node.target in EXACT and not any(need in late for need in node.all_input_nodes):
            late.discard(node)
    return late


def work(tail: fx.GraphModule) -> int:
    """Multiplications of an image in the convolutions and linear maps that a lower precision would speed."""
    late = _late(tail)
    total = 0
    for node in tail.graph.nodes:
        kernels = [need for need in node.all_input_nodes if need.op == "get_attr"]
        value = node.meta.get("val")
        if node not in late and (node.target in CONVOLUTIONS or node.target in PRODUCTS) and kernels and isinstance(value, Tensor):
            sizes = [size for size in value.shape[1:] if isinstance(size, int)]
            kernel = max((_value(tail, need) for need in kernels), key=Tensor.numel)
            total += math.prod(sizes) * kernel[0].numel()
    return total
