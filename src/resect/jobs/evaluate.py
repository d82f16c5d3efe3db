"""`resect evaluate`: the test error of networks side by side, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import exp, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from torch import nn

from resect.data.samples import SampleSet
from resect.digest import fingerprint
from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine
from resect.errors import DataError, InputError
from resect.graph.calls import as_call
from resect.jobs.asked import EvaluateAsked
from resect.jobs.fit import require_fit
from resect.jobs.job import Advance, Answer, Job, Lab, digest_of, silent
from resect.jobs.source import Source
from resect.jobs.warn import at_chance, random_weights
from resect.measuring.batches import AnyTask, Batch, batches_of, to_device
from resect.measuring.clusters import clustered_rate_interval
from resect.measuring.statistics import bootstrap_interval, mcnemar, paired_error_interval
from resect.measuring.tasks import CLASSIFICATION, Task
from resect.models.specs import LoadedModel
from resect.runs.record import Record

_KEPT = ("error", "loss", "weights")


@dataclass(frozen=True)
class EvaluateJob(EvaluateAsked, Job):
    """Networks tested on the same samples."""

    def prepare(self, lab: Lab) -> _Networks:
        """Load all networks, each with the samples as it takes them."""
        sources = [self.source, *map(self._other, self.others)]
        samples: list[SampleSet] = []
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
        task = require_fit(subject.networks[0].module, subject.samples[0], self.task)
        table = evaluate_networks(subject.networks, subject.samples, self.batch_size, bar, lab.engine, task=task)
        warnings = subject.warnings
        for network, samples, error in zip(subject.networks, subject.samples, table["error"], strict=True):
            warnings += at_chance(network.spec, error, samples, random=bool(network.random), task=task)
        found = {"samples": int(table["samples"][0]), "task": task.meaning(subject.samples[0].first()[1]).as_dict()}
        return Answer(found, {"networks": table}, warnings)

    def _other(self, text: str) -> Source:
        """The source of another network; the normalisation that is asked for is that of all."""
        return replace(self.source.beside(text), normalize=self.source.normalize)


@dataclass(frozen=True)
class _Networks:
    """The networks, what each is tested on, and what to warn of."""

    samples: list[SampleSet]
    networks: list[LoadedModel]
    warnings: tuple[str, ...]
    capture_seconds: None = None

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
        options: those of `resect evaluate`: task, batch_size, limit, normalize, seed, device, dtype.

    Returns:
        A record whose table `networks` is that of `evaluate_networks`.

    Raises:
        ResectError: something that was asked for cannot be done.
    """
    return EvaluateJob.of(data, models, options).run(out)


def evaluate_networks(
    networks: Sequence[LoadedModel],
    samples: SampleSet | Sequence[SampleSet],
    batch_size: int = 500,
    progress: Advance | None = None,
    engine: Engine = LOCAL,
    *,
    task: AnyTask = None,
) -> pd.DataFrame:
    """Measure networks on the same samples, each beside the first.

    The intervals are over samples: they say how well these weights are known, and nothing of other training seeds.

    Args:
        networks: on the device and in the dtype that they are to be measured in.
        samples: of all networks; or of each, the same but for how they are normalised.
        progress: called with the number of samples after every batch.
        engine: its store keeps the outcomes of every batch.
        task: what the targets mean, as for `resect.lesion`; it must have an error.

    Returns:
        One row a network: `model`, `normalization` (of its pixels, if any), `parameters`, `samples` (those whose target
        is ignored are left out), `error` with its 95 % interval `error_low` and `error_high` (a fraction with Wilson's;
        where a sample has several outcomes the clustered score interval, of what is no rate the bootstrap's), `loss`,
        and, but for the first, the `difference` of its error to that of the first with the paired 95 % interval
        `difference_low` and `difference_high` and, where every sample is one outcome, McNemar's `p_value`.
        Of texts also the `perplexity`; `prepared` says how files became inputs.

    Raises:
        InputError: the task has no error.
        DataError: the samples do not fit a network, or are classes of several positions each.
    """
    each = samples if isinstance(samples, Sequence) else [samples] * len(networks)
    rows: list[dict[str, object]] = []
    first: Outcomes | None = None
    for network, own in zip(networks, each, strict=True):
        known = require_fit(network.module, own, task)
        if not known.error:
            raise InputError(f"`task` must have an error to be told, but {known.name} has a loss only.")
        _, targets = own.first()
        if known.name == "classification" and targets.ndim != 1 and own.prepared is None:
            raise DataError(f"{own.name} must have one target a sample, got {(len(own), *targets.shape[1:])}.")
        _require_same(each[0], own)
        measured = outcomes_of(network, own, batch_size, progress or silent("", 0), engine, known)
        row: dict[str, object] = {
            "model": network.spec,
            "normalization": None if own.normalization is None else str(own.normalization),
            **({} if own.prepared is None else {"prepared": own.prepared}),
            "parameters": sum(parameter.numel() for parameter in network.module.parameters()),
            **measured.row(),
            "loss": measured.mean(measured.losses),
        }
        if known.meaning(targets).outcome == "token":
            row["perplexity"] = exp(measured.mean(measured.losses))
        if first is None:
            first = measured
        else:
            row |= measured.difference(first)
        rows.append(row)
    return pd.DataFrame(rows)


