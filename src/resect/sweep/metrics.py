"""What a lesion does to a network, sample by sample: error and cross-entropy."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.nn import functional as F

from resect.errors import DataError

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


def error_and_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Error and cross-entropy of every sample.

    Args:
        logits: (B, C), or (B, L, C) for sequences; floating-point.
        targets: (B,) or (B, L) integers; -100 is ignored.

    Returns:
        error: (B,) float32; 0 or 1, for sequences the fraction of wrong positions.
        loss: (B,) float32; cross-entropy in nats, for sequences the mean over positions.

    Raises:
        DataError: shapes or classes do not fit.
    """
    check_targets(logits, targets)
    flat, wanted = logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1)
    counted = wanted != IGNORED
    wrong = (flat.argmax(-1) != wanted) & counted
    loss = F.cross_entropy(flat, wanted, reduction="none", ignore_index=IGNORED)
    samples = targets.shape[0]
    weight = counted.view(samples, -1).float()
    total = weight.sum(1).clamp_min(1)
    return wrong.view(samples, -1).float().sum(1) / total, (loss.view(samples, -1) * weight).sum(1) / total


def check_targets(logits: Tensor, targets: Tensor) -> None:
    """Raise DataError unless `targets` fit `logits`."""
    if logits.ndim < 2 or tuple(logits.shape[:-1]) != tuple(targets.shape):
        raise DataError(
            f"the targets must have the shape of the model's logits without their last dimension, "
            f"{tuple(logits.shape[:-1])}, got {tuple(targets.shape)}. Logits have shape {tuple(logits.shape)}."
        )
    if targets.is_floating_point():
        raise DataError(f"the targets must be integer classes, got {str(targets.dtype).removeprefix('torch.')}.")
    counted = targets[targets != IGNORED]
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < logits.shape[-1]:
        raise DataError(
            f"the targets must be classes 0 to {logits.shape[-1] - 1} of the model's outputs, got values from "
            f"{int(counted.min())} to {int(counted.max())}. The data belong to another model."
        )


def device_of(module: torch.nn.Module) -> torch.device:
    """The device of a module's first parameter or buffer."""
    tensor = next(iter(module.parameters()), next(iter(module.buffers()), None))
    return torch.device("cpu") if tensor is None else tensor.device
