"""What a part of a value holds: a slice of a concatenation comes from those operands alone that it reaches into."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from resect.graph.ops import PARTS, POINTWISE, hint_shape, op_name

_ALONG_LAST = frozenset({"layer_norm", "rms_norm"})  # each place is computed from the same place of the operand


def operands_read(node: Node, ends: Collection[Node]) -> list[Node]:
    """The operands of `node`; of a part of a concatenation or stack, those that it holds.

    Args:
        ends: values that are not looked through.
    """
    piece = node.args[0] if op_name(node) == "getitem" else node
    if not isinstance(piece, Node) or op_name(piece) not in PARTS or len(piece.all_input_nodes) > 1:
        return node.all_input_nodes
    whole: Any = piece.args[0]
    normalised = 0
    while op_name(whole) in POINTWISE | _ALONG_LAST and whole not in ends:
        normalised = max(normalised, len(whole.args[1])) if op_name(whole) in _ALONG_LAST else normalised
        whole = whole.args[0]
    labels = None if whole in ends else _labels(whole, normalised)
    if labels is None:
        return node.all_input_nodes
    part: Any = piece.target(labels, *piece.args[1:], **piece.kwargs)  # type: ignore[operator]  # an operator's node
    part = part[node.args[1]] if piece is not node else part
    once = part[tuple(slice(None) if stride else 0 for stride in part.stride())]
    operands = whole.args[0]
    return [operands[i] for i in sorted({*once.flatten().tolist()})]


def _labels(whole: Node, normalised: int) -> Tensor | None:
    """For every entry of a concatenation the number of its operand; None if the last dimensions mix them."""
    if op_name(whole) not in ("cat", "stack"):
        return None
    operands, dim = (*whole.args, 0)[:2]
    assert isinstance(operands, Sequence) and isinstance(dim, int)
    shape = hint_shape(whole) or ()
    shapes = [hint_shape(operand) or () for operand in operands if isinstance(operand, Node)]
    dim %= len(shape)
    stacked = op_name(whole) == "stack"
    if dim >= len(shape) - normalised or not all(shape) or {len(one) for one in shapes} != {len(shape) - stacked}:
        return None
    sizes = torch.tensor([1 if stacked else one[dim] for one in shapes])
    line = torch.arange(len(operands)).repeat_interleave(sizes)
    return line.view(-1, *[1] * (len(shape) - dim - 1)).expand(shape)
