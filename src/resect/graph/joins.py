"""Find the joins: the additions in which a branch flows back into the skip it came from (Veit et al., section 3).

One rule serves every network; nothing here knows a model family. Each addition of two signals of one shape is either
accepted as a join, or rejected with a reason that the user can read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal

from torch.fx import Node

from resect.errors import DataError
from resect.graph.capture import Capture
from resect.graph.hyper import HyperConnection, SkipFactor, hyper_connection
from resect.graph.ops import LINEAR, PARTS, POINTWISE, VIEWS, hint_shape, is_float, module_of, op_name
from resect.graph.outputs import scored_output
from resect.graph.reach import Reach, union
from resect.graph.sums import why_no_addition, why_no_block
from resect.graph.trunk import before_factor, trunk, unscaled

Kind = Literal["identity", "scaled", "projection", "gated", "hyper", "layer"]


@dataclass(frozen=True)
class Join:
    """One residual block as it stands in the graph.

    Attributes:
        node: the addition; of a plain layer, the layer's output.
        kind: "identity", "scaled" (by a number or learned factors), "projection", "gated" (highway: the skip is scaled
            by a gate), "hyper" (a hyper-connection: it mixes copies of the stream), or "layer" in a plain network.
        skip: the operand that stays when the branch is deleted.
        branch: the operand (or, split, the term of the operand) that the branch computes.
        consumer: the node that reads `branch` as the branch: the addition, or a sum inside the operand.
        entries: the values at which branch and skip part.
        bypass: what the join's value becomes without the branch; the skip, but for a highway's the ungated skip.
        factor: what multiplies the signal on a skip and is itself computed from a signal.
        hyper: the parts of a hyper-connection.
    """

    node: Node
    kind: Kind
    skip: Node
    branch: Node
    consumer: Node
    entries: tuple[Node, ...]
    bypass: Node
    factor: SkipFactor | None = None
    hyper: HyperConnection | None = None

    @property
    def entry(self) -> Node | None:
        """The one value at which the branch starts, None if it starts at several."""
        return self.entries[0] if len(self.entries) == 1 else None


@dataclass(frozen=True)
class Rejected:
    """An addition of two signals that is not a block, and why."""

    name: str
    module: str
    reason: str


def find_joins(captured: Capture, reach: Reach) -> tuple[list[Join], list[Rejected]]:
    """All blocks of a captured network in order, and every addition that was considered and rejected."""
    joins: dict[Node, Join] = {}
    reasons: dict[Node, str] = {}
    for node in captured.nodes:
        operands = _operands(node, reach)
        if operands is None:
            if reason := why_no_addition(node, reach):
                reasons[node] = reason
            continue
        verdict = _judge(node, operands, reach, joins)
        if isinstance(verdict, str):
            reasons[node] = verdict
            continue
        joins[node] = verdict
        if verdict.hyper and joins.pop(verdict.skip, None):
            reasons[verdict.skip] = _MIXING
    _drop_parallel(joins, reasons, reach)
    _drop_nested(joins, reasons, captured, reach)
    blocks = [term for join in joins.values() for part in _terms(join) for term in _split(part, joins, reasons, reach)]
    states = {state for join in blocks for state in (join.node, *join.entries)}
    reasons |= {n: why for n in captured.nodes if n not in reasons and (why := why_no_block(n, states, reach))}
    rejected = [Rejected(node.name, module_of(node), reason) for node, reason in reasons.items()]
    return blocks, rejected


def _operands(node: Node, reach: Reach) -> tuple[Node, ...] | None:
    """The signals that `node` adds, the possible skip first where the operator tells them apart."""
    name = op_name(node)
    if name == "summed" and not node.kwargs["mean"] and all(_signal(operand, reach) for operand in node.args):
        return tuple(node.all_input_nodes) if len({*node.args}) == len(node.args) else None
    if name in ("add", "sub"):
        pair = node.args[:2]
    elif name == "addcmul":  # input + value * tensor1 * tensor2: the product is the branch
        pair = (node.args[0], next((a for a in reversed(node.args[1:]) if _signal(a, reach)), None))
    else:
        return None
    first, second = pair
    if not (isinstance(first, Node) and isinstance(second, Node)) or first is second:
        return None
    if not (_signal(first, reach) or _signal(second, reach)):
        return None
    for one, other in ((first, second), (second, first)):
        if not _signal(one, reach) and not (_weights(one, reach) and reach.is_ancestor(one, other)):
            return None
    return first, second


def _signal(value: object, reach: Reach) -> bool:
    return isinstance(value, Node) and value in reach.index and is_float(value) and reach.is_dependent(value)


def _weights(value: object, reach: Reach) -> bool:
    """Whether a value is made of parameters alone, as the class token that attention then adds to."""
    return isinstance(value, Node) and value in reach.index and is_float(value) and reach.is_weighted(value)


def _judge(node: Node, operands: tuple[Node, ...], reach: Reach, joins: dict[Node, Join]) -> Join | str:
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


_NOT_RELATED = "neither operand flows into the other and they have no signal in common"
_ONE_OPERATOR = "both operands come over ways with a non-linearity: a sum of two branches, without a skip"
_ALL_LINEAR = "neither way has a non-linearity: a sum of linear maps, without a branch"
_NO_PARAMETERS = "no parameters lie on the way from one operand to the other"
_OTHER_PARTS = "the operands come from other parts of one value, each over weights: a sum of two heads"
_MIXING = "the mixing of a hyper-connection, whose block is the addition of what is written back"
_SUBTRACTED = "the skip would be subtracted or scaled"
_NO_WEIGHTS_NESTED = "part of the branch of a block: it holds no weights that mix"
_PARTIAL_NESTED = "part of the branch of a block: it adds other channels than its own branch reads"
_OPEN_NESTED = "part of the branch of a block: what it adds is made of other values than the one it is added to"
_REASONS = [_NOT_RELATED, _ONE_OPERATOR, _OTHER_PARTS, _ALL_LINEAR, _NO_PARAMETERS, _SUBTRACTED]


def _judge_ordered(node: Node, skip: Node, branch: Node, reach: Reach, joins: dict[Node, Join]) -> Join | str:
    """The same for `node` = `skip` + `branch`."""
    if skip in joins and not reach.is_ancestor(skip, branch) and (join := _hyper(node, skip, branch, reach)):
        return join
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
    common = reach.ancestors[reach.index[root]] & reach.ancestors[reach.index[branch]] & reach.dependent
    common = sum(reach.bit(n) for n in reach.nodes(common) if is_float(n))
    # Only the nearest common ancestors matter: those that flow into no other one.
    nearest = [n for n in reach.nodes(common) if not reach.descendants[reach.index[n]] & common]
    if not nearest:
        return _NOT_RELATED
    on_skip = union(reach.between(start, root) for start in nearest)
    on_branch = union(reach.between(start, branch) for start in nearest)
    is_linear = _linear(on_skip, reach)
    is_stream = not is_linear and _is_stream(root, branch, joins, reach)
    if not (is_linear or is_stream or _is_preactivated(on_skip, on_branch, nearest, reach)):
        return _ONE_OPERATOR
    parts = [] if is_stream or not reach.has_weights(on_skip) else _parts(on_skip, reach)
    if parts and _parts(on_branch, reach) != parts:
        return _OTHER_PARTS
    if _linear(on_branch, reach):
        return _ALL_LINEAR
    if not reach.has_weights(on_branch):
        return _NO_PARAMETERS
    only_views = all(op_name(n) in VIEWS for n in reach.nodes(on_skip))
    kind: Kind = "identity" if is_stream or (only_views and not reach.has_weights(on_skip)) else "projection"
    return Join(node, kind, skip, branch, node, tuple(nearest), skip)


def _is_stream(root: Node, branch: Node, joins: dict[Node, Join], reach: Reach) -> bool:
    """Whether the skip is a stream with blocks of its own, which began as a projection of what the branch is made of.

    The branch is made for this addition (TNT's pixels for its patches): the sum of two streams is no block of either.
    """
    if any(value in joins for value in unscaled(branch, reach)):
        return False
    way = trunk([root], {node: join.skip for node, join in joins.items()}, reach)
    shared = way & reach.ancestors[reach.index[branch]] & reach.dependent
    shared = sum(reach.bit(n) for n in reach.nodes(shared) if is_float(n))
    nearest = [n for n in reach.nodes(shared) if not reach.descendants[reach.index[n]] & shared]
    after = union(reach.descendants[reach.index[n]] for n in nearest)
    return bool(nearest) and any(n in joins for n in reach.nodes(way)) and _linear(way & after, reach)


def _is_preactivated(on_skip: int, on_branch: int, nearest: list[Node], reach: Reach) -> bool:
    """Whether the skip is one layer behind an activation of its own, the branch a chain of more (DPN)."""
    layers = [node for node in reach.nodes(on_skip) if reach.mixes_with_weights(node)]
    if len(nearest) != 1 or len(layers) != 1 or reach.depth_in_layers(on_branch) < 2:
        return False
    after = reach.descendants[reach.index[layers[0]]] & on_skip
    before = [node for node in reach.nodes(on_skip & ~after) if node is not layers[0]]
    return _linear(after, reach) and all(op_name(node) in LINEAR | POINTWISE for node in before)


def _parts(bits: int, reach: Reach) -> list[tuple[Any, ...]]:
    """Which parts of the value that a set starts from its first nodes read."""
    return [n.args[1:] for n in reach.nodes(bits) if op_name(n) in PARTS and not bits & reach.ancestors[reach.index[n]]]


def _linear(bits: int, reach: Reach) -> bool:
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


def branch_region(join: Join, reach: Reach) -> int:
    """The nodes that the branch computes: what lies between the entries and the branch operand."""
    return union(reach.between(entry, join.branch) for entry in join.entries)


def own_region(join: Join, joins: Iterable[Join], reach: Reach) -> int:
    """The branch behind the blocks that it reads, but which live on without it (in a RevNet, the other half's)."""
    region = branch_region(join, reach)
    for other in joins:
        inside = other.node is not join.node and region & reach.bit(other.node)
        if inside and not reach.ends_in(other.node, join.node):
            region &= ~(reach.ancestors[reach.index[other.node]] | reach.bit(other.node))
    return region


def layer_region(join: Join, joins: Iterable[Join], reach: Reach) -> int:
    """The nodes whose layers are counted: the branch's, without how a hyper-connection reads and writes the streams."""
    own, hyper = own_region(join, joins, reach), join.hyper
    return own & reach.between(hyper.read or hyper.streams, hyper.written) if hyper else own


def _drop_nested(joins: dict[Node, Join], reasons: dict[Node, str], captured: Capture, reach: Reach) -> None:
    """Keep a join inside another's branch only if its branch mixes with weights and reads the skip's value alone."""
    regions = {node: union(branch_region(term, reach) for term in _terms(join)) for node, join in joins.items()}
    for node in _inside_branches(regions, joins, captured, reach):
        if not reach.mixing(regions[node]):
            reasons[node] = _NO_WEIGHTS_NESTED
        elif _is_partial(joins[node], reach):
            reasons[node] = _PARTIAL_NESTED
        elif _is_open(joins[node], regions[node], reach):
            reasons[node] = _OPEN_NESTED
        else:
            continue
        del joins[node]


def _inside_branches(regions: dict[Node, int], joins: dict[Node, Join], captured: Capture, reach: Reach) -> list[Node]:
    """The joins whose values reach the logits (if those do not read them, the other outputs) over branches alone."""
    skips = {node: join.skip for node, join in joins.items()}
    try:
        logits = [scored_output(captured)]
    except DataError:  # the model returns classes, or complex numbers
        logits = []
    read = union(reach.ancestors[reach.index[node]] | reach.bit(node) for node in logits)
    to_logits = trunk(logits, skips, reach)
    to_outputs = trunk([output for output in captured.outputs if isinstance(output, Node)], skips, reach)
    return [
        node
        for node in joins
        if not (to_logits if read & reach.bit(node) else to_outputs) & reach.bit(node)
        and any(regions[outer] & reach.bit(node) for outer in joins if outer is not node)
    ]


def _is_partial(join: Join, reach: Reach) -> bool:
    """Whether the skip is a part of the value that the branch starts from."""
    on_skip = union(reach.between(entry, join.skip) for entry in join.entries)
    return bool(_parts(on_skip, reach))


def _is_open(join: Join, region: int, reach: Reach) -> bool:
    """Whether the branch reads signals beside its entries."""
    given = {*join.entries}
    inside = region | union(reach.between(entry, join.skip) for entry in join.entries)
    for node in reach.nodes(region):
        for operand in reach.dependents(node):
            if operand not in given and not inside & reach.bit(operand) and is_float(operand):
                return True
    return False


def _terms(join: Join) -> list[Join]:
    """One join a branch where an addition has more than two operands."""
    if op_name(join.node) != "summed":
        return [join]
    return [replace(join, branch=operand) for operand in join.node.all_input_nodes if operand is not join.skip]


def _drop_parallel(joins: dict[Node, Join], reasons: dict[Node, str], reach: Reach) -> None:
    """Take a projection beside a branch for two terms of the sum around it, if all three start from one value."""
    for outer in list(joins.values()):
        total = _sum_in(outer.branch, reach)
        inner = joins.get(total)
        if inner is None or inner.kind != "projection" or inner.entry is None or outer.entry is None:
            continue
        same = inner.entry is outer.entry or reach.is_ancestor(outer.entry, inner.entry)
        if same and len(total.users) == 1 and not reach.mixing(reach.between(outer.entry, inner.entry)):
            del joins[total]
            reasons[total] = _ONE_OPERATOR


def _sum_in(branch: Node, reach: Reach) -> Node:
    """The sum of which a branch is a view, or a product with numbers or factors; it itself, if it is none."""
    while len(branch.users) == 1 and (op_name(branch) in VIEWS or before_factor(branch, reach)):
        branch = reach.dependents(branch)[0]
    return branch


def _split(join: Join, joins: dict[Node, Join], reasons: dict[Node, str], reach: Reach) -> list[Join]:
    """One block a term where the branch is a sum of branches, x + (attn(x) + mlp(x)); else the join.

    Linear maps that are added are one linear map, and one branch.
    """
    total = _sum_in(join.branch, reach)
    if total in joins or len(total.users) > 1 or op_name(total) not in ("add", "sub", "addcmul", "summed", "lerp"):
        return [join]
    if join.kind not in ("identity", "scaled", "projection") or join.entry is None:
        return [join]
    terms = [operand for operand in dict.fromkeys(total.args) if isinstance(operand, Node) and _signal(operand, reach)]
    regions = [reach.between(join.entry, term) for term in terms]
    weighs = op_name(total) in ("lerp", "addcmul")  # by a number or factors; two signals would be a product
    if len(terms) < 2 or (weighs and len(terms) > 2) or not all(map(reach.mixing, regions)):
        return [join]
    others = [union(regions[:i] + regions[i + 1 :]) for i in range(len(regions))]
    if all(_linear(region & ~other, reach) for region, other in zip(regions, others, strict=True)):
        return [join]
    reasons.pop(total, None)
    parts = [replace(join, branch=term, consumer=total) for term in terms]
    return [term for part in parts for term in _split(part, joins, reasons, reach)]


def branch_names(joins: list[Join], reach: Reach) -> list[str]:
    """A module path for every join: the module that holds the branch's layers, or the one around the addition."""
    common = Counter(module_of(join.node) for join in joins)
    names = [_name(join, layer_region(join, joins, reach), common[module_of(join.node)] == 1, reach) for join in joins]
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique


def _name(join: Join, region: int, alone: bool, reach: Reach) -> str:
    nodes = reach.mixing(region) or [n for n in reach.nodes(region) if module_of(n)]
    home = module_of(join.node)
    paths = [module_of(node).split(".") for node in nodes]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    deepest = ".".join(parts[0] for parts in shared)
    inside_home = not home or deepest == home or deepest.startswith(home + ".")
    return home if alone and inside_home and home else deepest or home or join.node.name
