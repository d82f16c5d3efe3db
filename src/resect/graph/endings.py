"""The layer that a branch ends in, linear or a convolution, and the way from there to the addition."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from resect.graph.ops import hint_shape, is_check, op_name
from resect.graph.owned import parameters_of, read_once
from resect.graph.slices import Sliced
from resect.graph.slots import Slot

_CONVOLUTIONS = {"conv1d": 1, "conv2d": 2}  # and over how many dimensions
_LAYERS = frozenset({"linear", "addmm", *_CONVOLUTIONS})
_NORM = "_native_batch_norm_legit_no_training"
_SEEN = 2**24  # numbers that kernels see at once, about
_ALIKE = frozenset({"clone", "contiguous", "alias", "detach", "dropout", "_to_copy", "to", "lift_fresh"})
_RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze"})
_ORDERS = frozenset({"permute", "transpose"})

Value = Callable[[Node], Tensor]
"""The value of a parameter's or a buffer's node."""


@dataclass(frozen=True)
class Window:
    """How a convolution slides over its inputs, of one or two dimensions: a number for each."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def columns(self, inputs: Tensor) -> Tensor:
        """What the kernel sees at each place: (B, L, C x kernel) of (B, C, ...)."""
        if len(self.kernel) == 1:
            flat = Window((1, *self.kernel), (1, *self.stride), (0, *self.padding), (1, *self.dilation))
            return flat.columns(inputs.unsqueeze(2))
        return F.unfold(inputs, self.kernel, self.dilation, self.padding, self.stride).mT


