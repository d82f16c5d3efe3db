"""Embeddings that are to find each other in their batch: retrieval, and contrastive training's InfoNCE.

Targets (B,) say what each row is to find. Where some are -100, those rows are candidates, and every other target is the
place of a row among them, in order (queries and documents). Of a model that returns two embeddings, it is the place
among the second ones. Else rows with equal targets belong together, and all other rows are candidates.

Letters: B rows, Q queries, N candidates, D dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.nn import functional as F

from resect.errors import DataError
from resect.graph.calls import dtype_name
from resect.graph.outputs import IGNORED, logits_of, outputs_in_words

Embeddings = tuple[Tensor, ...]  # (B, D) of every row, or two of them


def embeddings_of(outputs: Any, output: str | None = None) -> Embeddings:
    """The embeddings that a model returns: its one or two tensors (B, D), or those that `output` names.

    Args:
        output: as in `logits_of`; two with a comma between.

    Raises:
        DataError: it returns another number of them, or of other shapes.
    """
    if output is not None:
        chosen = [logits_of(outputs, name) for name in output.split(",")]
    else:
        leaves = pytree.tree_leaves(outputs)
        chosen = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim == 2]
    if len(chosen) not in (1, 2) or any(leaf.ndim != 2 or leaf.shape != chosen[0].shape for leaf in chosen):
        raise DataError(
            f"the model must return one embedding (B, D) a row, or two, but returns {outputs_in_words(outputs)}. Name "
            "it: task='contrastive:NAME', or 'contrastive:NAME,NAME'; of states of tokens, let a module pool them."
        )
    return tuple(chosen)


def loss(embeddings: Embeddings, targets: Tensor, temperature: float) -> Tensor:
    """InfoNCE of every row, (B,), in nats; 0 of candidates: -log of the softmax, over candidates, of those wanted."""
    rows, scores, wanted = _scores(embeddings, targets)
    scores = scores / temperature
    values = scores.logsumexp(1) - scores.masked_fill(~wanted, -torch.inf).logsumexp(1)
    return values.new_zeros(len(targets)).index_put((rows,), values)


def divergence(embeddings: Embeddings, intact: Embeddings, targets: Tensor, temperature: float) -> Tensor:
    """How far the candidates that a row finds are from those that it finds intact, (B,) float32, in nats; 0 of
    candidates: the Kullback-Leibler divergence of the softmax over candidates from that of the intact network."""
    rows, scores, _ = _scores(embeddings, targets)
    found, before = (F.log_softmax(s.float() / temperature, 1) for s in (scores, _scores(intact, targets)[1]))
    apart = (before - found).masked_fill(before == -torch.inf, 0)  # a row does not find itself
    values = (before.exp() * apart).sum(1).clamp_min(0)
    return values.new_zeros(len(targets)).index_put((rows,), values)


def error(embeddings: Embeddings, targets: Tensor) -> Tensor:
    """1 where the nearest candidate is none that is wanted, (B,)."""
    rows, scores, wanted = _scores(embeddings, targets)
    wrong = ~wanted.gather(1, scores.argmax(1, keepdim=True))[:, 0]
    return scores.new_zeros(len(targets)).index_put((rows,), wrong.to(scores.dtype))


def nearest(embeddings: Embeddings, targets: Tensor) -> Tensor:
    """The candidate nearest to every row, (B,) int32."""
    rows, scores, _ = _scores(embeddings, targets)
    return rows.new_zeros(len(targets)).index_put((rows,), scores.argmax(1)).to(torch.int32)


def _scores(embeddings: Embeddings, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows that are queries (Q,), their cosines with the candidates (Q, N), and which of those are wanted."""
    if targets.shape != embeddings[0].shape[:1] or targets.is_floating_point():
        raise DataError(
            f"the targets must be one integer for each of the {len(embeddings[0])} embeddings of a batch, got "
            f"{tuple(targets.shape)} {dtype_name(targets.dtype)}."
        )
    unit = [F.normalize(part, dim=1) for part in embeddings]
    counted = targets != IGNORED
    rows, sought = counted.nonzero()[:, 0], targets[counted]
    grouped = len(embeddings) == 1 and bool(counted.all())
    candidates = unit[-1] if grouped or len(embeddings) == 2 else unit[0][~counted]
    scores = unit[0][rows] @ candidates.T
    if grouped:
        itself = torch.eye(len(targets), dtype=torch.bool, device=targets.device)
        scores, wanted = scores.masked_fill(itself, -torch.inf), (sought[:, None] == sought[None]) & ~itself
    else:
        wanted = sought[:, None] == torch.arange(len(candidates), device=targets.device)
    if not bool(wanted.any(1).all()):
        lost = int(sought[~wanted.any(1)][0])
        raise DataError(
            "every row must have a candidate in its batch that it is to find, but "
            + (
                f"no other row has the target {lost} of one of them. Keep groups in one batch."
                if grouped
                else f"there are {len(candidates)} and a target is {lost}."
            )
        )
    return rows, scores, wanted
