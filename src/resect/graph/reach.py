"""Who depends on whom in a captured graph, as bit sets over the topological order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_

from torch.fx import Node

from resect.graph.capture import Capture
from resect.graph.ops import ATTENTION, NORMS, PRODUCTS, SHAPE_ONLY, WEIGHT_MIXING, op_name


@dataclass(frozen=True)
class Reach:
    """Ancestor and descendant sets. Bit i stands for `order[i]`; no set holds its own node.

    Attributes:
        dependent: nodes whose values depend on the values (not only the shapes) of the model's inputs.
        weighted: nodes made of parameters and constants alone, at least one of them a parameter.
    """

    order: tuple[Node, ...]
    index: dict[Node, int]
    ancestors: tuple[int, ...]
    descendants: tuple[int, ...]
    dependent: int
    weighted: int

    @classmethod
    def of(cls, captured: Capture) -> Reach:
        """Compute all sets of a capture in one pass each way."""
        inputs = [entry.node for entry in captured.inputs if entry]
        order = (*captured.parameters, *captured.constants, *inputs, *captured.nodes)
        index = {node: i for i, node in enumerate(order)}
        operands = [[index[o] for o in _operands(n) if o in index] for n in order]
        ancestors = [0] * len(order)
        dependent = sum(1 << index[node] for node in inputs)
        names = set(captured.model.state_dict())  # non-persistent buffers are tables, not weights
        weighted = sum(1 << index[node] for node, name in captured.parameters.items() if name in names)
        for i, node in enumerate(order):
            for operand in operands[i]:
                ancestors[i] |= ancestors[operand] | 1 << operand
            if op_name(node) not in SHAPE_ONLY and any(dependent >> o & 1 for o in operands[i]):
                dependent |= 1 << i
            elif any(weighted >> o & 1 for o in operands[i]):
                weighted |= 1 << i
        descendants = [0] * len(order)
        for i in reversed(range(len(order))):
            for operand in operands[i]:
                descendants[operand] |= descendants[i] | 1 << i
        return cls(order, index, tuple(ancestors), tuple(descendants), dependent, weighted)

    def nodes(self, bits: int) -> Iterator[Node]:
        """The nodes of a set, in order."""
        while bits:
            low = bits & -bits
            yield self.order[low.bit_length() - 1]
            bits ^= low

    def bit(self, node: Node) -> int:
        """The set of one node."""
        return 1 << self.index[node]

    def is_dependent(self, node: Node) -> bool:
        """Whether the value of `node` depends on the model's inputs."""
        return bool(self.dependent >> self.index[node] & 1)

    def is_weighted(self, node: Node) -> bool:
        """Whether the value of `node` is made of parameters, and of no input."""
        return bool(self.weighted >> self.index[node] & 1)

    def is_ancestor(self, node: Node, other: Node) -> bool:
        """Whether the value of `node` flows into `other`."""
        return bool(self.ancestors[self.index[other]] >> self.index[node] & 1)

    def between(self, start: Node, end: Node) -> int:
        """The nodes on the ways from `start` (exclusive) to `end` (inclusive)."""
        return self.descendants[self.index[start]] & (self.ancestors[self.index[end]] | self.bit(end))

    def ends_in(self, node: Node, end: Node) -> bool:
        """Whether the value of `node` reaches the outputs only through `end`."""
        pending, seen = [node], {node}
        while pending:
            for user in pending.pop().users:
                if user.op == "output":
                    return False
                if _is_statistic(user):
                    continue
                if user is not end and user not in seen:
                    seen.add(user)
                    pending.append(user)
        return True

    def operands(self, node: Node) -> list[Node]:
        """The values of this graph from which the value of `node` comes."""
        return [operand for operand in _operands(node) if operand in self.index]

    def dependents(self, node: Node) -> list[Node]:
        """The operands of `node` that depend on the model's inputs."""
        return [operand for operand in node.all_input_nodes if operand in self.index and self.is_dependent(operand)]

    def has_weights(self, bits: int) -> bool:
        """Whether a node of the set has parameters among its operands."""
        return any(self.reads_weights(node) for node in self.nodes(bits))

    def reads_weights(self, node: Node) -> bool:
        """Whether a node has parameters among its operands."""
        return any(self.weighted >> self.index[o] & 1 for o in node.all_input_nodes if o in self.index)

    def mixes_with_weights(self, node: Node) -> bool:
        """Whether `node` is a convolution or matrix product of the signal with parameters: a layer, as papers count."""
        return op_name(node) in WEIGHT_MIXING and self.reads_weights(node) and bool(self.dependents(node))

    def mixing(self, bits: int) -> list[Node]:
        """The layers of a set, and its attention products."""
        return [node for node in self.nodes(bits) if op_name(node) in ATTENTION or self.mixes_with_weights(node)]

    def is_product_of_signals(self, node: Node) -> bool:
        """Whether `node` multiplies two values that both depend on the inputs, or divides by one that does."""
        divisor = node.args[1] if op_name(node) == "div" else None
        divides = isinstance(divisor, Node) and divisor in self.index and self.is_dependent(divisor)
        return divides or (op_name(node) in PRODUCTS and len(self.dependents(node)) > 1)

    def depth_in_layers(self, bits: int) -> int:
        """The longest chain of layers in a set, as papers count depth: 2 for a basic block, 3 for a bottleneck."""
        longest: dict[Node, int] = {}
        for node in self.nodes(bits):
            before = max((longest.get(operand, 0) for operand in node.all_input_nodes), default=0)
            longest[node] = before + self.mixes_with_weights(node)
        return max(longest.values(), default=0)


def union(sets: Iterable[int]) -> int:
    """All that is in any of the sets."""
    return reduce(or_, sets, 0)


def _operands(node: Node) -> list[Node]:
    return [] if _is_statistic(node) else node.all_input_nodes


def _is_statistic(node: Node) -> bool:
    """Whether a node is a by-product of a normalisation: batch or running statistics, which carry no signal on."""
    if op_name(node) != "getitem" or node.args[1] == 0:
        return False
    source = node.args[0]
    return isinstance(source, Node) and op_name(source) in NORMS
