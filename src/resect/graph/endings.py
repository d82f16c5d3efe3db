"""The linear layer that a branch ends in, and the way from there to the addition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from resect.graph.ops import is_check, op_name

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
    """

    layer: Node
    inputs: Node
    weight: Node
    bias: Node | None
    transposed: bool
    moves: tuple[Node, ...]

    def back(self, change: Tensor, shape: tuple[int, ...], value: Value) -> Tensor:
        """How the layer's value has to change so that the branch operand changes by `change`.

        Args:
            shape: of the layer's value.
        """
        for move in self.moves:
            if op_name(move) in _ORDERS:
                change = change.permute(_inverse(move, change.ndim))
            elif op_name(move) == "mul":
                factor = _factor(move, value).to(change)
                change = torch.where(factor == 0, 0, change / torch.where(factor == 0, 1, factor))
        return change.reshape(shape)


def ending(branch: Node, own: Callable[[Node], bool]) -> Ending | None:
    """The ending of a branch operand; None where it ends in something else, or other values are made of it, too.

    Args:
        own: whether a node is a parameter that nothing else in the network reads.
    """
    moves, node, reshaped = list[Node](), branch, False
    while node.op == "call_function" and op_name(node) not in _LAYERS:
        name = op_name(node)
        if name in _RESHAPES:
            reshaped = True
        elif name not in _ALIKE and (reshaped or not (name in _ORDERS or (name == "mul" and _scale_of(node)))):
            return None
        source = _signal(node)
        if not isinstance(source, Node):
            return None
        moves.append(node)
        node = source
    if node.op != "call_function" or any(_read_elsewhere(part) for part in (*moves, node)):
        return None
    layer = _layer(node, tuple(moves))
    parameters = [] if layer is None else [part for part in (layer.weight, layer.bias) if part is not None]
    return layer if parameters and all(own(part) for part in parameters) else None


def _layer(node: Node, moves: tuple[Node, ...]) -> Ending | None:
    if node.kwargs or not 2 <= len(node.args) <= 3 or not all(isinstance(part, Node) for part in node.args):
        return None  # of a sum with factors, too
    parts = [part for part in node.args if isinstance(part, Node)]
    if op_name(node) == "linear":
        inputs, weight = parts[:2]
        return Ending(node, inputs, weight, parts[2] if len(parts) == 3 else None, False, moves)
    bias, inputs, weight = parts
    return Ending(node, inputs, weight, bias, True, moves)


def _read_elsewhere(node: Node) -> bool:
    return len([user for user in node.users if not is_check(user)]) > 1


def _signal(move: Node) -> Any:
    """The operand that is moved on: of a product the one that is no parameter."""
    return move.args[0] if op_name(move) != "mul" else next(a for a in move.args if a is not _scale_of(move))


def _scale_of(product: Node) -> Node | None:
    """The operand of a product that is a parameter, or one of another shape; None if there is not just one."""
    scales = [part for part in product.args if isinstance(part, Node) and _parameter_of(part) is not None]
    return scales[0] if len(scales) == 1 and len(product.args) == 2 else None


def _parameter_of(node: Node) -> Node | None:
    """The parameter that a node is, or is a view of."""
    if node.op != "call_function":
        return node if node.op in ("placeholder", "get_attr") else None
    plain = all(isinstance(part, (int, list, tuple)) for part in node.args[1:]) and not node.kwargs
    source = node.args[0] if op_name(node) in _RESHAPES and plain else None
    return _parameter_of(source) if isinstance(source, Node) else None


def _factor(product: Node, value: Value) -> Tensor:
    """What a product multiplies by."""

    def of(node: Node) -> Tensor:
        if node.op != "call_function":
            return value(node)
        source, *shape = node.args
        assert isinstance(source, Node) and callable(node.target)
        result: Tensor = node.target(of(source), *shape)
        return result

    scale = _scale_of(product)
    assert scale is not None, "products without a scale are no moves"
    return of(scale)


def _inverse(move: Node, dimensions: int) -> list[int]:
    """The order that takes a permutation back."""
    order = list(range(dimensions))
    if op_name(move) == "permute":
        order = [int(i) % dimensions for i in move.args[1]]  # type: ignore[union-attr, arg-type]
    else:
        one, other = (int(i) % dimensions for i in move.args[1:3])  # type: ignore[arg-type]
        order[one], order[other] = other, one
    return [order.index(i) for i in range(dimensions)]
