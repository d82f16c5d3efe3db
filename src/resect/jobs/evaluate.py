"""The test error of networks side by side, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from resect.data import Samples
from resect.errors import DataError
from resect.graph.outputs import IGNORED, logits_of
from resect.jobs.fit import require_fit
from resect.measuring.metrics import error_and_loss, positions
from resect.measuring.statistics import mcnemar, paired_error_interval
from resect.models.specs import LoadedModel


def evaluate_networks(
    networks: Iterable[LoadedModel],
    samples: Samples,
    batch_size: int = 500,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """Measure networks on the same samples, each beside the first.

    The intervals are over samples: they say how well these weights are known, and nothing of other training seeds.

    Args:
        networks: on the device and in the dtype that they are to be measured in.
        progress: called with the number of samples after every batch.

    Returns:
        One row a network: `model`, `parameters`, `samples` (those whose target is ignored are left out), `error`
        (fraction) with the 95 % Wilson interval `error_low` and `error_high`, `loss` (nats), and, but for the first,
        the `difference` of its error to that of the first with Tango's 95 % interval `difference_low` and
        `difference_high` and McNemar's `p_value`.

    Raises:
        DataError: the samples have more than one target each, none that counts, or do not fit a network.
    """
    if samples.targets.ndim != 1:
        raise DataError(f"{samples.name} must have one target a sample, got {tuple(samples.targets.shape)}.")
    rows: list[dict[str, object]] = []
    first: np.ndarray | None = None
    for network in networks:
        require_fit(network.module, samples)
        errors, losses = _measure(network.module, samples, batch_size, progress or (lambda count: None))
        wrong, loss = errors.cpu().numpy() > 0, float(losses.mean())
        error, count = float(wrong.mean()), len(wrong)
        interval = binomtest(int(wrong.sum()), count).proportion_ci(0.95, method="wilson")
        row: dict[str, object] = {
            "model": network.spec,
            "parameters": sum(parameter.numel() for parameter in network.module.parameters()),
            "samples": count,
            "error": error,
            "error_low": interval.low,
            "error_high": interval.high,
            "loss": loss,
        }
        if first is None:
            first = wrong
        else:
            broken, repaired = [int((wrong & ~first).sum())], [int((first & ~wrong).sum())]
            low, high = paired_error_interval(broken, repaired, count)
            row |= {"difference": error - float(first.mean()), "difference_low": low[0], "difference_high": high[0]}
            row["p_value"] = mcnemar(broken, repaired)[0]
        rows.append(row)
    return pd.DataFrame(rows)


def evaluate(module: nn.Module, samples: Samples, batch_size: int = 500) -> tuple[float, float]:
    """Error (fraction) and cross-entropy (nats) of a module in eval mode, means over samples."""
    errors, losses = _measure(module, samples, batch_size, lambda count: None)
    return float(errors.double().mean()), float(losses.double().mean())


def _measure(
    module: nn.Module, samples: Samples, batch_size: int, progress: Callable[[float], None]
) -> tuple[Tensor, Tensor]:
    """Error and loss of every sample whose target counts, (N,) float32 each."""
    device = next(module.parameters()).device
    errors, losses = [], []
    with torch.inference_mode():
        for inputs, targets in samples.batches(batch_size):
            error, loss = error_and_loss(logits_of(module(inputs.to(device))), targets.to(device))
            counted = positions(targets).to(device) > 0
            errors.append(error[counted])
            losses.append(loss[counted])
            progress(len(targets))
    if not sum(map(len, errors)):
        raise DataError(f"{samples.name} must have a target that counts, but all are {IGNORED}, which is ignored.")
    return torch.cat(errors), torch.cat(losses)