def _require_same(first: SampleSet, own: SampleSet) -> None:
    """Raise DataError unless two networks are to give the same answers: two tokenizers make two texts."""
    if own is not first and not torch.equal(first.targets_only(), own.targets_only()):
        raise DataError(
            f"{own.name} must have the same targets for all networks, but their tokenizers, windows or tasks differ "
            f"({first.prepared}; {own.prepared}). Name them in the spec, or evaluate one network at a time."
        )


@dataclass(frozen=True)
class Outcomes:
    """Of one network: error, loss and number of outcomes of every sample that counts, (N,) float32 each.

    Attributes:
        single: every sample is one outcome, right or wrong.
        rate: the error is a rate.
    """

    errors: np.ndarray
    losses: np.ndarray
    weights: np.ndarray
    single: bool
    rate: bool

    def mean(self, values: np.ndarray) -> float:
        """The mean over outcomes."""
        return float(np.average(values, weights=self.weights)) if not self.single else float(values.mean())

    def row(self) -> dict[str, object]:
        """The error with its interval."""
        if self.single:
            wrong = self.errors > 0
            interval = binomtest(int(wrong.sum()), len(wrong)).proportion_ci(0.95, method="wilson")
            error, low, high = float(wrong.mean()), float(interval.low), float(interval.high)
        else:
            error, (low, high) = self.mean(self.errors), self._interval(self.errors)
        return {"samples": len(self.errors), "error": error, "error_low": max(low, 0.0), "error_high": high}

    def difference(self, first: Outcomes) -> dict[str, object]:
        """The difference to the first network's error, paired."""
        difference, p_value = self.mean(self.errors) - self.mean(first.errors), nan
        if self.single:
            wrong, others = self.errors > 0, first.errors > 0
            broken, repaired = [int((wrong & ~others).sum())], [int((others & ~wrong).sum())]
            low, high = (float(end[0]) for end in paired_error_interval(broken, repaired, len(wrong)))
            difference, p_value = float(wrong.mean()) - float(others.mean()), float(mcnemar(broken, repaired)[0])
        else:
            low, high = self._interval(self.errors - first.errors)
        return {"difference": difference, "difference_low": low, "difference_high": high, "p_value": p_value}

    def _interval(self, values: np.ndarray) -> tuple[float, float]:
        ends = clustered_rate_interval if self.rate else bootstrap_interval
        low, high = ends(values[None], self.weights)
        return float(low[0]), float(high[0])


def mean_error_and_loss(
    module: nn.Module, samples: SampleSet, batch_size: int = 500, task: Task = CLASSIFICATION
) -> tuple[float, float]:
    """Error (fraction) and cross-entropy (nats), or those of the task, of a module in eval mode, means over samples."""
    measured = outcomes_of(LoadedModel(module, "", None), samples, batch_size, silent("", 0), LOCAL, task)
    return float(measured.errors.mean(dtype=float)), float(measured.losses.mean(dtype=float))


def outcomes_of(
    network: LoadedModel, samples: SampleSet, batch_size: int, progress: Advance, engine: Engine, task: Task
) -> Outcomes:
    """The outcomes of every sample that has any."""
    module = network.module
    parameter = next(iter(module.parameters()), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    identity = {
        "evaluate": [network.spec, fingerprint(module)],
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
    pieces, single = [], task.rate
    for batch in batches_of(samples.batches(batch_size), task=task):
        compute = partial(_outcomes, module, batch, device)
        key = {**identity, "batch": [batch.number, batch.digest]}
        pieces.append(engine.kept(key, compute) if batch.digest else compute())
        single = single and batch.targets.ndim == 1
        progress(len(batch))
    errors, losses, weights = (np.concatenate([piece[name] for piece in pieces]) for name in _KEPT)
    return Outcomes(errors, losses, weights, single, task.rate)


@torch.inference_mode()
def _outcomes(module: nn.Module, batch: Batch, device: torch.device) -> Arrays:
    targets, task = batch.targets.to(device), batch.task
    args, kwargs = as_call(to_device(batch.inputs, device))
    error, loss = task.outcomes(module(*args, **kwargs), targets)
    weights = task.weights(targets)
    assert error is not None, "a task without an error is refused"
    values = dict(zip(_KEPT, (error, loss, weights), strict=True))
    return {name: value[weights > 0].cpu().numpy() for name, value in values.items()}
