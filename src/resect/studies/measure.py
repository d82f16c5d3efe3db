"""Measure one network piece by piece, so that a killed study goes on where it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from resect.data.samples import Samples
from resect.graph.routes import Routes
from resect.network.unraveled import Unraveled
from resect.paths.backward import resolve_target
from resect.paths.samples import PathSamples, sample_paths
from resect.paths.spectrum import PathSpectrum, path_spectrum
from resect.runs.folder import RunFolder
from resect.sweep.lesion import LesionResult, gather, lesion_batch
from resect.sweep.plans import Plan

Advance = Callable[[float], None]
Track = Callable[[str, float], Advance]


@dataclass(frozen=True)
class Bench:
    """Where a network is measured: on which samples, in pieces kept in which folder, shown on which bars."""

    folder: RunFolder
    samples: Samples
    batch_size: int
    track: Track


def fingerprint(net: Unraveled) -> str:
    """A hash of a network's graph and weights."""
    total = hashlib.sha256()
    for part in net.sliced.slices:
        for node in part:
            total.update(str(node.format_node()).encode())
    for name, value in net.model.state_dict().items():
        total.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:32]


def measure_lesions(net: Unraveled, bench: Bench, plan: Plan, title: str) -> LesionResult:
    """Outcomes of a plan on all samples, one piece of work a batch."""
    advance = bench.track(title, (len(plan) + 1) * len(bench.samples))
    key = {
        "work": "lesion",
        "network": fingerprint(net),
        "metric": "error and cross-entropy",
        "arrangements": [list(arrangement) for arrangement in plan.arrangements],
    }
    parts = []
    for inputs, targets in bench.samples.batches(bench.batch_size):

        def compute(inputs: Any = inputs, targets: torch.Tensor = targets) -> pd.DataFrame:
            return _lesion_table(lesion_batch(net, inputs, targets, plan, advance))

        table, found = bench.folder.piece({**key, "samples": _digest(inputs, targets)}, compute)
        if found:
            advance((len(plan) + 1) * len(targets))
        parts.append(_lesion_result(plan, table))
    return gather(plan, parts)


def _lesion_table(result: LesionResult) -> pd.DataFrame:
    """One row a lesion and sample; lesion -1 is the intact network."""
    errors = np.vstack([result.errors, result.intact_errors])
    losses = np.vstack([result.losses, result.intact_losses])
    lesions, samples = errors.shape
    number = np.r_[np.arange(lesions - 1), -1]
    return pd.DataFrame(
        {
            "lesion": np.repeat(number, samples),
            "sample": np.tile(np.arange(samples), lesions),
            "error": errors.ravel(),
            "loss": losses.ravel(),
        }
    )


def _lesion_result(plan: Plan, table: pd.DataFrame) -> LesionResult:
    errors = table["error"].to_numpy().reshape(len(plan) + 1, -1)
    losses = table["loss"].to_numpy().reshape(len(plan) + 1, -1)
    return LesionResult(plan, errors[:-1], losses[:-1], errors[-1], losses[-1])


def measure_spectrum(net: Unraveled, bench: Bench, title: str) -> PathSpectrum:
    """The exact spectrum on all samples, one piece of work a batch."""
    batches = list(bench.samples.batches(bench.batch_size))
    slices = len(net.sliced.slices) - 2
    advance = bench.track(title, slices * len(batches))
    key = {"work": "spectrum", "network": fingerprint(net)}
    parts = []
    for inputs, targets in batches:

        def compute(inputs: Any = inputs, targets: torch.Tensor = targets) -> pd.DataFrame:
            return _spectrum_table(path_spectrum(net, [(inputs, targets)], progress=advance))

        table, found = bench.folder.piece({**key, "samples": _digest(inputs, targets)}, compute)
        if found:
            advance(slices)
        parts.append(table)
    table = pd.concat(parts)
    products, norms, squares, remainder = (
        table[name].to_numpy().reshape(-1, len(net.blocks) + 1) for name in ("product", "norm", "square", "remainder")
    )
    where = resolve_target(net, "auto")
    return PathSpectrum(Routes(net.sliced).counts, products, norms, squares[:, 0], remainder[:, 0], where)


def _spectrum_table(spectrum: PathSpectrum) -> pd.DataFrame:
    samples, lengths = spectrum.products.shape
    return pd.DataFrame(
        {
            "sample": np.repeat(np.arange(samples), lengths),
            "length": np.tile(np.arange(lengths), samples),
            "product": spectrum.products.ravel(),
            "norm": spectrum.norms.ravel(),
            "square": np.repeat(spectrum.squares, lengths),
            "remainder": np.repeat(spectrum.remainder, lengths),
        }
    )


def measure_paths(net: Unraveled, bench: Bench, paths: int, seed: int, title: str) -> PathSamples:
    """Norms of sampled single paths on all samples, one piece of work a batch."""
    batches = list(bench.samples.batches(bench.batch_size))
    slices = len(net.sliced.slices) - 2
    advance = bench.track(title, slices * len(batches))
    key = {"work": "paths", "network": fingerprint(net), "paths": paths}
    tables = []
    for number, (inputs, targets) in enumerate(batches):

        def compute(inputs: Any = inputs, targets: torch.Tensor = targets, own: int = number) -> pd.DataFrame:
            drawn = sample_paths(net, [(inputs, targets)], samples=paths, seed=seed + own, progress=advance)
            lengths = np.repeat(np.arange(len(drawn.norms)), [len(norms) for norms in drawn.norms])
            return pd.DataFrame({"length": lengths, "norm": np.concatenate(drawn.norms)})

        table, found = bench.folder.piece({**key, "seed": seed + number, "samples": _digest(inputs, targets)}, compute)
        if found:
            advance(slices)
        tables.append(table)
    joined = pd.concat(tables)
    norms = tuple(joined.loc[joined["length"] == k, "norm"].to_numpy() for k in range(len(net.blocks) + 1))
    return PathSamples(Routes(net.sliced).counts, norms, resolve_target(net, "auto"))


def _digest(inputs: torch.Tensor, targets: torch.Tensor) -> str:
    return Samples("piece", inputs, targets, None).digest()
