"""Batches of text for causal language models, and the same inputs with other tokens in their place.

Letters: B samples, L positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from resect.graph.outputs import IGNORED
from resect.measuring.batches import Batch
from resect.network.unraveled import Unraveled


def tokens_of(net: Unraveled, batch: Batch) -> Tensor | None:
    """The tokens (B, L) of a batch whose targets are the tokens that follow; None of every other batch.

    Beside them the inputs may hold masks, of ones and zeros, and nothing else. Samples that a mask cuts short are left
    out.
    """
    targets = batch.targets
    leaves = [leaf for leaf in pytree.tree_leaves(batch.inputs) if isinstance(leaf, Tensor)]
    if not batch.task.classes or targets.ndim != 2 or net.batch_dim > 1:
        return None
    if any(leaf.ndim != 2 or leaf.movedim(net.batch_dim, 0).shape != targets.shape for leaf in leaves):
        return None
    several = [leaf.movedim(net.batch_dim, 0).cpu() for leaf in leaves if not _is_mask(leaf)]
    if len(several) != 1 or several[0].is_floating_point():
        return None
    counted = targets[:, :-1] != IGNORED
    if not counted.any() or not torch.equal(targets[:, :-1][counted], several[0][:, 1:][counted].to(targets.dtype)):
        return None
    whole = torch.ones(len(targets), dtype=torch.bool)
    for mask in filter(_is_mask, leaves):
        whole &= (mask.movedim(net.batch_dim, 0) == 1).all(1).cpu()
    return several[0][whole].long()


def with_tokens(net: Unraveled, inputs: Any, tokens: Tensor) -> Any:
    """Inputs like those of a batch of text, with these tokens (B, L) and nothing masked."""
    tokens = tokens.movedim(0, net.batch_dim)

    def replaced(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return torch.ones_like(tokens, dtype=leaf.dtype) if _is_mask(leaf) else tokens.to(leaf.dtype)

    return pytree.tree_map(replaced, inputs)


def in_batches(net: Unraveled, tokens: Tensor, targets: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Some samples at a time; just as many as the graph is held to, if it is, the last few left out."""
    step = net.batch_size or size
    for start in range(0, len(tokens) // step * step if net.batch_size else len(tokens), step):
        yield tokens[start : start + step], targets[start : start + step]


def _is_mask(leaf: Tensor) -> bool:
    return bool(((leaf == 0) | (leaf == 1)).all())
