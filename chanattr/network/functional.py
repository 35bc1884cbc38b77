"""An exported graph without operators that overwrite: rewritten here where that plainly is the same, by torch's own pass elsewhere."""

from __future__ import annotations

import inspect

import torch
from torch import fx
from torch.export import ExportedProgram

ATEN = torch.ops.aten
PLAIN = ("_operator", "math", "torch")  # modules of functions on sizes
DROPOUTS = (ATEN.dropout_.default, ATEN.feature_dropout_.default, ATEN.alpha_dropout_.default, ATEN.feature_alpha_dropout_.default)
# In place of their first argument, with the numbers that the same name without the underscore gives, where all are of one type.
IN_PLACE = ("relu_", "hardtanh_", "leaky_relu_", "elu_", "silu_", "hardswish_", "hardsigmoid_", "sigmoid_", "tanh_", "clamp_", "clamp_min_",
            "clamp_max_", "add_", "sub_", "mul_", "div_")
# Composites of other operators that never give their own input back; of the other composites nobody says so.
FRESH = ("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "batch_norm", "layer_norm", "group_norm", "instance_norm",
         "max_pool2d", "adaptive_avg_pool2d")
COMPOSITE = "CompositeImplicitAutograd"


def functional(program: ExportedProgram) -> fx.GraphModule:
    """The graph of a program, in which nothing is written to: what is kept beside a cut stays what it was.

    torch's own pass traces the program a second time, which takes twice as long as the first. A graph whose only operators in place
    work on fresh values that nothing else reads (a rectifier after a batch norm, the sum of a residual block) needs none of that.
    """
    graph_module = _unguarded(program)
    return graph_module if _rewritten(graph_module.graph) else _unguarded(program.run_decompositions({}))


def _unguarded(program: ExportedProgram) -> fx.GraphModule:
    """The program's graph without checks of the example's shapes, which newer torch adds and the cut would have to drop."""
    known = inspect.signature(program.module).parameters
    return program.module(**({"check_guards": False} if "check_guards" in known else {}))


def _rewritten(graph: fx.Graph) -> bool:
    """Puts each operator in place as the one that gives a new value; whether none is left, nor anything else than plain operators."""
    for node in list(graph.nodes):
        if node.op in ("placeholder", "get_attr", "output"):
            continue
        if not _is_plain(node):
            return False
        if node.target in DROPOUTS and node.args[2] is False:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            name = node.target._schema.name.removeprefix("aten::")
            if name not in IN_PLACE or not _is_its_own(node.args[0]) or len({_dtype(value) for value in node.all_input_nodes}) > 1:
                return False
            node.target = getattr(getattr(ATEN, name[:-1]), node.target._overloadname)
    return True


def _is_plain(node: fx.Node) -> bool:
    """Whether a node is one operator, or a sum on sizes: no nested graph, no switch of gradients or precision."""
    if isinstance(node.target, torch._ops.OpOverload):
        return True
    return node.op == "call_function" and getattr(node.target, "__module__", "") in PLAIN and not isinstance(
        node.target, torch._ops.HigherOrderOperator)


def _dtype(node: fx.Node) -> torch.dtype | None:
    """The type of a tensor; None of a size."""
    return getattr(node.meta.get("val"), "dtype", None)


def _is_its_own(value: object) -> bool:
    """Whether a value was made by an operator that gives no view of another, and has no other reader: nobody sees it overwritten."""
    if not isinstance(value, fx.Node) or len(value.users) > 1 or not isinstance(value.target, torch._ops.OpOverload):
        return False
    operator = value.target
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), COMPOSITE)
    name = operator._schema.name.removeprefix("aten::")
    fresh = name in FRESH if composite else name != "_unsafe_view"  # a view that does not say so
    return fresh and not any(result.alias_info for result in operator._schema.returns)
