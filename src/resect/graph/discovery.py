"""Find the joins of a network: every addition of two signals is accepted as one, or rejected with a reason."""

from __future__ import annotations

from dataclasses import replace

from torch.fx import Node

from resect.errors import DataError
from resect.graph.capture import Capture
from resect.graph.empty import zeros_behind
from resect.graph.joins import Join, Rejected, branch_region
from resect.graph.judging import ONE_OPERATOR, judge, linear, parts_read
from resect.graph.ops import PARTS, VIEWS, is_float, module_of, op_name
from resect.graph.outputs import scored_output
from resect.graph.reach import Reach, union
from resect.graph.sums import why_no_addition, why_no_block
from resect.graph.trunk import before_factor, behind, trunk

_MIXING = "the mixing of a hyper-connection, whose block is the addition of what is written back"
_NO_WEIGHTS_NESTED = "part of the branch of a block: it holds no weights that mix"
_PARTIAL_NESTED = "part of the branch of a block: it adds other channels than its own branch reads"
_OPEN_NESTED = "part of the branch of a block: what it adds is made of other values than the one it is added to"


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
        verdict = judge(node, operands, reach, joins)
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
            zeros = zeros_behind(one, reach) if is_float(one) else None
            if zeros is None or not reach.is_ancestor(zeros, other):
                return None
    return first, second


def _signal(value: object, reach: Reach) -> bool:
    return isinstance(value, Node) and value in reach.index and is_float(value) and reach.is_dependent(value)


def _weights(value: object, reach: Reach) -> bool:
    """Whether a value is made of parameters alone, as the class token that attention then adds to."""
    return isinstance(value, Node) and value in reach.index and is_float(value) and reach.is_weighted(value)


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
    return bool(parts_read(on_skip, reach))


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
            reasons[total] = ONE_OPERATOR


def _sum_in(branch: Node, reach: Reach) -> Node:
    """The sum of which a branch is a view, or a product with numbers or factors; it itself, if it is none."""
    while len(branch.users) == 1 and (op_name(branch) in VIEWS or before_factor(branch, reach)):
        branch = reach.dependents(branch)[0]
    return branch


def _split(join: Join, joins: dict[Node, Join], reasons: dict[Node, str], reach: Reach) -> list[Join]:
    """One block a term where the branch is a sum of branches, x + (attn(x) + mlp(x)); else the join.

    Linear maps that are added are one linear map, and one branch; so is f(x) and what is made of it without weights.
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
    own = [region & ~union(regions[:i] + regions[i + 1 :]) for i, region in enumerate(regions)]
    if all(linear(part, reach) for part in own) or _is_refined(terms, reach):
        return [join]
    if _is_mixture(total, reach):
        return [join]
    reasons.pop(total, None)
    parts = [replace(join, branch=term, consumer=total) for term in terms]
    return [term for part in parts for term in _split(part, joins, reasons, reach)]


def _is_refined(terms: list[Node], reach: Reach) -> bool:
    """Whether a term is made of another without weights, as the part of f(x) along x that is subtracted from it."""
    pairs = [(one, other) for one in terms for other in terms if reach.is_ancestor(one, other)]
    return any(not reach.mixing(reach.between(one, other)) for one, other in pairs)


def _is_mixture(total: Node, reach: Reach) -> bool:
    """Whether all terms of a sum are products with parts of one value: experts and their router are one branch."""
    terms: list[Node] = []
    pending = [total]
    while pending:
        node = pending.pop()
        inner = op_name(node) in ("add", "sub", "summed") and (node is total or len(node.users) == 1)
        (pending if inner else terms).extend(reach.dependents(node) if inner else [node])
    products = [term for term in terms if op_name(term) == "mul" and reach.is_product_of_signals(term)]
    wholes = [{whole for factor in reach.dependents(term) for whole in _cut_from(factor, reach)} for term in products]
    return len(wholes) == len(terms) > 1 and bool(set.intersection(*wholes))


def _cut_from(value: Node, reach: Reach) -> list[Node]:
    """The values of which a value is a part, through views."""
    chain = list(behind(value, VIEWS, reach))
    return [whole for i, whole in enumerate(chain) if any(op_name(node) in PARTS for node in chain[:i])]
