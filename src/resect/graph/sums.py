"""Residual sums in other words than an addition: no joins, but never passed over without a reason."""

from __future__ import annotations

from collections.abc import Set

from torch import Tensor
from torch.fx import Node

from resect.graph.ops import NORMS, VIEWS, hint_shape, op_name
from resect.graph.reach import Reach
from resect.graph.trunk import behind

_INTERPOLATED = "the branch is not added: it is interpolated with the skip, or one operator weighs or bends both"
_PICKED = "each of its values is the skip's or the branch's: neither is added to the other"
_MATMUL = "the branch is added inside a matrix product, whose weights have no addition of their own"
_STACKED = "the branch is added by a sum over stacked values"
_SCATTERED = "the branch is added at chosen places only"
_COMPLEX = "the operands are complex numbers, for which no gradient of paths is defined"
_INSIDE = "a cell or control flow whose additions stand inside one operator"
_READ_TOGETHER = "outputs of blocks are stacked and read together, as by attention over depth: no addition of two"
_WRITE_SUM = "; write it as skip + branch, and it is a block"

_PRODUCTS = ("addmm", "baddbmm", "addbmm", "addmv", "addr")
_TO_COMPLEX = {"complex", "view_as_complex"}
_OVER_STACKS = ("sum", "mean", "logsumexp", "einsum", "matmul", "mm", "bmm", "mv", "summed")

_REASONS = {
    **dict.fromkeys(("add", "sub", "rsub"), _COMPLEX),
    **dict.fromkeys(("lerp", "logaddexp", "logaddexp2", "hypot", "addcdiv"), _INTERPOLATED),
    **dict.fromkeys(("where", "maximum", "minimum"), _PICKED),
    **dict.fromkeys(_PRODUCTS, _MATMUL + _WRITE_SUM),
    **dict.fromkeys(_OVER_STACKS, _STACKED + _WRITE_SUM),
    **dict.fromkeys(("index_add", "scatter_add", "scatter_reduce", "index_put", "index_reduce"), _SCATTERED),
    **dict.fromkeys(("gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell", "cond", "while_loop"), _INSIDE),
}


def why_no_addition(node: Node, reach: Reach) -> str | None:
    """Why a node that sums a branch with its skip, but is no addition of two signals, is no block; None for others."""
    name = op_name(node)
    if name not in _REASONS:
        return None
    source = _stack_behind(node, reach) if name in _OVER_STACKS and name != "summed" else node
    if source is None:
        return None
    signals = [operand for operand in reach.dependents(source) if _is_signal(operand)]
    if name in ("add", "sub", "rsub") and not any(operand.meta["val"].is_complex() for operand in signals):
        return None
    if _REASONS[name] is _INSIDE:  # a cell reads its state beside its input
        enough = len(signals) > (name not in ("cond", "while_loop"))
        return _INSIDE if enough and reach.reads_weights(node) else None
    weighs = name in _PRODUCTS and reach.reads_weights(node)
    related = any(_is_skip_of(skip, branch, node, weighs, reach) for skip in signals for branch in signals)
    return _REASONS[name] if related else None


def why_no_block(node: Node, states: Set[Node], reach: Reach) -> str | None:
    """Why a stack of several `states` of a network is no block, if a layer reads it; None for other nodes.

    Args:
        states: the values of joins, and those at which their branches start.
    """
    stacked = _side_by_side(node, reach) if op_name(node) in ("stack", "cat") else []
    held = {[*behind(value, VIEWS | NORMS, reach)][-1] for value in stacked} & states
    return _READ_TOGETHER if len(held) > 1 and not _is_returned(node) else None


def _side_by_side(node: Node, reach: Reach) -> list[Node]:
    """The values that a node puts side by side along a dimension of their own; none if they have none."""
    operands = reach.dependents(node)
    if op_name(node) == "cat":
        each = [_side_by_side(operand, reach) for operand in operands]
        return [value for values in each for value in values] if all(each) else []
    if op_name(node) == "_to_copy":
        return _side_by_side(operands[0], reach)
    return operands if op_name(node) in ("stack", "unsqueeze") else []


def _is_returned(node: Node) -> bool:
    """Whether nothing but the outputs reads a node."""
    return all(user.op == "output" or (op_name(user) in VIEWS and _is_returned(user)) for user in node.users)


def _stack_behind(node: Node, reach: Reach) -> Node | None:
    """The stack, or concatenation, whose values a node sums, behind views and factors."""
    pending = reach.dependents(node)
    while pending:
        source = pending.pop()
        if op_name(source) in ("stack", "cat"):
            return source
        if op_name(source) in VIEWS | {"mul"}:
            pending += reach.dependents(source)
    return None


def _is_signal(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _is_skip_of(skip: Node, branch: Node, node: Node, weighs: bool, reach: Reach) -> bool:
    """Whether weights, or `node` itself that `weighs`, turn `skip` into `branch`, and the sum has the skip's shape."""
    if skip is branch or (hint_shape(skip) != hint_shape(node) and op_name(node) not in _OVER_STACKS):
        return False
    *_, skip = behind(skip, VIEWS | _TO_COMPLEX, reach)
    ways = reach.is_ancestor(skip, branch)
    return ways and (weighs or reach.has_weights(reach.between(skip, branch)))
