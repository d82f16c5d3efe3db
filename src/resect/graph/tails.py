"""The parameters that a branch ends in: scaling them scales the whole branch."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch.fx import Node

from resect.graph.ops import NORMS, VIEWS, WEIGHT_MIXING, is_float, op_name
from resect.graph.owned import parameters_of, read_once
from resect.graph.slices import Sliced
from resect.graph.slots import Slot

_BILINEAR = frozenset({"mul", "matmul", "mm", "bmm", "einsum"})  # one operand is scaled, and so is the product


def tail_parameters(sliced: Sliced, slot: Slot) -> tuple[str, ...]:
    """Names of the parameters whose product with p makes the branch of `slot` p times as large, and changes nothing
    else; empty if there are none (the branch ends in a non-linearity, or in values or weights that are used elsewhere,
    too)."""
    ends = _ends(slot.join.branch, parameters_of(sliced))
    if ends is None or not read_once(sliced).issuperset(ends):
        return ()
    return tuple(sliced.captured.parameters[node] for node in ends)


def _ends(node: Node, parameters: Collection[Node]) -> list[Node] | None:
    """The parameters that scale the value of `node`, which nothing else reads; None if no scaling does just that."""
    if len(node.users) > 1 and not isinstance(node.meta.get("val"), (tuple, list)):
        return None
    own = [_bare(operand) for operand in node.all_input_nodes if _bare(operand) in parameters]
    others = [operand for operand in node.all_input_nodes if _bare(operand) not in parameters and is_float(operand)]
    name = op_name(node)
    if name in _BILINEAR and len(node.all_input_nodes) == 2:
        return own if len(own) == 1 else next((ends for other in others if (ends := _ends(other, parameters))), None)
    if name in WEIGHT_MIXING:  # a weight that is computed is an operand, too, and does not scale with the bias
        return own if len(others) == 1 and _has_weight(node, parameters) else None
    if name in NORMS:
        return own if _has_weight(node, parameters) else None
    if name in ("add", "sub") and len(own) + len(others) == 2:  # a number that is added cannot be scaled
        terms = [_ends(other, parameters) for other in others]
        if None in terms:
            return None
        return own + [parameter for term in terms for parameter in term or []]
    if name in VIEWS | {"gate"} and len(node.all_input_nodes) >= 1:
        source = node.all_input_nodes[0]
        if name == "getitem" and op_name(source) not in NORMS | {"native_dropout"}:  # other chunks would be scaled, too
            return None
        return _ends(source, parameters)
    return None


def _has_weight(node: Node, parameters: Collection[Node]) -> bool:
    """Whether the operand that multiplies, in the place of `weight` in the operator's signature, is a parameter."""
    assert isinstance(node.target, torch._ops.OpOverload)
    places = [argument.name for argument in node.target._schema.arguments]
    wanted = next((place for place in ("weight", "mat2") if place in places), None)
    if wanted is None:
        return False
    index = places.index(wanted)
    weight = node.args[index] if index < len(node.args) else node.kwargs.get(wanted)
    return isinstance(weight, Node) and _bare(weight) in parameters


def _bare(node: Node) -> Node:
    """What `node` is a view of."""
    while op_name(node) in ("t", "permute", "transpose", "view", "_to_copy", "unsqueeze") and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node
