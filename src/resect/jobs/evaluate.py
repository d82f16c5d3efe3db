"""`resect evaluate`: the test error of networks side by side, with intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from resect.data import Samples
from resect.digest import fingerprint
from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine
from resect.errors import DataError
from resect.graph.outputs import IGNORED, logits_of
from resect.jobs.asked import EvaluateAsked
from resect.jobs.fit import require_fit
from resect.jobs.job import Advance, Answer, Job, Lab, silent
from resect.jobs.source import split_spec
from resect.measuring.batches import Batch, batches_of
from resect.measuring.metrics import error_and_loss, positions
from resect.measuring.statistics import mcnemar, paired_error_interval
from resect.models.specs import LoadedModel, load_model
from resect.runs.record import Record


@dataclass(frozen=True)
class EvaluateJob(EvaluateAsked, Job):
    """Networks tested on the same samples."""

    def prepare(self, lab: Lab) -> _Networks:
        """Load the samples and all networks."""
        samples = self.source.samples()
        first = replace(self.source.load(samples), spec=self.first)
        return _Networks(samples, [first, *(self._other(text, samples) for text in self.others)])

    def answer(self, subject: _Networks, lab: Lab) -> Answer:
        """Measure them.

        Raises:
            DataError: the samples have more than one target each, none that counts, or do not fit a network.
        """
        bar = lab.track("images", len(subject.samples) * len(subject.networks))
        table = evaluate_networks(subject.networks, subject.samples, self.batch_size, bar, lab.engine)
        return Answer({"samples": int(table["samples"][0])}, {"networks": table})

    def _other(self, text: str, samples: Samples) -> LoadedModel:
        spec, checkpoint = split_spec(text)
        loaded = load_model(spec, checkpoint=checkpoint, samples=samples, seed=self.source.seed)
        return replace(self.source.placed(loaded), spec=text)


@dataclass(frozen=True)
class _Networks:
    """The networks and what they are tested on."""

    samples: Samples
    networks: list[LoadedModel]

    @property
    def made_of(self) -> dict[str, Any]:
        """Digests of samples and weights."""
        return {
            "samples": self.samples.digest(),
            "networks": [fingerprint(network.module) for network in self.networks],
        }


def evaluate(data: str, *models: str, out: Path | str | None = None, **options: Any) -> Record:
    """Test error of networks on the same samples, with intervals, and the difference of each to the first.

    Args:
        data: a data spec.
        models: SPEC or SPEC@FILE of one network or more.
        out: a folder for the record; None keeps nothing.
        options: those of `resect evaluate`: batch_size, limit, seed, device, dtype.

    Returns:
        A record whose table `networks` is that of `evaluate_networks`.

    Raises:
        ResectError: something that was asked for cannot be done.
    """
    return EvaluateJob.of(data, models, options).run(out)


def evaluate_networks(
    networks: Iterable[LoadedModel],
    samples: Samples,
    batch_size: int = 500,
    progress: Advance | None = None,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Measure networks on the same samples, each beside the first.

    The intervals are over samples: they say how well these weights are known, and nothing of other training seeds.

    Args:
        networks: on the device and in the dtype that they are to be measured in.
        progress: called with the number of samples after every batch.
        engine: its store keeps the outcomes of every batch.

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
        errors, losses = _measure(network, samples, batch_size, progress or silent("", 0), engine)
        wrong = errors.numpy() > 0
        row = {
            "model": network.spec,
            "parameters": sum(parameter.numel() for parameter in network.module.parameters()),
            **_error(wrong),
            "loss": float(losses.mean()),
        }
        if first is None:
            first = wrong
        else:
            row |= _difference(wrong, first)
        rows.append(row)
    return pd.DataFrame(rows)


def _error(wrong: np.ndarray) -> dict[str, object]:
    """Error with Wilson's interval."""
    interval = binomtest(int(wrong.sum()), len(wrong)).proportion_ci(0.95, method="wilson")
    error = float(wrong.mean())
    return {"samples": len(wrong), "error": error, "error_low": interval.low, "error_high": interval.high}


def _difference(wrong: np.ndarray, first: np.ndarray) -> dict[str, object]:
    """The difference to the first network's error, paired."""
    broken, repaired = [int((wrong & ~first).sum())], [int((first & ~wrong).sum())]
    low, high = paired_error_interval(broken, repaired, len(wrong))
    return {
        "difference": float(wrong.mean()) - float(first.mean()),
        "difference_low": low[0],
        "difference_high": high[0],
        "p_value": mcnemar(broken, repaired)[0],
    }


def mean_error_and_loss(module: nn.Module, samples: Samples, batch_size: int = 500) -> tuple[float, float]:
    """Error (fraction) and cross-entropy (nats) of a module in eval mode, means over samples."""
    errors, losses = _measure(LoadedModel(module, "", None), samples, batch_size, silent("", 0), LOCAL)
    return float(errors.double().mean()), float(losses.double().mean())


def _measure(
    network: LoadedModel, samples: Samples, batch_size: int, progress: Advance, engine: Engine
) -> tuple[Tensor, Tensor]:
    """Error and loss of every sample whose target counts, (N,) float32 each."""
    module = network.module
    device = next(iter(module.parameters()), samples.inputs).device
    identity = {
        "evaluate": [network.spec, fingerprint(module)],
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
    pieces = []
    for batch in batches_of(samples.batches(batch_size)):
        key = {**identity, "batch": [batch.number, batch.digest]}
        pieces.append(engine.kept(key, partial(_outcomes, module, batch, device)))
        progress(len(batch))
    errors, losses = (torch.from_numpy(np.concatenate([piece[name] for piece in pieces])) for name in ("error", "loss"))
    if not len(errors):
        raise DataError(f"{samples.name} must have a target that counts, but all are {IGNORED}, which is ignored.")
    return errors, losses


@torch.inference_mode()
def _outcomes(module: nn.Module, batch: Batch, device: torch.device) -> Arrays:
    targets = batch.targets.to(device)
    outcomes = error_and_loss(logits_of(module(batch.inputs.to(device))), targets)
    counted = positions(targets) > 0
    return {name: value[counted].cpu().numpy() for name, value in zip(("error", "loss"), outcomes, strict=True)}
