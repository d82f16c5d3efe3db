"""Measure one network along its paths, one piece of work a batch, so that a killed run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from resect.graph.routes import Counts, Routes
from resect.network.unraveled import Unraveled
from resect.paths.participation import Participation, participation
from resect.paths.samples import PathSamples, sample_paths
from resect.paths.settings import PathSettings
from resect.paths.signs import PathSquares, path_squares
from resect.paths.spectrum import PathSpectrum, path_spectrum
from resect.paths.target import resolve_target
from resect.studies.measure import Advance, Bench, batch_digest, fingerprint


def measure_spectrum(
    net: Unraveled, bench: Bench, title: str, settings: PathSettings | None = None, max_length: int | None = None
) -> PathSpectrum:
    """The exact spectrum on all samples, one piece of work a batch."""
    settings = settings or PathSettings()
    batches = list(bench.samples.batches(bench.batch_size))
    slices = len(net.sliced.slices) - 2
    advance = bench.track(title, slices * len(batches))
    key = {"work": "spectrum", "network": fingerprint(net), "max_length": max_length, **_place(settings)}
    parts = []
    for inputs, targets in batches:

        def compute(inputs: Any = inputs, targets: torch.Tensor = targets) -> pd.DataFrame:
            found = path_spectrum(net, [(inputs, targets)], settings, max_length=max_length, progress=advance)
            return _spectrum_table(found)

        table, was_there = bench.folder.piece({**key, "samples": batch_digest(inputs, targets)}, compute)
        if was_there:
            advance(slices)
        parts.append(table)
    table = pd.concat(parts)
    columns = ("product", "norm", "square", "remainder", "rest", "rest_norm")
    arrays = [table[name].to_numpy().reshape(-1, len(net.blocks) + 1) for name in columns]
    products, norms, squares, remainder, rest, rest_norms = arrays
    target = resolve_target(net, settings.at)
    counts = Routes(net.sliced, target.start).counts
    by_row = [values[:, 0] for values in (squares, remainder, rest, rest_norms)]
    return PathSpectrum(counts, products, norms, by_row[0], by_row[1], by_row[2], by_row[3], target.name)


def _spectrum_table(spectrum: PathSpectrum) -> pd.DataFrame:
    rows, lengths = spectrum.products.shape
    by_row = {
        "square": spectrum.squares,
        "remainder": spectrum.remainder,
        "rest": spectrum.rest,
        "rest_norm": spectrum.rest_norms,
    }
    return pd.DataFrame(
        {
            "sample": np.repeat(np.arange(rows), lengths),
            "length": np.tile(np.arange(lengths), rows),
            "product": spectrum.products.ravel(),
            "norm": spectrum.norms.ravel(),
            **{name: np.repeat(values, lengths) for name, values in by_row.items()},
        }
    )


def measure_paths(
    net: Unraveled, bench: Bench, samples: int, title: str, settings: PathSettings | None = None
) -> PathSamples:
    """Norms of sampled single paths on all samples, one piece of work a batch."""
    settings = settings or PathSettings()

    def run(data: Any, own: PathSettings, advance: Advance) -> PathSamples:
        return sample_paths(net, data, own, samples=samples, progress=advance)

    norms, batch, at = _drawn(net, bench, (title, f"paths {samples}", 1), settings, run)
    return PathSamples(_counts(net, settings), norms, batch, at)


def measure_squares(
    net: Unraveled, bench: Bench, sweeps: int, title: str, settings: PathSettings | None = None
) -> PathSquares:
    """Sums of squares over all paths of each length on all samples, one piece of work a batch."""
    settings = settings or PathSettings()

    def run(data: Any, own: PathSettings, advance: Advance) -> PathSquares:
        return path_squares(net, data, own, sweeps=sweeps, progress=advance)

    norms, batch, at = _drawn(net, bench, (title, f"signs {sweeps}", sweeps), settings, run)
    return PathSquares(_counts(net, settings), norms, batch, at)


def _counts(net: Unraveled, settings: PathSettings) -> Counts:
    return Routes(net.sliced, resolve_target(net, settings.at).start).counts


def _drawn(
    net: Unraveled, bench: Bench, what: tuple[str, str, int], settings: PathSettings, run: Callable[..., Any]
) -> tuple[np.ndarray, np.ndarray, str]:
    """Norms (N, R, n+1) and batches (N,) of something drawn at random, batch by batch, each with a seed of its own.

    Args:
        what: title, the name of the work in its key, and how often it goes through the slices.
    """
    title, work, rounds = what
    batches = list(bench.samples.batches(bench.batch_size))
    slices = (len(net.sliced.slices) - 2) * rounds
    advance = bench.track(title, slices * len(batches))
    norms, numbers, seen = [], [], 0
    for number, (inputs, targets) in enumerate(batches):
        own = replace(settings, seed=settings.seed + number)

        def compute(inputs: Any = inputs, targets: Any = targets, own: PathSettings = own) -> pd.DataFrame:
            return _norms_table(run([(inputs, targets)], own, advance))

        key = {"work": work, "network": fingerprint(net), "seed": own.seed, **_place(settings)}
        table, was_there = bench.folder.piece({**key, "samples": batch_digest(inputs, targets)}, compute)
        if was_there:
            advance(slices)
        rows = int(table["sample"].max()) + 1
        norms.append(table["norm"].to_numpy().reshape(rows, -1, len(net.blocks) + 1))
        own_batches = table["batch"].to_numpy().reshape(rows, -1)[:, 0]
        numbers.append(own_batches + seen)
        seen += int(own_batches.max()) + 1
    return np.concatenate(norms), np.concatenate(numbers), resolve_target(net, settings.at).name


def _norms_table(found: PathSamples | PathSquares) -> pd.DataFrame:
    """One row a sample, draw and length."""
    draws, lengths = found.norms.shape[1:]
    index = np.indices(found.norms.shape).reshape(3, -1)
    names = dict(zip(("sample", "draw", "length"), index, strict=True))
    return pd.DataFrame({**names, "norm": found.norms.ravel(), "batch": np.repeat(found.batch, draws * lengths)})


def measure_participation(
    net: Unraveled, bench: Bench, pairs: bool, title: str, settings: PathSettings | None = None
) -> Participation:
    """The share of the gradient through blocks and pairs on all samples, one piece of work a batch."""
    settings = settings or PathSettings()
    batches = list(bench.samples.batches(bench.batch_size))
    slices = 2 * (len(net.sliced.slices) - 2)
    advance = bench.track(title, slices * len(batches))
    key = {"work": "participation", "network": fingerprint(net), "pairs": pairs, **_place(settings)}
    blocks, parts = len(net.blocks), []
    for inputs, targets in batches:

        def compute(inputs: Any = inputs, targets: torch.Tensor = targets) -> pd.DataFrame:
            found = participation(net, [(inputs, targets)], settings, pairs=pairs, progress=advance)
            both = np.zeros((blocks, blocks)) if found.pairs is None else found.pairs * found.squares.sum()
            values = np.concatenate([found.products.ravel(), found.squares, both.ravel()])
            rows = len(found.squares)
            kinds = np.repeat(["product", "square", "pair"], [rows * blocks, rows, blocks * blocks])
            return pd.DataFrame({"kind": kinds, "value": values})

        table, was_there = bench.folder.piece({**key, "samples": batch_digest(inputs, targets)}, compute)
        if was_there:
            advance(slices)
        parts.append({str(kind): group["value"].to_numpy() for kind, group in table.groupby("kind")})
    products = np.concatenate([part["product"].reshape(-1, blocks) for part in parts])
    squares = np.concatenate([part["square"] for part in parts])
    both = sum(part["pair"].reshape(blocks, blocks) for part in parts) / squares.sum() if pairs else None
    names = tuple(block.name for block in net.blocks)
    return Participation(names, products, squares, both, resolve_target(net, settings.at).name)


def _place(settings: PathSettings) -> dict[str, Any]:
    """What of the settings changes results, for the key of a piece of work."""
    return {"at": settings.at, "of": settings.of}


def lengths_table(spectrum: PathSpectrum, samples: PathSamples | None, squares: PathSquares | None) -> pd.DataFrame:
    """One row a length, from all measures; root mean squares are those of all paths where signs were drawn."""
    table = spectrum.table
    if samples is not None:
        table = table.merge(samples.table, on="length")
    if squares is not None:
        table = table.drop(columns=["path_norm_rms", "magnitude_rms"], errors="ignore")
        table = table.merge(_with_rms_names(squares.table), on="length")
    return table


def _with_rms_names(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of random signs under the names that sampled root mean squares have."""
    names = {"rms": "path_norm_rms", "rms_low": "path_norm_rms_low", "rms_high": "path_norm_rms_high"}
    return table.rename(columns={**names, "rms_magnitude": "magnitude_rms"})
