"""Make the exported graph of a model in eval mode functional: no operator writes into a value that another reads.

torch does so by tracing the graph again, which takes longer than the export itself. But an eval graph holds few kinds
of nodes that need it, which are rewritten here one by one; a graph that holds any other is left to torch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from itertools import chain
from math import prod
from typing import Any

import torch
from torch._higher_order_ops.wrap import wrap_with_set_grad_enabled
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node, map_arg

from resect.graph.aliases import Aliases, hands_on, is_composite
from resect.graph.ops import free_shape, op_name

_ATEN = torch.ops.aten
_VIEWS = frozenset("reshape flatten unflatten chunk".split())  # composite ones that discovery knows
_READ_VALUES = frozenset({"item", "_local_scalar_dense"})  # as Python numbers, which torch refuses or follows
_SIZES = (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)
Now = dict[Node, Any]  # what stands for the value of a node of the old graph: a node of the new one


class _LeftToTorchError(Exception):
    """A graph holds a node that is not rewritten here."""


def functional(exported: ExportedProgram) -> ExportedProgram:
    """The same program of operators that write nowhere; outputs keep their bits. `exported` is used up."""
    try:
        exported.graph_module.graph = _rewritten(exported.graph_module)
    except _LeftToTorchError:
        functional_by_torch: ExportedProgram = exported.run_decompositions({})
        return functional_by_torch
    return exported


def _rewritten(module: GraphModule) -> Graph:
    graph, now = Graph(), Now()
    for node in module.graph.find_nodes(op="placeholder"):
        if hasattr(type(node.meta.get("val")), "__tensor_flatten__"):  # of several tensors, which torch takes apart
            raise _LeftToTorchError
        now[node] = graph.node_copy(node)
    graph.output(_followed(module, now, graph)).meta = dict(module.graph.output_node().meta)
    graph.eliminate_dead_code()
    return graph


def _followed(module: GraphModule, now: Now, graph: Graph) -> Any:
    """Add what a graph with the inputs `now` computes to `graph`; its outputs."""
    aliases = Aliases(module.graph)
    for node in module.graph.nodes:
        target = node.target
        if node.op == "output":
            return _read(node.args[0], now)
        if node.op == "get_attr" and all(user.target is wrap_with_set_grad_enabled for user in node.users):
            continue
        if target is wrap_with_set_grad_enabled:
            region = getattr(module, node.args[1].target)
            inputs = zip(region.graph.find_nodes(op="placeholder"), _read(node.args[2:], now), strict=True)
            now[node] = _followed(region, dict(inputs), graph)
        elif target is operator.getitem and not isinstance(now[node.args[0]], Node):  # of such a region
            now[node] = now[node.args[0]][node.args[1]]
        elif node.op == "call_function":
            now[node] = _one(node, now, aliases, graph)
        elif node.op != "placeholder":
            break
    raise _LeftToTorchError


def _one(node: Node, now: Now, aliases: Aliases, graph: Graph) -> Any:
    """What stands for the value of a node that calls an operator."""
    target, name = node.target, op_name(node)
    rule = _RULES.get(name)
    if rule is not None:
        return rule(node, now, graph)
    if isinstance(target, HigherOrderOperator):
        raise _LeftToTorchError
    if isinstance(target, OpOverload):
        if target._schema.is_mutable:
            return _without_writing(node, now, aliases, graph)
        if name in _READ_VALUES or (is_composite(target) and hands_on(target) and name not in _VIEWS):
            raise _LeftToTorchError
    elif target is not operator.getitem and not isinstance(node.meta.get("val"), _SIZES):  # a state of torch.vmap
        raise _LeftToTorchError
    return graph.node_copy(node, now.__getitem__)


def _without_writing(node: Node, now: Now, aliases: Aliases, graph: Graph) -> Node:
    """The operator that returns what this one writes into its first operand; all later readers read that."""
    target, written = node.target, node.args[0] if node.args else None
    if not isinstance(written, Node) or not isinstance(target, OpOverload):
        raise _LeftToTorchError
    same = {other for other in now if now[other] is now[written]} | {node}
    plain = _that_returns(target)
    if plain is None or aliases.others_read(node, same) or not _gives(plain, node):
        raise _LeftToTorchError
    new = graph.call_function(plain, *_read((node.args, node.kwargs), now))
    new.meta = dict(node.meta)
    now.update(dict.fromkeys(same, new))
    return new


def _that_returns(target: OpOverload) -> OpOverload | None:
    """add.Tensor for add_.Tensor; None if there is none, or it is random or changes a shape in place."""
    name = target._schema.name.removeprefix("aten::")
    packet = getattr(_ATEN, name.removesuffix("_"), None) if name.endswith("_") else None
    known = packet is not None and target.namespace == "aten" and target._overloadname in packet.overloads()
    if not known or {torch.Tag.inplace_view, torch.Tag.nondeterministic_seeded} & set(target.tags):
        return None
    plain: OpOverload = getattr(packet, target._overloadname)
    return plain


def _gives(plain: OpOverload, node: Node) -> bool:
    """Whether an operator gives what `node` keeps by writing: y.gt_(0) stays of floats, gt(y, 0) does not."""
    args, kwargs = map_arg((node.args, node.kwargs), lambda operand: operand.meta["val"])
    value = node.meta["val"]
    with value.fake_mode:
        given = plain(*args, **kwargs)
    return bool(given.dtype == value.dtype and given.shape == value.shape)


def _in_place_of(node: Node, graph: Graph, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Node:
    new = graph.call_function(target, args, dict(kwargs))
    new.meta = dict(node.meta)
    return new


def _dropout(node: Node, now: Now, graph: Graph) -> Any:
    value, _, train = node.args
    if train:
        raise _LeftToTorchError
    return now[value]  # type: ignore[index]  # a node


def _batch_norm(node: Node, now: Now, graph: Graph) -> Node:
    *tensors, training, momentum, eps, _ = _read(node.args, now)
    if training or node.kwargs:
        raise _LeftToTorchError
    value = node.meta["val"]
    if value.device.type == "cuda":
        # the model runs cuDNN's kernel, which has other last bits; an export hides it
        return _in_place_of(node, graph, _ATEN.batch_norm.default, (*tensors, False, momentum, eps, True), {})
    norm = _in_place_of(node, graph, _ATEN._native_batch_norm_legit_no_training.default, (*tensors, momentum, eps), {})
    norm.meta["val"] = (value, value.new_empty(0), value.new_empty(0))
    return _in_place_of(node, graph, operator.getitem, (norm, 0), {})


def _to(node: Node, now: Now, graph: Graph) -> Any:
    """A value of another type or on another device, itself where it is of that already."""
    operand = node.args[0]
    assert isinstance(operand, Node) and isinstance(node.target, OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    if given.get("copy") or given.get("memory_format") is not None:
        raise _LeftToTorchError
    before, value = operand.meta["val"], node.meta["val"]
    kind = {"dtype": value.dtype} if value.dtype != before.dtype else {}
    kind |= {"device": value.device} if value.device != before.device else {}
    return _in_place_of(node, graph, _ATEN._to_copy.default, (now[operand],), kind) if kind else now[operand]


def _contiguous(node: Node, now: Now, graph: Graph) -> Any:
    operand = node.args[0]
    assert isinstance(operand, Node)
    if len(node.args) > 1 or node.kwargs:
        raise _LeftToTorchError
    if _lies_in_order(operand):
        return now[operand]
    layout = {"memory_format": torch.contiguous_format}
    return _in_place_of(node, graph, _ATEN.clone.default, (now[operand],), layout)


def _lies_in_order(node: Node) -> bool:
    """Whether a tensor is contiguous at all its sizes."""
    sizes = free_shape(node)
    strides = [step if isinstance(step, int) else step.node.expr for step in node.meta["val"].stride()]
    return all(
        size == 1 or step == prod(sizes[at + 1 :]) for at, (size, step) in enumerate(zip(sizes, strides, strict=True))
    )


def _copied_constant(node: Node, now: Now, graph: Graph) -> Node:
    return _in_place_of(node, graph, _ATEN.clone.default, _read(node.args, now), {})


def _detached_constant(node: Node, now: Now, graph: Graph) -> Any:
    operand = node.args[0]
    if not isinstance(operand, Node) or op_name(operand) != "lift_fresh_copy":
        raise _LeftToTorchError
    return now[operand]


def _read(values: Any, now: Now) -> Any:
    """Arguments of a node of the old graph, for one of the new."""
    return map_arg(values, now.__getitem__)


_RULES: Mapping[str, Callable[[Node, Now, Graph], Any]] = {
    **dict.fromkeys(
        chain.from_iterable((name, f"{name}_") for name in ("dropout", "feature_dropout", "alpha_dropout")), _dropout
    ),
    "batch_norm": _batch_norm,
    "to": _to,
    "type_as": _to,
    "contiguous": _contiguous,
    "lift_fresh_copy": _copied_constant,
    "detach_": _detached_constant,
}
