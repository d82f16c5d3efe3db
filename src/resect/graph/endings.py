"""The linear layer that a branch ends in, and the way from there to the addition."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.fx import Node

from resect.graph.ops import hint_shape, is_check, op_name
from resect.graph.owned import parameters_of, read_once
from resect.graph.slices import Sliced
from resect.graph.slots import Slot

_LAYERS = frozenset({"linear", "addmm"})
_ALIKE = frozenset({"clone", "contiguous", "alias", "detach", "dropout", "_to_copy", "to", "lift_fresh"})
_RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze"})
_ORDERS = frozenset({"permute", "transpose"})

Value = Callable[[Node], Tensor]
"""The value of a parameter's node."""


@dataclass(frozen=True)
class Ending:
    """A linear layer that a branch ends in: what changes there changes the join's value by as much, moved about.

    Attributes:
        layer: the node, whose value is (..., O).
        inputs: what it takes, (..., I).
        weight, bias: the nodes of its parameters; no bias for None.
        transposed: whether the weight is (I, O), as in transformers' Conv1D, not (O, I).
        moves: what lies between, from the branch operand back to the layer; the first is the operand.
        scales: the parameter by which each of them that is a product multiplies.
    """

    layer: Node
    inputs: Node
    weight: Node
    bias: Node | None
    transposed: bool
    moves: tuple[Node, ...]
    scales: Mapping[Node, Node]

    def back(self, change: Tensor, shape: tuple[int, ...], value: Value) -> Tensor:
        """How the layer's value has to change, of `shape`, so that the branch operand changes by `change`."""
        for move in self.moves:
            if op_name(move) in _ORDERS:
                change = change.permute(_inverse(move, change.ndim))
            elif move in self.scales:
                factor = _viewed(self.scales[move], value).to(change)
                change = torch.where(factor == 0, 0, change / torch.where(factor == 0, 1, factor))
        return change.reshape(shape)


def endings(sliced: Sliced) -> dict[int, Ending]:
    """Of each block that ends in a linear layer of its own, and is added as it is, by the number of its slot.

    Left out are blocks inside others, layers whose weights or values something else reads, too, and sums in which the
    branch is repeated over positions.
    """
    parameters, alone, found = parameters_of(sliced), read_once(sliced), {}
    for slot in sliced.slots:
        own = _ending(slot.join.branch, parameters) if _added(slot) else None
        held = {own.weight, own.bias} - {None} if own else set()
        if own and held <= alone and own.layer in sliced.slices[slot.place.slice]:
            found[slot.index] = own
    return found


def _added(slot: Slot) -> bool:
    """Whether a join's value is its skip plus the branch and nothing but other branches."""
    join = slot.join
    sums = (join.consumer, join.node)  # branches of parallel blocks are added to each other first
    plain = all(op_name(node) == "add" and not node.kwargs for node in sums)
    inner = join.consumer is not join.node
    alone = not inner or set(join.consumer.users) == {join.node}
    whole = hint_shape(join.branch) == hint_shape(join.node)
    return plain and alone and whole and join.kind == "identity" and slot.place.parent is None


def _ending(branch: Node, parameters: Collection[Node]) -> Ending | None:
    """The ending of a branch operand; None where it ends in something else, or other values are made of it, too."""
    moves, scales, node, reshaped = list[Node](), dict[Node, Node](), branch, False
    while node.op == "call_function" and op_name(node) not in _LAYERS:
        name, source = op_name(node), node.args[0]
        if name in _RESHAPES:
            reshaped = True
        elif name == "mul" and not reshaped and (parted := _parted(node, parameters)):
            source, scales[node] = parted
        elif name not in _ALIKE and (reshaped or name not in _ORDERS):
            return None
        if not isinstance(source, Node):
            return None
        moves.append(node)
        node = source
    if node.op != "call_function" or any(_read_elsewhere(part) for part in (*moves, node)):
        return None
    found = _layer(node, tuple(moves), scales)
    if found is None:
        return None
    outputs = (hint_shape(node) or (0,))[-1]
    sizes = [prod(hint_shape(scale) or ()) for scale in scales.values()]
    return found if all(size in (1, outputs) for size in sizes) else None  # what varies along O alone can be taken back


def _layer(node: Node, moves: tuple[Node, ...], scales: Mapping[Node, Node]) -> Ending | None:
    if node.kwargs or not 2 <= len(node.args) <= 3 or not all(isinstance(part, Node) for part in node.args):
        return None  # of a sum with factors, too
    parts = [part for part in node.args if isinstance(part, Node)]
    if op_name(node) == "linear":
        inputs, weight = parts[:2]
        return Ending(node, inputs, weight, parts[2] if len(parts) == 3 else None, False, moves, scales)
    bias, inputs, weight = parts
    return Ending(node, inputs, weight, bias, True, moves, scales)


def _read_elsewhere(node: Node) -> bool:
    return len([user for user in node.users if not is_check(user)]) > 1


def _parted(product: Node, parameters: Collection[Node]) -> tuple[Node, Node] | None:
    """The operand that is moved on, and that which is a parameter or a view of one; None unless there is one each."""
    operands = [part for part in product.args if isinstance(part, Node)]
    scales = [part for part in operands if _parameter_of(part) in parameters]
    if len(product.args) != 2 or len(operands) != 2 or len(scales) != 1:
        return None
    return next(part for part in operands if part is not scales[0]), scales[0]


def _parameter_of(node: Node) -> Node | None:
    """What a node is a view of, if it is viewed in shapes that are known."""
    while node.op == "call_function":
        plain = all(isinstance(part, (int, list, tuple)) for part in node.args[1:]) and not node.kwargs
        source = node.args[0] if op_name(node) in _RESHAPES and plain else None
        if not isinstance(source, Node):
            return None
        node = source
    return node


def _viewed(node: Node, value: Value) -> Tensor:
    """The value of a view of a parameter."""
    if node.op != "call_function":
        return value(node)
    source, *shape = node.args
    assert isinstance(source, Node) and callable(node.target)
    result: Tensor = node.target(_viewed(source, value), *shape)
    return result


def _inverse(move: Node, dimensions: int) -> list[int]:
    """The order that takes a permutation back."""
    given = move.args[1] if op_name(move) == "permute" else move.args[1:3]
    assert isinstance(given, (list, tuple)), "both operators name dimensions by numbers"
    numbers = [part % dimensions for part in given if isinstance(part, int)]
    if op_name(move) == "permute":
        return [numbers.index(i) for i in range(dimensions)]
    one, other = numbers
    return [other if i == one else one if i == other else i for i in range(dimensions)]
