"""Streams that start from zero: a tower, d = d + f(x + d), gathers what its blocks add to x, before x + d follows."""

from __future__ import annotations

from collections.abc import Mapping

from torch.fx import Node

from resect.graph.joins import Join
from resect.graph.ops import LINEAR, ZEROS, op_name
from resect.graph.reach import Reach


def zeros_behind(value: Node, reach: Reach) -> Node | None:
    """The zeros of which a value is a linear map, so that it holds no signal; None for other values."""
    while op_name(value) not in ZEROS:
        sources = [operand for operand in reach.operands(value) if operand.op != "placeholder"]
        if op_name(value) not in LINEAR or len(sources) != 1 or reach.is_dependent(value):
            return None
        (value,) = sources
    return value


def gathered(value: Node, joins: Mapping[Node, Join], reach: Reach) -> Node | None:
    """The last join of the stream of which a value is a linear map, if its first block was added to zero; else None."""
    if (last := _last_join(value, joins, reach)) is None:
        return None
    first = last
    while (before := _last_join(joins[first].skip, joins, reach)) is not None:
        first = before
    return last if zeros_behind(joins[first].skip, reach) else None


def _last_join(value: Node, joins: Mapping[Node, Join], reach: Reach) -> Node | None:
    """The join of which a value is a linear map."""
    while value not in joins:
        signals = reach.dependents(value)
        if op_name(value) not in LINEAR or len(signals) != 1:
            return None
        (value,) = signals
    return value
