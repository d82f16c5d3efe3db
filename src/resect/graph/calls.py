"""Calls of a model: their arguments and leaves, the names and shapes of these, and what a call returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

Call = tuple[tuple[Any, ...], dict[str, Any]]


def as_call(example: Any) -> Call:
    """Turn a tensor, tuple or mapping of inputs into positional and keyword arguments."""
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, (tuple, list)):
        return tuple(example), {}
    return (example,), {}


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype as users write it: "float32"."""
    return str(dtype).removeprefix("torch.")


def labelled(call: Call) -> list[tuple[str, Any]]:
    """Every leaf of a call, in pytree order, with the name a user knows it by."""
    named: list[tuple[str, Any]] = []
    for path, leaf in pytree.tree_leaves_with_path(call):
        place, *words = [str(getattr(key, "key", getattr(key, "idx", key))) for key in path]
        named.append((("input " if place == "0" else "") + ".".join(words), leaf))
    return named


def batch_dimensions(leaves: Sequence[Any], batch_dim: int) -> list[int | None]:
    """For each leaf of a call the dimension that counts the samples, None for what holds none.

    It is `batch_dim` wherever that has the size of the first tensor's, else the first dimension that has.
    """
    shaped = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim > batch_dim]
    batch = shaped[0].shape[batch_dim] if shaped else None

    def at(leaf: Any) -> int | None:
        sizes = tuple(leaf.shape) if isinstance(leaf, Tensor) else ()
        return next((i for i in (batch_dim, 0) if i < len(sizes) and sizes[i] == batch), None)

    return [at(leaf) for leaf in leaves]


def widen(call: Call, batch_dim: int) -> Call:
    """The same call with every sample twice."""
    leaves, spec = pytree.tree_flatten(call)
    places = zip(leaves, batch_dimensions(leaves, batch_dim), strict=True)
    return pytree.tree_unflatten([leaf if at is None else torch.cat([leaf] * 2, at) for leaf, at in places], spec)  # type: ignore[no-any-return]  # of the structure that it is given


def unmarked(call: Call) -> Call:
    """The same values in tensors of our own: torch.export marks those that it is given, models may write into them."""

    def own(leaf: Any) -> Any:
        return leaf.detach().clone().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf

    return pytree.tree_map(own, call)  # type: ignore[no-any-return]  # tree_map keeps the structure it is given


def outputs_of(model: nn.Module, call: Call) -> Any:
    """What a model returns, but None where no graph can return it, e.g. the key-value cache of a language model.

    Data classes that torch does not know yet are made known to it: their fields are outputs, too.
    """
    args, kwargs = call
    outputs = model(*args, **kwargs)
    for kind in {
        type(leaf) for leaf in pytree.tree_leaves(outputs) if is_dataclass(leaf) and not isinstance(leaf, type)
    }:
        torch.export.register_dataclass(kind)
    plain = (Tensor, bool, int, float, str, type(None))
    return pytree.tree_map(lambda leaf: leaf if isinstance(leaf, plain) else None, outputs)
