"""Slots: the place of every block in the sliced graph, and what each of them refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import Node

from resect.graph.capture import Capture
from resect.graph.decisions import Variant
from resect.graph.joins import Join, branch_region, layer_region, own_region
from resect.graph.ops import POINTWISE, free_shape, is_check, module_of, op_name, shown_shape
from resect.graph.reach import Reach, union


@dataclass(frozen=True)
class BlockGraph:
    """What a block computes.

    Attributes:
        region: the branch's nodes, in order; the gate is not among them.
        body: the nodes from the entry to the join, of branch and skip, in order; the join is the last. Empty where the
            branch starts at several values.
        after: what reads the join alone and computes a value of its shape without weights: the ReLU of an original
            ResNet block, which belongs to the block's output.
        layers: weight layers on the branch, as papers count depth.
        parameters: names of the parameters and buffers that the branch reads, and no block before it.
        entry_shape: of the (first) value at which the branch starts; "B" is the batch, the rest as in the example.
        branch_shape: of what the branch brings to the join.
        shapes: of both, with all that is free as expressions.
    """

    region: tuple[Node, ...]
    body: tuple[Node, ...]
    after: tuple[Node, ...]
    layers: int
    parameters: tuple[str, ...]
    entry_shape: tuple[int | str, ...]
    branch_shape: tuple[int | str, ...]
    shapes: tuple[tuple[Any, ...], tuple[Any, ...]]


@dataclass(frozen=True)
class Place:
    """Where a block stands.

    Attributes:
        slice: the number of the slice that ends in its join.
        gate: the node through which the branch enters the join (for a plain layer, the layer's output).
        span: the same number for neighbours that can trade places.
        parent: the slot in whose branch it stands, or None.
        layer: the module, one of several alike, in which the join stands: of a transformer, the layer.
    """

    slice: int
    gate: Node
    span: int
    parent: int | None
    layer: str


@dataclass(frozen=True)
class Refusals:
    """What cannot be done with a block, each time the reason; "" for what can.

    Attributes:
        trade: its branch in another slot, or another branch in its own; beside gated blocks with the skips.
        twice: the block run twice (`Variant.TWICE`).
        branch_only: its skip deleted (`Variant.BRANCH_ONLY`).
        bypass: the whole block left out (`Variant.BYPASS`).
    """

    trade: str
    twice: str
    branch_only: str
    bypass: str

    def of(self, variant: Variant) -> str:
        """Why a slot cannot run as `variant`."""
        return {Variant.TWICE: self.twice, Variant.BRANCH_ONLY: self.branch_only, Variant.BYPASS: self.bypass}[variant]


@dataclass(frozen=True)
class Slot:
    """One block in the sliced graph: the join it was found by, what it computes, where it stands, what it refuses.

    Attributes:
        index: its number in the order of execution.
        name: the module path of its branch, e.g. "layer2.0".
    """

    index: int
    name: str
    join: Join
    block: BlockGraph
    place: Place
    refusals: Refusals


@dataclass(frozen=True)
class _Piece:
    """What is known of a block before its neighbours are looked at."""

    join: Join
    block: BlockGraph
    gate: Node


def make_slots(
    named: Sequence[tuple[Join, str]],
    gates: Sequence[Node],
    slices: Sequence[Sequence[Node]],
    captured: Capture,
    reach: Reach,
) -> tuple[Slot, ...]:
    """A slot for every join.

    Args:
        named: the joins in order of execution, each with its block's name.
        gates: one a join, in the graph already.
    """
    slice_of = {node: i for i, nodes in enumerate(slices) for node in nodes}
    joins = [join for join, _ in named]
    pieces = [_Piece(join, _block(join, joins, captured, reach), gate) for join, gate in zip(joins, gates, strict=True)]
    trades = [_why_no_trade(piece, pieces, slice_of) for piece in pieces]
    gated = {piece.block.shapes for piece in pieces if piece.join.kind == "gated"}  # of which skips go along
    moves = [
        why or (_why_not_whole(piece, pieces, slice_of) if piece.block.shapes in gated else "")
        for piece, why in zip(pieces, trades, strict=True)
    ]
    spans = _spans(pieces, moves)
    modules = dict(captured.model.named_modules(remove_duplicate=False))
    slots = []
    for i, ((_, name), piece) in enumerate(zip(named, pieces, strict=True)):
        layer = _repeated(modules, module_of(piece.join.node)) or name.partition("#")[0]
        layer += "".join(name.partition("#")[1:])
        place = Place(slice_of[piece.join.node], piece.gate, spans[i], _parent(piece, pieces, reach), layer)
        refusals = Refusals(
            trade=moves[i],
            twice=trades[i] or _why_not_twice(piece, pieces),
            branch_only=_why_no_branch_only(piece, pieces),
            bypass=_why_no_bypass(piece, pieces),
        )
        slots.append(Slot(i, name, piece.join, piece.block, place, refusals))
    return tuple(slots)


def _block(join: Join, joins: Sequence[Join], captured: Capture, reach: Reach) -> BlockGraph:
    region = tuple(reach.nodes(branch_region(join, reach)))
    return BlockGraph(
        region=region,
        body=() if join.entry is None else tuple(reach.nodes(reach.between(join.entry, join.node))),
        after=() if join.kind == "layer" else _after(join.node, reach),
        layers=reach.depth_in_layers(layer_region(join, joins, reach)),
        parameters=_parameters(captured, reach, tuple(reach.nodes(own_region(join, joins, reach)))),
        entry_shape=shown_shape(join.entries[0], captured.batch),
        branch_shape=shown_shape(join.branch, captured.batch),
        shapes=(free_shape(join.entries[0]), free_shape(join.branch)),
    )


def _after(node: Node, reach: Reach) -> tuple[Node, ...]:
    following: list[Node] = []
    while True:
        users = [user for user in node.users if not is_check(user)]
        if len(users) != 1 or op_name(users[0]) not in POINTWISE or reach.reads_weights(users[0]):
            return tuple(following)
        node = users[0]
        if len(reach.dependents(node)) != 1:
            return tuple(following)
        following.append(node)


def _parameters(captured: Capture, reach: Reach, region: Sequence[Node]) -> tuple[str, ...]:
    """Names of the parameters and buffers that the branch reads."""
    operands = {operand for node in region for operand in node.all_input_nodes if operand in reach.index}
    fixed = [operand for operand in operands if not reach.is_dependent(operand)]
    bits = union(reach.ancestors[reach.index[operand]] | reach.bit(operand) for operand in fixed) & reach.weighted
    return tuple(captured.parameters[node] for node in reach.nodes(bits) if node in captured.parameters)


def _why_no_trade(piece: _Piece, pieces: Sequence[_Piece], slice_of: Mapping[Node, int]) -> str:
    join, region = piece.join, {*piece.block.region}
    if any(other is not piece and other.join.node in region for other in pieces):
        return "its branch holds blocks of its own"
    if join.entry is None:
        return "its branch starts at several values"
    if join.kind != "layer" and piece.gate.all_input_nodes != [join.branch]:
        return "its branch feeds more than the join"
    outside = {operand for node in region for operand in node.all_input_nodes} - region - {join.entry}
    if any(slice_of.get(operand, 0) > 0 for operand in outside):
        return "its branch reads other values that lesions change"
    return ""


def _why_not_whole(piece: _Piece, pieces: Sequence[_Piece], slice_of: Mapping[Node, int]) -> str:
    """Why a block whose branch can trade places cannot do so with its skip."""
    if why := _why_not_alone(piece, pieces):
        return why
    body = {*piece.block.body}
    outside = {operand for node in body for operand in node.all_input_nodes} - body - {piece.join.entry, piece.gate}
    if any(slice_of.get(operand, 0) > 0 for operand in outside):
        return "its skip reads other values that lesions change"
    return ""


def _why_not_twice(piece: _Piece, pieces: Sequence[_Piece]) -> str:
    """Why a block that can trade places cannot run twice."""
    return _why_other_output(piece) or _why_not_alone(piece, pieces)


def _why_not_alone(piece: _Piece, pieces: Sequence[_Piece]) -> str:
    """Why a block as a whole cannot be told from others."""
    entry, inside = piece.join.entry, {*piece.block.body}
    others = [other.join for other in pieces if other is not piece]
    if any(other.entry is entry or other.node in inside or other.branch in inside for other in others):
        return "another block starts from the same value"
    return ""


def _why_other_output(piece: _Piece) -> str:
    """Why what a block gives cannot stand for what it takes."""
    entry_shape, branch_shape = piece.block.shapes
    if entry_shape != branch_shape:
        return "it changes the shape of its input"
    if piece.join.hyper and piece.join.hyper.turned:
        return "its streams are permuted, and two of their dimensions have one size"
    return ""


def _why_no_bypass(piece: _Piece, pieces: Sequence[_Piece]) -> str:
    join = piece.join
    if join.entry is None:
        return "its branch starts at several values"
    for i, other in enumerate(pieces):
        beside = other is not piece and other.join.entry is join.entry
        if beside and other.join.node in (join.node, join.skip):
            return f"it shares the skip of block {i}, with which it runs in parallel"
    if join.entry.meta["val"].dtype != join.node.meta["val"].dtype:
        return "it changes the type of its input"
    return _why_other_output(piece)


def _why_no_branch_only(piece: _Piece, pieces: Sequence[_Piece]) -> str:
    join = piece.join
    if join.kind == "layer":
        return "a plain layer has no skip"
    for i, other in enumerate(pieces):
        if other.join.node is join.skip and join.entry is not None and other.join.entry is join.entry:
            return f"it shares the skip of block {i}, with which it runs in parallel"
    return ""


def _repeated(modules: Mapping[str, nn.Module], path: str) -> str:
    """The innermost module around a path, or at it, beside which another one of its class stands; else the path."""
    inner = path
    while inner:
        outer = inner.rpartition(".")[0]
        beside = modules[outer].children() if outer in modules else ()
        if inner in modules and sum(type(child) is type(modules[inner]) for child in beside) > 1:
            return inner
        inner = outer
    return path


def _parent(piece: _Piece, pieces: Sequence[_Piece], reach: Reach) -> int | None:
    """The innermost other block whose branch this one is part of, and of nothing else."""
    node = piece.join.node
    others = [(i, other) for i, other in enumerate(pieces) if other is not piece and node in other.block.region]
    around = [(reach.index[other.join.node], i) for i, other in others if reach.ends_in(node, other.join.node)]
    return min(around)[1] if around else None


def _spans(pieces: Sequence[_Piece], trades: Sequence[str]) -> list[int]:
    """One number a block, the same for neighbours that can trade places."""
    spans: list[int] = []
    last: object = None
    for piece, why in zip(pieces, trades, strict=True):
        block, ends = piece.block, (*piece.join.entries, piece.join.branch)
        kind = None if why else (*block.shapes, *(end.meta["val"].dtype for end in ends))
        same = kind is not None and kind == last
        spans.append(spans[-1] + (not same) if spans else 0)
        last = kind
    return spans
