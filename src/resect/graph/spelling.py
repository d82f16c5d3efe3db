"""One spelling for sums, which discovery reads as additions and subtractions of their terms. No bit changes."""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

from resect.graph.ops import op_name, summed

_ADD, _SUB = torch.ops.aten.add.Tensor, torch.ops.aten.sub.Tensor
_PARTS = ("split", "split_with_sizes", "chunk")
_SUMS = ("add", "sub")


def plain_sums(graph: Graph) -> None:
    """Rewrite `graph` in place: no minus that another takes back, no sum over a stack, no part of a concatenation."""
    for node in list(graph.nodes):
        if node.op == "call_function":
            _without_factors_of_one(node)
            _without_copies(node)
            _without_double_minus(node)
            _as_sum_of_terms(node)
            _as_what_was_concatenated(node)


def _without_factors_of_one(node: Node) -> None:
    """Write x * 1 as x, x * -1 as -x, and --x as x."""
    if op_name(node) in ("mul", "div") and len(node.args) == 2 and not node.kwargs:
        value, factor = node.args
        plain = isinstance(value, Node) and type(factor) in (int, float) and factor in (1, -1)
        if not plain or value.meta["val"].dtype != node.meta["val"].dtype:  # type: ignore[union-attr]  # a node
            return
        if factor == 1:
            node.replace_all_uses_with(value)  # type: ignore[arg-type]  # a node
        else:
            node.target, node.args = torch.ops.aten.neg.default, (value,)
    inner = _negated(node)
    if inner is not None and _negated(inner) is not None:
        node.replace_all_uses_with(_negated(inner))  # type: ignore[arg-type]  # a node


def _without_copies(node: Node) -> None:
    """Let a sum read x, where it reads a copy that nothing else reads, as y = x.clone(); y += f(x) does."""
    for operand in node.all_input_nodes if op_name(node) in _SUMS else ():
        if op_name(operand) == "clone" and not operand.kwargs and len(operand.users) == 1:
            node.replace_input_with(operand, operand.all_input_nodes[0])


def _negated(node: object) -> Node | None:
    value = node.args[0] if isinstance(node, Node) and op_name(node) == "neg" else None
    return value if isinstance(value, Node) else None


def _without_double_minus(node: Node) -> None:
    """Write a - (-b) and a + -1 * b as one operator, which rounds the same."""
    name, operands = op_name(node), node.args[:2]
    if name not in ("add", "sub", "rsub") or len(operands) != 2 or not all(isinstance(o, Node) for o in operands):
        return
    one, other = operands
    alpha = node.kwargs.get("alpha", 1)
    if alpha not in (1, -1):
        return
    minus = (name != "add") != (alpha == -1)
    if name == "rsub" and alpha == 1:
        one, other = other, one
    elif name == "rsub":  # b + a
        minus = False
    if (bare := _negated(other)) is not None:
        other, minus = bare, not minus
    if (bare := _negated(one)) is not None and not minus:
        one, other, minus = other, bare, True
    node.target, node.args, node.kwargs = _SUB if minus else _ADD, (one, other), {}


def _as_sum_of_terms(node: Node) -> None:
    """Give a sum or mean over a new axis, torch.stack((x, f)).sum(0), its terms as operands."""
    name = op_name(node)
    if name not in ("sum", "mean") or len(node.args) != 2 or node.kwargs:
        return
    stack, dims = node.args
    terms = _terms_of_stack(stack)
    if terms is None or len(terms) < 2 or not isinstance(dims, (list, tuple)) or len(dims) != 1:
        return
    assert isinstance(stack, Node)
    value, dim = stack.meta["val"], int(dims[0]) % stack.meta["val"].ndim  # type: ignore[arg-type]  # a number
    if dim != _axis(stack) or any(term.meta["val"].dtype != value.dtype for term in (*terms, node)):
        return
    with node.graph.inserting_before(node):
        total = node.graph.call_function(summed, tuple(terms), {"dim": dim, "mean": name == "mean"})
    total.meta = dict(node.meta)
    node.replace_all_uses_with(total)


def _terms_of_stack(node: object) -> list[Node] | None:
    """The values that stack, or cat of unsqueezed ones, puts along a new axis; None for other nodes."""
    if (
        not isinstance(node, Node)
        or op_name(node) not in ("stack", "cat")
        or not isinstance(node.args[0], (list, tuple))
    ):
        return None
    terms = [term for term in node.args[0] if isinstance(term, Node)]
    if op_name(node) == "stack":
        return terms
    dim = _axis(node)
    rank = node.meta["val"].ndim
    new = all(op_name(term) == "unsqueeze" and int(term.args[1]) % rank == dim for term in terms)  # type: ignore[arg-type]
    return [term.args[0] for term in terms] if new else None  # type: ignore[misc]  # nodes


def _axis(node: Node) -> int:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    return int(dim) % int(node.meta["val"].ndim)  # type: ignore[arg-type]  # a number


def _as_what_was_concatenated(node: Node) -> None:
    """Let a sum read f and g, where it reads the parts into which cat((f, g)) is split again."""
    if op_name(node) != "getitem" or not all(op_name(user) in _SUMS for user in node.users):
        return
    parts, index = node.args
    whole = parts.args[0] if isinstance(parts, Node) and op_name(parts) in _PARTS else None
    if not isinstance(whole, Node) or op_name(whole) != "cat" or not isinstance(whole.args[0], (list, tuple)):
        return
    assert isinstance(parts, Node)
    dim = int(parts.args[2] if len(parts.args) > 2 else parts.kwargs.get("dim", 0))  # type: ignore[arg-type]  # a number
    sizes = [part.shape for part in parts.meta["val"]]
    terms = [term for term in whole.args[0] if isinstance(term, Node)]
    same = sizes == [term.meta["val"].shape for term in terms] and dim % whole.meta["val"].ndim == _axis(whole)
    if same and all(term.meta["val"].dtype == node.meta["val"].dtype for term in terms):
        node.replace_all_uses_with(terms[int(index)])  # type: ignore[arg-type]  # a number
