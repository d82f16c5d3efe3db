"""The parameters that a branch ends in: scaling them scales the whole branch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch.fx import Node

from resect.graph.ops import NORMS, POOLS, VIEWS, WEIGHT_MIXING, is_float, op_name
from resect.graph.slices import Sliced, Slot


def tail_parameters(sliced: Sliced, slot: Slot) -> tuple[str, ...]:
    """Names of the parameters whose product with p makes the branch of `slot` p times as large, and changes nothing
    else; empty if there are none (the branch ends in a non-linearity, or in weights that are used elsewhere, too)."""
    parameters = dict(sliced.captured.model.named_parameters(remove_duplicate=False))
    homes = Counter(id(parameter) for parameter in parameters.values())
    names = {node: name for node, name in sliced.captured.parameters.items() if name in parameters}
    found = _ends(slot.branch, names)
    if found is None or any(len(node.users) > 1 or homes[id(parameters[names[node]])] > 1 for node in found):
        return ()
    return tuple(names[node] for node in found)


def _ends(node: Node, names: Mapping[Node, str]) -> list[Node] | None:
    """The parameters that scale the value of `node`, None if no scaling does."""
    own = [_bare(operand) for operand in node.all_input_nodes if _bare(operand) in names]
    signals = [operand for operand in node.all_input_nodes if _bare(operand) not in names and is_float(operand)]
    name = op_name(node)
    if name in WEIGHT_MIXING | NORMS:
        return own or None
    if name == "mul":
        return own or next((found for signal in signals if (found := _ends(signal, names))), None)
    if name in ("add", "sub"):
        terms = [_ends(signal, names) for signal in signals]
        if len(signals) + len(own) < 2 or None in terms:  # a number that is added cannot be scaled
            return None
        return own + [parameter for term in terms for parameter in term or []]
    if name in VIEWS | POOLS | {"gate"}:
        tuples = [operand for operand in node.all_input_nodes if isinstance(operand.meta.get("val"), (tuple, list))]
        return _ends([*signals, *tuples][0], names) if signals or tuples else None
    return None


def _bare(node: Node) -> Node:
    """What `node` is a view of."""
    while op_name(node) in ("t", "permute", "transpose", "view", "_to_copy", "unsqueeze") and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node
