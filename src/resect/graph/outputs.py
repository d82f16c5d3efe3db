"""Which of a model's outputs is scored, its logits, and against which targets."""

from __future__ import annotations

from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import Node

from resect.errors import DataError
from resect.graph.capture import Capture

IGNORED = -100  # targets that count for nothing, as torch and transformers mark them


def logits_of(outputs: Any) -> Tensor:
    """The logits among a model's outputs: the tensor itself, the field `logits`, or the first floating tensor."""
    if isinstance(outputs, Tensor):
        return outputs
    named = getattr(outputs, "logits", None)
    if named is None and isinstance(outputs, dict):
        named = outputs.get("logits")
    if isinstance(named, Tensor):
        return named
    for leaf in pytree.tree_leaves(outputs):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf
    raise DataError("the model's outputs must hold logits, but no tensor among them is floating-point.")


def scored_output(captured: Capture) -> Node:
    """The node that computes the logits; paths are counted up to it."""
    values = [o.meta["val"] if isinstance(o, Node) else o for o in captured.outputs]
    chosen = logits_of(pytree.tree_unflatten(values, captured.out_spec))
    nodes = [o for o, value in zip(captured.outputs, values, strict=True) if value is chosen and isinstance(o, Node)]
    return nodes[0]
