"""One spelling for what a captured graph computes: discovery sees data flow alone.

No bit changes, but for the sign of a zero to which 0 is added.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.wrap import wrap_with_set_grad_enabled
from torch.fx import Graph, GraphModule, Node

from resect.graph.ops import ATTENTION, WEIGHT_MIXING, op_name
from resect.graph.spelling import plain_sums

_END = 2**63 - 1  # of a slice that has none
_RESHAPES = {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default}


def canonical(graph: Graph) -> None:
    """Rewrite `graph` in place: no x + 0 or x[:], no equal nodes twice, and views that do not depend on strides."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten._assert_tensor_metadata.default):
        graph.erase_node(node)  # x.to(its own type) leaves one: it would be a second reader of x
    unread = {node for node in graph.nodes if not node.users}
    for node in list(graph.nodes):
        if node.op == "call_function":
            _drop_identity(node)
            _copy_as_its_source(node)
            if node.target in _RESHAPES:  # a view fits the strides of the example's batch size only
                node.target = torch.ops.aten.reshape.default
    plain_sums(graph)
    _merge_equal(graph)
    for node in reversed(list(graph.nodes)):  # who reads a value tells whether it is a partial sum
        if node.op == "call_function" and not node.users and node not in unread:
            graph.erase_node(node)


def keep_stopped_gradients(module: GraphModule) -> None:
    """Detach what a `no_grad` region hands on, in an exported graph: without the region, gradients would flow on."""
    for node in list(module.graph.nodes):
        if node.target is not wrap_with_set_grad_enabled:
            continue
        enabled, region = node.args[0], getattr(module, str(node.args[1].target))
        keep_stopped_gradients(region)
        (output,) = region.graph.find_nodes(op="output")
        for value in output.all_input_nodes if not enabled else ():
            if isinstance(value.meta.get("val"), Tensor) and value.meta["val"].is_floating_point():
                with region.graph.inserting_before(output):
                    stopped = region.graph.call_function(torch.ops.aten.detach.default, (value,))
                stopped.meta = dict(value.meta)
                output.replace_input_with(value, stopped)
        region.recompile()


def _drop_identity(node: Node) -> None:
    """Replace x + 0, with which Python's sum([x, f(x), g(x)]) begins, and x[:] by x."""
    value, *rest = node.args or (None,)
    if not isinstance(value, Node) or node.kwargs:
        return
    if op_name(node) == "slice":
        whole = rest[1:] in ([0, _END], [0, _END, 1], [None, None])
    else:
        whole = op_name(node) == "add" and rest in ([0], [0.0]) and value.meta["val"].dtype == node.meta["val"].dtype
    if whole:
        node.replace_all_uses_with(value)


def _copy_as_its_source(node: Node) -> None:
    """Replace copy(y, x), all of whose values are those of x, and which has no derivative."""
    if op_name(node) != "copy":
        return
    target, source = node.args[:2]
    assert isinstance(source, Node)
    value, given = node.meta["val"], source.meta["val"]
    with node.graph.inserting_before(node):
        if given.dtype != value.dtype or given.device != value.device:
            kind = {"dtype": value.dtype, "device": value.device}
            source = node.graph.call_function(torch.ops.aten._to_copy.default, (source,), kind)
            source.meta = {**node.meta, "val": given.to(value.device, value.dtype)}
        if given.shape != value.shape:
            source = node.graph.call_function(torch.ops.aten.expand_as.default, (source, target))
            source.meta = dict(node.meta)
    node.replace_all_uses_with(source)


def _merge_equal(graph: Graph) -> None:
    """Let relu(x), where it is written twice, be one node: skip and branch then start at one value."""
    first: dict[Hashable, Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or not _pure(node):
            continue
        key = (node.target, _frozen(node.args), _frozen(tuple(sorted(node.kwargs.items()))))
        kept = first.setdefault(key, node)
        if kept is not node:
            node.replace_all_uses_with(kept)
            graph.erase_node(node)


def _pure(node: Node) -> bool:
    """Whether a node computes the same each time, and nothing writes into it; a layer that runs twice stays two."""
    if not any(isinstance(operand.meta.get("val"), Tensor) for operand in node.all_input_nodes):
        return False
    random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    mixes = op_name(node) in WEIGHT_MIXING | ATTENTION
    return not random and not mixes and not any(_writes(user) for user in (node, *node.users))


def _writes(node: Node) -> bool:
    """Whether a node changes one of its operands in place."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _frozen(value: Any) -> Hashable:
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    # 1, 1.0 and True are equal keys, but other arguments
    return (type(value), str(value) if isinstance(value, (float, slice)) else value)
