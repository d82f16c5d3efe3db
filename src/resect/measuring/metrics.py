"""What a lesion does to a network, sample by sample, where outputs are logits of classes: error and cross-entropy."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from resect.errors import DataError
from resect.graph.calls import dtype_name
from resect.graph.outputs import IGNORED


def class_error(logits: Tensor, targets: Tensor) -> Tensor:
    """The error of every sample, (B,) float32; 0 or 1, for sequences the fraction of wrong positions.

    Args:
        logits: (B, C), or (B, L, C) for sequences; floating-point.
        targets: (B,) or (B, L) integers; -100 is ignored.
    """
    return over_positions(logits.float().argmax(-1) != targets.long(), targets)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of every sample in nats, (B,) float32; for sequences the mean over positions."""
    flat, wanted = logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1).long()
    return over_positions(F.cross_entropy(flat, wanted, reduction="none", ignore_index=IGNORED), targets)


def agreement(predictions: Tensor, intact: Tensor, targets: Tensor) -> Tensor:
    """Where two networks predict the same: (B,) float32; 0 or 1, for sequences the fraction of positions.

    Args:
        predictions, intact: (B,) or (B, L) integer classes.
    """
    return over_positions(predictions == intact, targets)


def divergence(logits: Tensor, intact: Tensor, targets: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(intact || lesioned) of the output distributions, (B,) float32, in nats.

    Args:
        logits, intact: (B, C), or (B, L, C) for sequences, over whose positions the mean is taken.
    """
    lesioned, wanted = F.log_softmax(logits.float(), -1), F.log_softmax(intact.float(), -1)
    parts = F.kl_div(lesioned, wanted, reduction="none", log_target=True)
    divergences = parts.masked_fill(wanted.isneginf(), 0).sum(-1)  # of classes that are masked
    return over_positions(divergences.clamp_min(0), targets)


def over_positions(values: Tensor, targets: Tensor) -> Tensor:
    """The mean over every sample's counted positions, (B,) float32; of the values themselves for single targets."""
    counted = (targets != IGNORED).view(len(targets), -1)
    total = (values.reshape(counted.shape).float() * counted).sum(1)
    return total / counted.sum(1).clamp_min(1)


def positions(targets: Tensor) -> Tensor:
    """How many positions of every sample count, (B,) float32."""
    return (targets != IGNORED).view(len(targets), -1).sum(1).float()


def chance_error(targets: np.ndarray) -> float | None:
    """The error of always naming the commonest class of integers of any shape; None if no target counts."""
    counted = targets[targets != IGNORED]
    return None if not counted.size else 1.0 - int(np.bincount(counted).max()) / counted.size


def check_targets(logits: Tensor, targets: Tensor) -> None:
    """Raise DataError unless `targets` fit `logits`."""
    if logits.ndim < 2 or tuple(logits.shape[:-1]) != tuple(targets.shape):
        same = targets.shape == logits.shape and bool((targets.float().sum(-1) == 1).all())
        one_hot = " Of one-hot targets, take targets.argmax(-1)." if same else ""
        raise DataError(
            f"the targets must have the shape of the model's logits without their last dimension, "
            f"{tuple(logits.shape[:-1])}, got {tuple(targets.shape)}. Logits have shape {tuple(logits.shape)}.{one_hot}"
        )
    check_classes(targets, logits.shape[-1])


def check_classes(targets: Tensor, classes: int) -> None:
    """Raise DataError unless `targets` are classes below `classes`, or ignored."""
    if targets.is_floating_point() or targets.is_complex():
        raise DataError(
            f"the targets must be integer classes, got {dtype_name(targets.dtype)}. Of classes, give "
            "targets.long(); of values, the outputs must have their shape."
        )
    counted = targets[targets != IGNORED]
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < classes:
        least, most = int(counted.min()), int(counted.max())
        outside = set(counted[(counted < 0) | (counted >= classes)].tolist())
        why = "The data belong to another model."
        if outside <= {-1, 255}:
            why = f"If that marks what is ignored, give {IGNORED} there."
        if classes == 1:
            why = "A single output is a regression, or one label that is there or not: give float targets (B, 1)."
        elif (least, most) == (1, classes):
            why = "They seem to be numbered from 1: give targets - 1."
        raise DataError(
            f"the targets must be classes 0 to {classes - 1} of the model's outputs, got values from {least} to "
            f"{most}. {why}"
        )
