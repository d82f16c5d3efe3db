"""Which of a model's outputs is scored, and what it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import Node

from resect.errors import DataError
from resect.graph.capture import Capture
from resect.graph.ops import VIEWS, hints, op_name

IGNORED = -100  # targets that count for nothing, as torch and transformers mark them


def logits_of(outputs: Any, output: str | None = None) -> Tensor:
    """The scored tensor among a model's outputs: the tensor itself, the field `logits`, or the first floating tensor.

    Args:
        output: names another one: a key or field ("aux"), a place ("1"), or a way through several ("decoder.logits").

    Raises:
        DataError: there is no such output, or none is floating-point.
    """
    if output is not None:
        return _named(outputs, output)
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


def _named(outputs: Any, output: str) -> Tensor:
    value = outputs
    for part in output.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, Sequence) and part.lstrip("-").isdigit():
            value = value[int(part)] if -len(value) <= int(part) < len(value) else None
        else:
            value = getattr(value, part, None)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise DataError(
            f"the output {output!r} must be a floating-point tensor that the model returns; it returns "
            f"{outputs_in_words(outputs)}."
        )
    return value


def outputs_in_words(outputs: Any) -> str:
    """The floating-point tensors that a model returns, by the names that `logits_of` takes, with their shapes."""
    leaves, _ = pytree.tree_flatten_with_path(outputs)
    tensors = [(path, leaf) for path, leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    named = [f"{'.'.join(map(_part, path)) if path else 'one tensor'} {_shape(leaf)}" for path, leaf in tensors]
    return ", ".join(named) or "none"


def _shape(tensor: Tensor) -> str:
    batch: list[str] = [] if not tensor.ndim or isinstance(tensor.shape[0], int) else ["B"]
    sizes = batch + list(map(str, hints(tensor)[len(batch) :]))
    return f"({', '.join(sizes)})"


def _part(entry: Any) -> str:
    return str(next(getattr(entry, name) for name in ("key", "idx", "name") if hasattr(entry, name)))


def by_sample(captured: Capture, values: Sequence[Any]) -> Any:
    """The flat outputs in the form that the model returns, all with the samples in dimension 0, as targets have them.

    Only those of networks that were unravelled with another `batch_dim` are transposed.
    """
    moved = [
        value.movedim(captured.samples_at(node), 0) if captured.how.batch_dim and isinstance(value, Tensor) else value
        for node, value in zip(captured.outputs, values, strict=True)
    ]
    return pytree.tree_unflatten(moved, captured.out_spec)


def squashed_by(captured: Capture, output: str | None = None) -> str | None:
    """ "softmax" or "sigmoid" if the scored output is made by one; None else, of a log-softmax, too."""
    node = scored_output(captured, output)
    while op_name(node) in VIEWS and node.all_input_nodes:
        node = node.all_input_nodes[0]
    name = op_name(node).lstrip("_")
    return name if name in ("softmax", "sigmoid") else None


def scored_output(captured: Capture, output: str | None = None) -> Node:
    """The node that computes the scored output, of two with a comma between the first; paths are counted up to it."""
    values = [o.meta["val"] if isinstance(o, Node) else o for o in captured.outputs]
    first = None if output is None else output.partition(",")[0]
    chosen = logits_of(pytree.tree_unflatten(values, captured.out_spec), first)
    nodes = [o for o, value in zip(captured.outputs, values, strict=True) if value is chosen and isinstance(o, Node)]
    return nodes[0]
