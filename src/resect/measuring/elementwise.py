"""What a lesion does to a network, sample by sample, where targets have the shape of outputs: labels and values."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resect.errors import DataError
from resect.graph.outputs import IGNORED
from resect.measuring.metrics import over_positions


def label_error(logits: Tensor, targets: Tensor) -> Tensor:
    """The part of the labels of every sample that is wrong, (B,) float32; a logit above 0 says that one is there."""
    return over_positions((_alike(logits, targets) > 0) != (targets > 0.5), targets)


def label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The binary cross-entropy of every sample in nats, (B,), the mean over its labels."""
    logits, counted = _alike(logits, targets), targets != IGNORED
    wanted = targets.to(logits.dtype) * counted
    return _mean(F.binary_cross_entropy_with_logits(logits, wanted, reduction="none"), counted)


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean absolute error of every sample, (B,)."""
    return (_alike(outputs, targets) - targets).abs().reshape(len(targets), -1).mean(1)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean squared error of every sample, (B,)."""
    return (_alike(outputs, targets) - targets).square().reshape(len(targets), -1).mean(1)


def labels_named(logits: Tensor, targets: Tensor) -> Tensor:
    """Which labels the network says are there, int32 in the shape of the targets."""
    return (_alike(logits, targets) > 0).to(torch.int32)


def label_chance(targets: np.ndarray) -> float:
    """The error of always naming, of each label, its commoner state."""
    present = np.ma.masked_equal(targets.reshape(len(targets), -1), IGNORED).mean(0)
    return float(np.minimum(present, 1 - present).mean())


def absolute_chance(targets: np.ndarray) -> float:
    """The error of always naming the median of each value."""
    flat = targets.reshape(len(targets), -1)
    return float(np.abs(flat - np.median(flat, axis=0)).mean())


def _alike(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs in the shape of the targets, where only a dimension of one output is in the way."""
    for shaped in (outputs, *(outputs.squeeze(i) for i in (1, -1) if outputs.ndim > 1), outputs[..., None]):
        if shaped.shape == targets.shape:
            return shaped if shaped.dtype == torch.float64 else shaped.float()
    raise DataError(
        f"the targets must have the shape of the model's outputs, {tuple(outputs.shape)}, got {tuple(targets.shape)}."
    )


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of the counted values of every sample, (B,), in their dtype."""
    counted = counted.reshape(len(counted), -1)
    return (values.reshape(counted.shape) * counted).sum(1) / counted.sum(1).clamp_min(1)
