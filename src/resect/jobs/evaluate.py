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

from resect.data.samples import SampleSet
from resect.digest import fingerprint
from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine
from resect.errors import DataError
from resect.graph.capture import as_call
from resect.graph.outputs import logits_of
from resect.jobs.asked import EvaluateAsked
from resect.jobs.fit import require_fit
from resect.jobs.job import Advance, Answer, Job, Lab, digest_of, silent
from resect.jobs.source import Source
from resect.jobs.warn import at_chance, random_weights
from resect.measuring.batches import Batch, batches_of, to_device
from resect.measuring.clusters import clustered_rate_interval
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

    samples: list[SampleSet]
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
    samples: SampleSet | Sequence[SampleSet],
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
        `difference_low` and `difference_high` and McNemar's `p_value`. Of sequences, error and loss are means over
        tokens, their intervals take the sequences as clusters (`clustered_rate_interval`), there is no `p_value`, and
        `perplexity` is e to the loss. `prepared` says how files became inputs.

    Raises:
        DataError: the samples do not fit a network, or are not the same for all.
    """
    each = samples if isinstance(samples, Sequence) else [samples] * len(networks)
    rows: list[dict[str, object]] = []
    first: np.ndarray | None = None
    for network, own in zip(networks, each, strict=True):
        require_fit(network.module, own)
        _require_same(each[0], own)
        errors, losses, tokens = _measure(network, own, batch_size, progress or silent("", 0), engine)
        row: dict[str, object] = {
            "model": network.spec,
            "normalization": None if own.normalization is None else str(own.normalization),
            **({} if own.prepared is None else {"prepared": own.prepared}),
            "parameters": sum(parameter.numel() for parameter in network.module.parameters()),
        }
        if tokens is None:
            wrong = errors.numpy() > 0
            row |= {**_error(wrong), "loss": float(losses.mean())}
        else:
            wrong = errors.numpy()
            row |= _sequences(wrong, losses.numpy(), tokens)
        if first is None:
            first = wrong
        else:
            row |= _difference(wrong, first) if tokens is None else _token_difference(wrong, first, tokens)
        rows.append(row)
    return pd.DataFrame(rows)


def _require_same(first: SampleSet, own: SampleSet) -> None:
    """Raise DataError unless two networks are to give the same answers: two tokenizers make two texts."""
    if own is not first and not torch.equal(first.targets_only(), own.targets_only()):
        raise DataError(
            f"{own.name} must have the same targets for all networks, but their tokenizers, windows or tasks differ "
            f"({first.prepared}; {own.prepared}). Name them in the spec, or evaluate one network at a time."
        )


def _sequences(errors: np.ndarray, losses: np.ndarray, tokens: np.ndarray) -> dict[str, object]:
    """Means over tokens, and what they say of the perplexity."""
    low, high = clustered_rate_interval(errors[None], tokens)
    loss = float(np.average(losses, weights=tokens))
    return {
        "samples": len(errors),
        "error": float(np.average(errors, weights=tokens)),
        "error_low": max(low[0], 0.0),
        "error_high": high[0],
        "loss": loss,
        "perplexity": float(np.exp(loss)),
    }


def _token_difference(errors: np.ndarray, first: np.ndarray, tokens: np.ndarray) -> dict[str, object]:
    """The difference to the first network's error, paired by sequence."""
    low, high = clustered_rate_interval((errors - first)[None], tokens)
    difference = float(np.average(errors - first, weights=tokens))
    return {"difference": difference, "difference_low": low[0], "difference_high": high[0], "p_value": np.nan}


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


def mean_error_and_loss(module: nn.Module, samples: SampleSet, batch_size: int = 500) -> tuple[float, float]:
    """Error (fraction) and cross-entropy (nats) of a module in eval mode, means over samples."""
    errors, losses, _ = _measure(LoadedModel(module, "", None), samples, batch_size, silent("", 0), LOCAL)
    return float(errors.double().mean()), float(losses.double().mean())


def _measure(
    network: LoadedModel, samples: SampleSet, batch_size: int, progress: Advance, engine: Engine
) -> tuple[Tensor, Tensor, np.ndarray | None]:
    """Error and loss of every sample whose target counts, (N,) float32 each; of sequences, how many tokens count."""
    module = network.module
    parameter = next(iter(module.parameters()), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    identity = {
        "evaluate": [network.spec, fingerprint(module)],
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
    pieces, tokens = [], []
    for batch in batches_of(samples.batches(batch_size)):
        key = {**identity, "batch": [batch.number, batch.digest]}
        pieces.append(engine.kept(key, partial(_outcomes, module, batch, device)))
        if batch.targets.ndim > 1:
            counted = positions(batch.targets)
            tokens.append(counted[counted > 0].numpy())
        progress(len(batch))
    errors, losses = (torch.from_numpy(np.concatenate([piece[name] for piece in pieces])) for name in ("error", "loss"))
    return errors, losses, np.concatenate(tokens) if tokens else None


@torch.inference_mode()
def _outcomes(module: nn.Module, batch: Batch, device: torch.device) -> Arrays:
    targets = batch.targets.to(device)
    args, kwargs = as_call(to_device(batch.inputs, device))
    outcomes = error_and_loss(logits_of(module(*args, **kwargs)), targets)
    counted = positions(targets) > 0
    return {name: value[counted].cpu().numpy() for name, value in zip(("error", "loss"), outcomes, strict=True)}
