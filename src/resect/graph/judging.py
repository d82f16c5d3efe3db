"""Judge an addition of two signals: it is a join, or it is none for a reason that the user can read.

One rule serves every network; nothing here knows a model family.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.fx import Node

from resect.graph.empty import gathered, zeros_behind
from resect.graph.hyper import SkipFactor, hyper_connection
from resect.graph.joins import Join, Kind
from resect.graph.ops import LINEAR, PARTS, POINTWISE, VIEWS, hint_shape, is_float, op_name
from resect.graph.reach import Reach, union
from resect.graph.trunk import before_factor, trunk, unscaled

_NOT_RELATED = "neither operand flows into the other and they have no signal in common"
ONE_OPERATOR = "both operands come over ways with a non-linearity: a sum of two branches, without a skip"
_ALL_LINEAR = "neither way has a non-linearity: a sum of linear maps, without a branch"
_NO_PARAMETERS = "no parameters lie on the way from one operand to the other"
_OTHER_PARTS = "the operands come from other parts of one value, each over weights: a sum of two heads"
_SUBTRACTED = "the skip would be subtracted or scaled"
_GATHERED = "what is added is a stream of blocks that starts from zero: those are the blocks"
_REASONS = [_GATHERED, _NOT_RELATED, ONE_OPERATOR, _OTHER_PARTS, _ALL_LINEAR, _NO_PARAMETERS, _SUBTRACTED]


def judge(node: Node, operands: tuple[Node, ...], reach: Reach, joins: dict[Node, Join]) -> Join | str:
    """The join that an addition is (with the first of its branches), or the reason why it is none."""
    first, second = operands[:2]
    if hint_shape(first) != hint_shape(second) and op_name(node) != "addcmul":
        return f"the operands differ in shape: {hint_shape(first)} and {hint_shape(second)}"
    either_way = op_name(node) == "summed" or (op_name(node) == "add" and node.kwargs.get("alpha", 1) == 1)
    reasons = []
    for skip in operands if either_way else operands[:1]:
        verdicts = [_judge_ordered(node, skip, branch, reach, joins) for branch in operands if branch is not skip]
        refused = [verdict for verdict in verdicts if isinstance(verdict, str)]
        if not refused:
            assert isinstance(verdicts[0], Join)
            return verdicts[0]
        reasons += refused
    if not either_way and isinstance(verdict := _judge_ordered(node, second, first, reach, joins), Join):
        alpha = node.kwargs.get("alpha", 1)
        sign = {"add": 1, "sub": -1}.get(op_name(node), 0)  # addcmul multiplies its skip by a tensor
        return replace(verdict, kind="scaled") if isinstance(alpha, (int, float)) and alpha * sign > 0 else _SUBTRACTED
    return max(reasons, key=_REASONS.index)


def _judge_ordered(node: Node, skip: Node, branch: Node, reach: Reach, joins: dict[Node, Join]) -> Join | str:
    """The same for `node` = `skip` + `branch`."""
    if skip in joins and not reach.is_ancestor(skip, branch) and (join := _hyper(node, skip, branch, reach)):
        return join
    stream = gathered(skip, joins, reach)
    if gathered(branch, joins, reach) or (stream and not reach.is_ancestor(stream, branch)):
        return _GATHERED
    if zeros := zeros_behind(skip, reach):
        return Join(node, "identity" if zeros is skip else "projection", skip, branch, node, (zeros,), skip)
    root = _skip_root(skip, joins)
    values = unscaled(root, reach)
    base = next((value for value in values if reach.is_ancestor(value, branch)), None)
    if base is not None:
        if not reach.has_weights(reach.between(base, branch)):
            return _NO_PARAMETERS
        scaled = any(before_factor(value, reach) for value in values[: values.index(base)])
        return Join(node, "scaled" if scaled else "identity", skip, branch, node, (base,), skip)
    gated = _gated_skip(skip, branch, reach)
    if gated is not None:
        signal, carry = gated
        return Join(node, "gated", skip, branch, node, (signal,), signal, SkipFactor(carry, (skip,)))
    return _hyper(node, skip, branch, reach) or _judge_projection(node, skip, root, branch, reach, joins)


def _hyper(node: Node, skip: Node, branch: Node, reach: Reach) -> Join | None:
    """The join of a hyper-connection."""
    hyper = hyper_connection(node, skip, branch, reach)
    if hyper is None:
        return None
    factor = hyper.mixing if reach.is_dependent(hyper.mixing.value) else None
    return Join(node, "hyper", skip, branch, node, (hyper.streams,), skip, factor, hyper)


def _skip_root(skip: Node, joins: dict[Node, Join]) -> Node:
    """Where the skip starts: before the additions that nothing else reads (parallel branches)."""
    while skip in joins and len(skip.users) == 1 and joins[skip].kind in ("identity", "scaled", "projection"):
        skip = joins[skip].skip
    return skip


def _judge_projection(
    node: Node, skip: Node, root: Node, branch: Node, reach: Reach, joins: dict[Node, Join]
) -> Join | str:
    nearest = _nearest(reach.ancestors[reach.index[root]], branch, reach)
    if not nearest:
        return _NOT_RELATED
    on_skip = union(reach.between(start, root) for start in nearest)
    on_branch = union(reach.between(start, branch) for start in nearest)
    is_linear = linear(on_skip, reach)
    is_stream = not is_linear and _is_stream(root, branch, joins, reach)
    if not (is_linear or is_stream or _is_preactivated(on_skip, on_branch, nearest, reach)):
        return ONE_OPERATOR
    parts = [] if is_stream or not reach.has_weights(on_skip) else parts_read(on_skip, reach)
    if parts and parts_read(on_branch, reach) != parts:
        return _OTHER_PARTS
    if linear(on_branch, reach):
        return _ALL_LINEAR
    if not reach.has_weights(on_branch):
        return _NO_PARAMETERS
    only_views = all(op_name(n) in VIEWS for n in reach.nodes(on_skip))
    kind: Kind = "identity" if is_stream or (only_views and not reach.has_weights(on_skip)) else "projection"
    return Join(node, kind, skip, branch, node, tuple(nearest), skip)


def _nearest(way: int, branch: Node, reach: Reach) -> list[Node]:
    """The signals of a way to the skip that flow into the branch, too, and into no other such one."""
    common = way & reach.ancestors[reach.index[branch]] & reach.dependent
    common = sum(reach.bit(n) for n in reach.nodes(common) if is_float(n))
    return [n for n in reach.nodes(common) if not reach.descendants[reach.index[n]] & common]


def _is_stream(root: Node, branch: Node, joins: dict[Node, Join], reach: Reach) -> bool:
    """Whether the skip is a stream with blocks of its own, which began as a projection of what the branch is made of.

    The branch is made for this addition (TNT's pixels for its patches): the sum of two streams is no block of either.
    """
    if any(value in joins for value in unscaled(branch, reach)):
        return False
    way = trunk([root], {node: join.skip for node, join in joins.items()}, reach)
    nearest = _nearest(way, branch, reach)
    after = union(reach.descendants[reach.index[n]] for n in nearest)
    return bool(nearest) and any(n in joins for n in reach.nodes(way)) and linear(way & after, reach)


def _is_preactivated(on_skip: int, on_branch: int, nearest: list[Node], reach: Reach) -> bool:
    """Whether the skip is one layer behind an activation of its own, the branch a chain of more (DPN)."""
    layers = [node for node in reach.nodes(on_skip) if reach.mixes_with_weights(node)]
    if len(nearest) != 1 or len(layers) != 1 or reach.depth_in_layers(on_branch) < 2:
        return False
    after = reach.descendants[reach.index[layers[0]]] & on_skip
    before = [node for node in reach.nodes(on_skip & ~after) if node is not layers[0]]
    return linear(after, reach) and all(op_name(node) in LINEAR | POINTWISE for node in before)


def parts_read(bits: int, reach: Reach) -> list[tuple[Any, ...]]:
    """Which parts of the value that a set starts from its first nodes read."""
    return [n.args[1:] for n in reach.nodes(bits) if op_name(n) in PARTS and not bits & reach.ancestors[reach.index[n]]]


def linear(bits: int, reach: Reach) -> bool:
    """Whether a set of nodes computes a linear map of the signals that it reads."""
    signals = reach.nodes(bits & reach.dependent)  # zeros of a signal's shape are none
    return all(op_name(n) in LINEAR and not reach.is_product_of_signals(n) for n in signals)


def _gated_skip(skip: Node, branch: Node, reach: Reach) -> tuple[Node, Node] | None:
    """x and its factor if `skip` is x * (1 - T) or x * C with a sigmoid gate, and x flows into `branch` (highway)."""
    if op_name(skip) != "mul":
        return None
    for signal, factor in [(skip.args[0], skip.args[1]), (skip.args[1], skip.args[0])]:
        if not (isinstance(signal, Node) and isinstance(factor, Node)):
            continue
        gate = factor
        while op_name(gate) in ("rsub", "sub", "add", "mul", "neg") and len(gate.all_input_nodes) == 1:
            gate = gate.all_input_nodes[0]
        if op_name(gate) not in ("sigmoid", "hardsigmoid") or not reach.is_dependent(gate):
            continue
        same_shape = hint_shape(signal) == hint_shape(branch)
        if same_shape and reach.is_ancestor(signal, branch) and reach.has_weights(reach.between(signal, branch)):
            return signal, factor
    return None
