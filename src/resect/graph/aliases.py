"""Which values of an exported graph share memory."""

from __future__ import annotations

import torch
from torch._ops import OpOverload
from torch.fx import Graph, Node

from resect.graph.ops import NORMS, POOLS, WEIGHT_MIXING, op_name

# Composite operators that never return an operand; any other may, where there is nothing to compute.
_NEW = (WEIGHT_MIXING | NORMS | POOLS) - {"einsum"}


class Aliases:
    """The groups of values of a graph that may share memory."""

    def __init__(self, graph: Graph) -> None:
        self._at = {node: number for number, node in enumerate(graph.nodes)}
        self._groups: dict[Node, set[Node]] = {}
        for node in graph.nodes:
            group = {node}
            for operand in _shared(node):
                group |= self._groups[operand]
            self._groups.update(dict.fromkeys(group, group))

    def others_read(self, writer: Node, same: set[Node]) -> bool:
        """Whether what `writer` writes is seen elsewhere: by an input, or by one who reads an older view later.

        Args:
            same: the values that are known to be the one that is written.
        """
        now = self._at[writer]
        older = [node for node in self._groups[writer] if self._at[node] < now]
        return any(
            node.op != "call_function" or (node not in same and any(self._at[user] >= now for user in node.users))
            for node in older
        )


def is_composite(target: OpOverload) -> bool:
    """Whether an operator is defined by others, which torch may put in its place."""
    composite: bool = target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    return composite


def hands_on(target: OpOverload) -> bool:
    """Whether the results of an operator may be views of an operand, by its schema."""
    return any(result.alias_info is not None for result in target._schema.returns)


def _shared(node: Node) -> list[Node]:
    """The operands that may share memory with the value of a node."""
    target = node.target
    if target is torch.ops.aten.sym_size.int:
        return []
    if not isinstance(target, OpOverload) or (is_composite(target) and op_name(node) not in _NEW):
        return node.all_input_nodes
    places = zip(node.args, target._schema.arguments, strict=False)
    return [value for value, place in places if isinstance(value, Node) and hands_on(target) and place.alias_info]
