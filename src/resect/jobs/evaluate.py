"""`resect evaluate`: the test error of networks side by side, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
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
from resect.graph.outputs import logits_of
from resect.jobs.asked import EvaluateAsked
from resect.jobs.fit import require_fit
from resect.jobs.job import Advance, Answer, Job, Lab, digest_of, silent
from resect.jobs.source import Source
from resect.jobs.warn import at_chance, random_weights
from resect.measuring.batches import Batch, batches_of
from resect.measuring.metrics import error_and_loss, positions
from resect.measuring.statistics import mcnemar, paired_error_interval
from resect.models.specs import LoadedModel
from resect.runs.record import Record


@dataclass(frozen=True)
class EvaluateJob(EvaluateAsked, Job):
    """Networks tested on the same samples."""

    def prepare(self, lab: Lab) -> _Networks:
        """Load all networks, each with the samples as it takes them."""
        sources = [self.source, *map(self._other, self.others)]
        samples: list[Samples] = []
        for source in sources:
            samples.append(source.samples(*samples))
        loaded = [source.load(own) for source, own in zip(sources, samples, strict=True)]
        warnings = tuple(warning for network in loaded for warning in random_weights(network))
        names = (self.first, *self.others)
        networks = [replace(network, spec=name) for network, name in zip(loaded, names, strict=True)]
        return _Networks(samples, networks, warnings)

    def answer(self, subject: _Networks, lab: Lab) -> Answer:
        """Measure them.

        Raises:
            DataError: the samples have more than one target each, or do not fit a network.
        """
        bar = lab.track("images", sum(map(len, subject.samples)))
        table = evaluate_networks(subject.networks, subject.samples, self.batch_size, bar, lab.engine)
        warnings = subject.warnings
        for network, samples, error in zip(subject.networks, subject.samples, table["error"], strict=True):
            warnings += at_chance(network.spec, error, samples, random=bool(network.random))
        return Answer({"samples": int(table["samples"][0])}, {"networks": table}, warnings)

    def _other(self, text: str) -> Source:
        """The source of another network; the normalisation that is asked for is that of all."""
        return replace(self.source.beside(text), normalize=self.source.normalize)


@dataclass(frozen=True)
class _Networks:
    """The networks, what each is tested on, and what to warn of."""

    samples: list[Samples]
    networks: list[LoadedModel]
    warnings: tuple[str, ...]

    @property
    def made_of(self) -> dict[str, Any]:
        """Digests of samples and weights."""
        return {
            "samples": digest_of(self.samples),
            "networks": [fingerprint(network.module) for network in self.networks],
        }


def evaluate(data: str, *models: str, out: Path | str | None = None, **options: Any) -> Record:
    """Test error of networks on the same samples, with intervals, and the difference of each to the first.

    Args:
        data: a data spec.
        models: SPEC or SPEC@FILE of one network or more.
        out: a folder for the record; None keeps nothing.
        options: those of `resect evaluate`: batch_size, limit, normalize, seed, device, dtype.

    Returns:
        A record whose table `networks` is that of `evaluate_networks`.

    Raises:
        ResectError: something that was asked for cannot be done.
    """
    return EvaluateJob.of(data, models, options).run(out)


def evaluate_networks(
    networks: Sequence[LoadedModel],
    samples: Samples | Sequence[Samples],
    batch_size: int = 500,
    progress: Advance | None = None,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Measure networks on the same samples, each beside the first.

    The intervals are over samples: they say how well these weights are known, and nothing of other training seeds.

    Args:
        networks: on the device and in the dtype that they are to be measured in.
        samples: of all networks; or of each, the same but for how they are normalised.
        progress: called with the number of samples after every batch.
        engine: its store keeps the outcomes of every batch.

    Returns:
        One row a network: `model`, `normalization` (of its pixels, if any), `parameters`, `samples` (those whose target
        is ignored are left out), `error` (fraction) with the 95 % Wilson interval `error_low` and `error_high`, `loss`
        (nats), and, but for the first, the `difference` of its error to that of the first with Tango's 95 % interval
        `difference_low` and `difference_high` and McNemar's `p_value`.

    Raises:
        DataError: the samples have more than one target each, or do not fit a network.
    """
    each = [samples] * len(networks) if isinstance(samples, Samples) else samples
    if each[0].targets.ndim != 1:
        raise DataError(f"{each[0].name} must have one target a sample, got {tuple(each[0].targets.shape)}.")
    rows: list[dict[str, object]] = []
    first: np.ndarray | None = None
    for network, own in zip(networks, each, strict=True):
        require_fit(network.module, own)
        errors, losses = _measure(network, own, batch_size, progress or silent("", 0), engine)
        wrong = errors.numpy() > 0
        row = {
            "model": network.spec,
            "normalization": None if own.normalization is None else str(own.normalization),
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
    return errors, losses


@torch.inference_mode()
def _outcomes(module: nn.Module, batch: Batch, device: torch.device) -> Arrays:
    targets = batch.targets.to(device)
    outcomes = error_and_loss(logits_of(module(batch.inputs.to(device))), targets)
    counted = positions(targets) > 0
    return {name: value[counted].cpu().numpy() for name, value in zip(("error", "loss"), outcomes, strict=True)}