@dataclass(frozen=True)
class Ending:
    """A layer that a branch ends in: what changes there changes the join's value by as much, moved about and scaled.

    Attributes:
        layer: the node, whose value is (..., O), of a convolution (B, O, ...).
        inputs: what it takes, (..., I), or (B, C, ...).
        weight: the node of its parameter.
        bias: the node of the parameter that is added to all positions: its own, or that of a batch norm behind it.
        transposed: whether the weight is (I, O), as in transformers' Conv1D, not (O, I).
        window: of a convolution, whose weight is (O, C, kernel).
        moves: what lies between, from the branch operand back to the layer; the first is the operand.
        scales: the parameter by which each of them that is a product multiplies.
    """

    layer: Node
    inputs: Node
    weight: Node
    bias: Node | None
    transposed: bool = False
    window: Window | None = None
    moves: tuple[Node, ...] = ()
    scales: Mapping[Node, Node] = field(default_factory=dict)

    def rows(self, inputs: Tensor, positions: Tensor) -> Tensor:
        """(N, I) of some positions, numbers that rise, among all of a batch."""
        if self.window is None:
            return inputs.reshape(-1, inputs.shape[-1])[positions]
        parts, begun = [], 0
        for some in torch.split(inputs, max(1, _SEEN // (inputs[0].numel() * prod(self.window.kernel)))):
            columns = self.window.columns(some)
            places = columns.shape[1]
            ends = torch.tensor([begun * places, (begun + len(some)) * places]).to(positions)
            first, last = torch.searchsorted(positions, ends).tolist()
            parts.append(columns.flatten(0, 1)[positions[first:last] - ends[0]])
            begun += len(some)
        return torch.cat(parts)

    def back(self, change: Tensor, inputs: Tensor, outputs: int, value: Value) -> Tensor:
        """(N, O) of all positions: how the layer's value has to change, so that the branch operand changes by `change`.

        What a factor of nearly zero hides is not missed.
        """
        for move in self.moves:
            if op_name(move) in _ORDERS:
                change = change.permute(_inverse(move, change.ndim))
            elif move in self.scales or op_name(move) == _NORM:
                factor = self._factor(move, change.ndim, value).to(change)
                hidden = factor.abs() <= torch.finfo(torch.float32).eps * factor.abs().max()
                change = torch.where(hidden, 0, change / torch.where(hidden, 1, factor))
        if self.window is None:
            return change.reshape(-1, outputs)
        return change.reshape(len(inputs), outputs, -1).mT.reshape(-1, outputs)

    def at_positions(self, value: Tensor) -> Tensor:
        """(N, O) of a linear layer: what has the shape of the branch operand, brought to where the layer's value is."""
        shape = hint_shape(self.layer)
        assert shape, "the value of a linear layer has a shape"
        for move in self.moves:
            if op_name(move) in _ORDERS:
                value = value.permute(_inverse(move, value.ndim))
        return value.reshape(-1, shape[-1])

    def bias_change(self, change: Tensor, value: Value) -> Tensor:
        """(O,): what the bias has to change by, so that the layer's value changes by so much at all positions."""
        if self.moves and self.bias in self.moves[-1].args and op_name(self.moves[-1]) == _NORM:
            return change * self._factor(self.moves[-1], 1, value).to(change)
        return change

    def matrix(self, weight: Tensor) -> Tensor:
        """(I, O) of a weight as it is kept."""
        return weight if self.transposed else weight.flatten(1).T

    def _factor(self, move: Node, dimensions: int, value: Value) -> Tensor:
        """What a product or a batch norm multiplies by, to be broadcast to values of so many dimensions."""
        if move in self.scales:
            return _viewed(self.scales[move], value)
        _, weight, _, _, variance, _, epsilon = move.args
        assert isinstance(variance, Node) and isinstance(epsilon, float)
        factor = (value(variance) + epsilon).rsqrt()
        factor = factor * value(weight) if isinstance(weight, Node) else factor
        return factor.view(-1, *[1] * (dimensions - 2))


def endings(sliced: Sliced) -> dict[int, Ending]:
    """Of each block that ends in a layer of its own, and is added as it is, by the number of its slot.

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
        elif name == "getitem" and isinstance(source, Node) and op_name(source) == _NORM and not reshaped:
            pass
        elif name not in _ALIKE and (reshaped or name not in {*_ORDERS, _NORM}):
            return None
        if not isinstance(source, Node):
            return None
        moves.append(node)
        node = source
    if node.op != "call_function" or any(_read_elsewhere(part) for part in (*moves, node)):
        return None
    found = _layer(node, tuple(moves), scales, parameters)
    return found if found and _varies_along_outputs(found) else None


def _varies_along_outputs(ending: Ending) -> bool:
    """Whether all factors between the layer and the operand are one number, or one for each output of the layer, which
    can be taken back."""
    shape = hint_shape(ending.layer) or ()
    place = len(shape) - 1 if ending.window is None else 1
    outputs = shape[place]
    for move in reversed(ending.moves):
        shape = hint_shape(move) or shape  # a norm's own value is a tuple
        if op_name(move) in _ORDERS:
            place = _order(move, len(shape)).index(place)
        elif op_name(move) in _RESHAPES and ending.window is None:
            place = len(shape) - 1
        if move in ending.scales:
            factor = hint_shape(ending.scales[move]) or ()
            alone = [1] * (len(shape) - place - 1)
            along = (
                shape[place : place + 1] == (outputs,)
                and prod(factor) == outputs
                and [*factor][place - len(shape) :] == [outputs, *alone]
            )
            if prod(factor) != 1 and not along:
                return False
        if op_name(move) == _NORM and (place != 1 or shape[1:2] != (outputs,)):
            return False
    return True


def _layer(
    node: Node, moves: tuple[Node, ...], scales: Mapping[Node, Node], parameters: Collection[Node]
) -> Ending | None:
    """The ending with a layer; None for one that is not fitted."""
    name, args = op_name(node), (*node.args, None)
    if node.kwargs or len(node.args) < 2:
        return None  # of a sum with factors, too
    inputs, weight, bias = args[1:3] + args[:1] if name == "addmm" else args[:3]
    if not (isinstance(inputs, Node) and isinstance(weight, Node) and (bias is None or isinstance(bias, Node))):
        return None
    window = _window(node) if name in _CONVOLUTIONS else None
    if name in _CONVOLUTIONS and window is None:
        return None
    if bias is None and moves and op_name(moves[-1]) == _NORM:
        behind = moves[-1].args[2]
        bias = behind if isinstance(behind, Node) and behind in parameters else None
    return Ending(node, inputs, weight, bias, name == "addmm", window, moves, scales)


def _window(node: Node) -> Window | None:
    """Of a convolution; None of one in groups, of a single sample, or whose padding has a name."""
    weight, options, shape = node.args[1], node.args[3:], hint_shape(node) or ()
    assert isinstance(weight, Node)
    dimensions = _CONVOLUTIONS[op_name(node)]
    given: list[Any] = [*options, *[1, 0, 1, 1][len(options) :]]
    numbers = [part if isinstance(part, (list, tuple)) else [part] for part in given[:3]]
    if (
        len(shape) != dimensions + 2
        or given[3] != 1
        or not all(isinstance(part, int) for own in numbers for part in own)
    ):
        return None
    stride, padding, dilation = (tuple(own) * (dimensions // len(own)) for own in numbers)
    return Window((hint_shape(weight) or ())[2:], stride, padding, dilation)


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
    order = _order(move, dimensions)
    return [order.index(i) for i in range(dimensions)]


def _order(move: Node, dimensions: int) -> list[int]:
    """Which dimension a permutation puts at each place."""
    given = move.args[1] if op_name(move) == "permute" else move.args[1:3]
    assert isinstance(given, (list, tuple)), "both operators name dimensions by numbers"
    numbers = [part % dimensions for part in given if isinstance(part, int)]
    if op_name(move) == "permute":
        return numbers
    one, other = numbers
    return [other if i == one else one if i == other else i for i in range(dimensions)]
