"""Where a signal comes from if every block hands on its skip alone: the trunk of a residual network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from torch.fx import Node

from resect.graph.ops import VIEWS, hint_shape, op_name
from resect.graph.reach import Reach

_FACTORS = frozenset({"mul", "div"})
_SAME_VALUES = VIEWS & frozenset(
    "view _unsafe_view reshape permute transpose t flatten unflatten squeeze unsqueeze clone contiguous alias _to_copy "
    "to type_as movedim swapaxes".split()
)


def trunk(ends: Iterable[Node], skips: Mapping[Node, Node], reach: Reach) -> int:
    """The nodes from which the values of `ends` come, and they themselves.

    Args:
        skips: of every join, the operand that it hands on.
    """
    pending, way = [end for end in ends if end in reach.index], 0
    while pending:
        node = pending.pop()
        if not way & reach.bit(node):
            way |= reach.bit(node)
            operands = [skips[node]] if node in skips else reach.operands(node)
            pending.extend(operands)
    return way


def before_factor(node: Node, reach: Reach) -> Node | None:
    """The signal x if `node` is x times a number or learned factors, and those are no signal."""
    signals = reach.dependents(node)
    if op_name(node) not in _FACTORS or len(signals) != 1 or reach.is_product_of_signals(node):
        return None
    return signals[0] if prod(hint_shape(signals[0]) or ()) == prod(hint_shape(node) or ()) else None


def unscaled(node: Node, reach: Reach) -> list[Node]:
    """`node`, and all that it is but for factors, shapes and types, the nearest first."""
    values = [node]
    while True:
        before = before_factor(node, reach)
        if before is None and (op_name(node) not in _SAME_VALUES or len(reach.dependents(node)) != 1):
            return values
        node = before or reach.dependents(node)[0]
        values.append(node)
