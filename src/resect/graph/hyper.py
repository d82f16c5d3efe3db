"""Hyper-connections (Zhu et al. 2024; manifold-constrained, DeepSeek 2025): H x + b f(a x) on n copies of the stream.

By data flow: the skip is a product that sums over n values and keeps the shape of x, the streams; the branch is n times
as large as what the layer f computes, and holds it once for every stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from torch.fx import Node

from resect.graph.ops import VIEWS, hint_shape, op_name
from resect.graph.reach import Reach

_MATRIX_PRODUCTS = frozenset({"matmul", "bmm", "mm", "einsum", "linear"})
_OUTER_PRODUCTS = frozenset({"mul", "matmul", "bmm", "einsum", "outer"})
_TURNS = frozenset({"permute", "transpose", "t", "reshape", "movedim", "swapaxes"})


@dataclass(frozen=True)
class SkipFactor:
    """What multiplies the signal on a skip, where it is computed: the mixing H, the carry gate of a highway block.

    Attributes:
        value: the factor.
        nodes: from the product to the skip, in order.
    """

    value: Node
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class HyperConnection:
    """The parts of H x + b f(a x).

    Attributes:
        streams: x, in the shape of the sum.
        mixing: H.
        read: a x, None if f reads several.
        written: f(a x), before it is written to the streams.
        turned: whether dimensions of one size may have traded places between `streams` and the skip.
    """

    streams: Node
    mixing: SkipFactor
    read: Node | None
    written: Node
    turned: bool


def hyper_connection(node: Node, skip: Node, branch: Node, reach: Reach) -> HyperConnection | None:
    """The parts of `node` = `skip` + `branch`, None if it is no hyper-connection."""
    mixed = _mixed(skip, reach)
    if mixed is None:
        return None
    nodes, operands, size = mixed
    for value, factor in (operands, operands[::-1]):
        streams = _streams(value, skip, branch, reach)
        if streams is None or factor is streams:
            continue
        written = _written(node, branch, streams, size, reach)
        if written is None:
            continue
        read = _read(streams, written, size, reach)
        if reach.has_weights(reach.between(read or streams, written)):
            sizes = [length for length in (hint_shape(node) or ())[1:] if length > 1]
            views = [n for n in (*_chain(value, reach), *nodes) if op_name(n) in _TURNS]
            mixing = SkipFactor(factor, tuple(reversed(nodes)))
            return HyperConnection(streams, mixing, read, written, bool(views) and len(set(sizes)) < len(sizes))
    return None


def _mixed(skip: Node, reach: Reach) -> tuple[list[Node], tuple[Node, Node], int] | None:
    """The nodes from `skip` back to the product that it is, its two operands, and over how many values it sums."""
    nodes = list(_chain(skip, reach))
    product = nodes[-1]
    if op_name(product) == "add":
        return _residual(nodes, reach)
    if op_name(product) == "sum" and isinstance(product.args[0], Node) and op_name(product.args[0]) == "mul":
        nodes.append(product.args[0])
        size = _numel(nodes[-1]) // max(_numel(product), 1)
    elif op_name(product) in _MATRIX_PRODUCTS:
        size = _summed(product)
    else:
        return None
    operands = nodes[-1].all_input_nodes
    return (nodes, (operands[0], operands[1]), size) if len(operands) == 2 and size > 1 else None


def _residual(nodes: list[Node], reach: Reach) -> tuple[list[Node], tuple[Node, Node], int] | None:
    """The same for a mixing that is written as x + H x."""
    terms = reach.dependents(nodes[-1])
    for product, streams in (terms, terms[::-1]) if len(terms) == 2 else ():
        mixed = _mixed(product, reach) if op_name(product) != "add" else None
        if mixed and any(not {*_chain(operand, reach)}.isdisjoint(_chain(streams, reach)) for operand in mixed[1]):
            return [*nodes, *mixed[0]], *mixed[1:]
    return None


def _chain(node: Node, reach: Reach) -> Iterator[Node]:
    """A value, and what it is a view of."""
    yield node
    while op_name(node) in VIEWS and len(reach.dependents(node)) == 1:
        node = reach.dependents(node)[0]
        yield node


def _numel(node: Node) -> int:
    return prod(hint_shape(node) or (0,))


def _summed(product: Node) -> int:
    """Over how many values each entry of a product of two tensors is summed."""
    shapes = [hint_shape(operand) or (0,) for operand in product.all_input_nodes]
    if op_name(product) != "einsum":
        return shapes[0][-1]
    terms, _, output = str(product.args[0]).replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms.split(","), shapes, strict=False):
        head, _, tail = term.partition("...")
        sizes |= dict(zip(head, shape, strict=False)) | dict(zip(reversed(tail), reversed(shape), strict=False))
    return prod(size for label, size in sizes.items() if label not in output)


def _streams(value: Node, skip: Node, branch: Node, reach: Reach) -> Node | None:
    """The nearest view behind an operand that has the shape of the skip, and through which the branch sees it."""
    if not reach.is_dependent(value):
        return None
    chain = list(_chain(value, reach))
    fits = [n for n in chain if hint_shape(n) == hint_shape(skip) and reach.is_ancestor(n, branch)]
    whole = reach.between(chain[-1], branch)
    closed = [n for n in fits if not whole & ~(reach.between(chain[-1], n) | reach.bit(n) | reach.between(n, branch))]
    return next(iter(closed or fits), None)


def _written(node: Node, branch: Node, streams: Node, size: int, reach: Reach) -> Node | None:
    """What the branch holds once for each of `size` streams."""
    if op_name(node) == "addcmul" and _numel(branch) * size == _numel(node):
        return branch
    value = branch
    while True:
        operands = reach.dependents(value)
        parts = [part for operand in operands for part in _chain(operand, reach)]
        fits = [p for p in parts if _numel(p) * size == _numel(value) and reach.is_ancestor(streams, p)]
        if op_name(value) not in _OUTER_PRODUCTS | VIEWS:
            return None
        if fits:  # where there are as many streams as features, what is made by more layers
            return max(fits, key=lambda operand: reach.depth_in_layers(reach.between(streams, operand)))
        if len(operands) != 1 or _numel(operands[0]) < _numel(value):
            return None
        value = operands[0]


def _read(streams: Node, written: Node, size: int, reach: Reach) -> Node | None:
    """The sum of the streams through which all of them reach the layer."""
    region = reach.between(streams, written)
    for node in reach.nodes(region):
        beside = region & ~(reach.between(streams, node) | reach.between(node, written))
        if not beside and _numel(node) * size == _numel(streams) and _is_read(node, streams, reach):
            return node
    return None


def _is_read(node: Node, streams: Node, reach: Reach) -> bool:
    """Whether a value is a sum of streams, each times a factor."""
    bare = _bare(node, streams, reach)
    products = _OUTER_PRODUCTS | _MATRIX_PRODUCTS
    weighed = op_name(bare) in products and any(_bare(o, streams, reach) is streams for o in reach.dependents(bare))
    return bare is streams or weighed


def _bare(node: Node, streams: Node, reach: Reach) -> Node:
    while node is not streams and op_name(node) in VIEWS | {"sum", "mean"} and len(reach.dependents(node)) == 1:
        node = reach.dependents(node)[0]
    return node
