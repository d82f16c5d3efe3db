"""Measure one network along its paths, one piece of work a batch, so that a killed run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from resect.graph.routes import Counts, Routes
from resect.jobs.measure import Advance, Bench, batch_digest, fingerprint
from resect.network.unraveled import Unraveled
from resect.paths.draws import Drawn
from resect.paths.participation import Participation, participation
from resect.paths.samples import PathSamples, sample_paths
from resect.paths.settings import PathSettings
from resect.paths.spectrum import PathSpectrum, path_spectrum
from resect.paths.squares import PathSquares, path_squares
from resect.paths.strongest import StrongPaths, strongest_paths
from resect.paths.target import resolve_target

Compute = Callable[[Any, int, Advance], pd.DataFrame]  # one batch, its number, and the bar to advance


def _pieces(
    net: Unraveled, bench: Bench, work: tuple[str, int], key: dict[str, Any], compute: Compute
) -> list[pd.DataFrame]:
    """The tables of all batches, one piece of work each.

    Args:
        work: title, and how often it goes through the slices of a batch.
        key: all that determines a piece beside network, samples and the number of its batch.
    """
    title, rounds = work
    batches = list(bench.samples.batches(bench.batch_size))
    slices = (len(net.sliced.slices) - 2) * rounds
    advance = bench.track(title, slices * len(batches))
    network, tables = fingerprint(net), []
    for number, (inputs, targets) in enumerate(batches):

        def run(batch: Any = (inputs, targets), number: int = number) -> pd.DataFrame:
            return compute([batch], number, advance)

        own = {**key, "network": network, "batch": number, "samples": batch_digest(inputs, targets)}
        table, was_there = bench.folder.piece(own, run)
        if was_there:
            advance(slices)
        tables.append(table)
    return tables


def measure_spectrum(
    net: Unraveled, bench: Bench, title: str, settings: PathSettings | None = None, max_length: int | None = None
) -> PathSpectrum:
    """The exact spectrum on all samples."""
    settings = settings or PathSettings()

    def compute(data: Any, number: int, advance: Advance) -> pd.DataFrame:
        return _spectrum_table(path_spectrum(net, data, settings, max_length=max_length, progress=advance))

    key = {"work": "spectrum", "max_length": max_length, **_place(settings)}
    table = pd.concat(_pieces(net, bench, (title, 1), key, compute))
    columns = ("product", "norm", "square", "remainder", "rest", "rest_norm")
    arrays = [table[name].to_numpy().reshape(-1, len(net.blocks) + 1) for name in columns]
    products, norms, *by_row = arrays
    squares, remainder, rest, rest_norms = (values[:, 0] for values in by_row)
    target = resolve_target(net, settings.at)
    counts = Routes(net.sliced, target.start).counts
    return PathSpectrum(counts, products, norms, squares, remainder, rest, rest_norms, target.name)


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
    """Norms of sampled single paths on all samples."""

    def run(data: Any, own: PathSettings, advance: Advance) -> PathSamples:
        return sample_paths(net, data, own, samples=samples, progress=advance)

    return PathSamples(*_drawn(net, bench, (title, 1), {"work": "paths", "draws": samples}, settings, run))


def measure_squares(
    net: Unraveled, bench: Bench, sweeps: int, title: str, settings: PathSettings | None = None
) -> PathSquares:
    """Sums of squares over all paths of each length on all samples."""

    def run(data: Any, own: PathSettings, advance: Advance) -> PathSquares:
        return path_squares(net, data, own, sweeps=sweeps, progress=advance)

    return PathSquares(*_drawn(net, bench, (title, sweeps), {"work": "signs", "draws": sweeps}, settings, run))


def _drawn(
    net: Unraveled,
    bench: Bench,
    work: tuple[str, int],
    key: dict[str, Any],
    settings: PathSettings | None,
    run: Callable[[Any, PathSettings, Advance], Drawn],
) -> tuple[Counts, np.ndarray, np.ndarray, str]:
    """The fields of `Drawn`, each batch drawn with a seed of its own."""
    settings = settings or PathSettings()

    def compute(data: Any, number: int, advance: Advance) -> pd.DataFrame:
        return _norms_table(run(data, replace(settings, seed=settings.seed + number), advance))

    tables = _pieces(net, bench, work, {**key, "seed": settings.seed, **_place(settings)}, compute)
    norms, batches, seen = [], [], 0
    for table in tables:
        rows = int(table["sample"].max()) + 1
        norms.append(table["norm"].to_numpy().reshape(rows, -1, len(net.blocks) + 1))
        batches.append(table["batch"].to_numpy().reshape(rows, -1)[:, 0] + seen)
        seen = int(batches[-1].max()) + 1
    target = resolve_target(net, settings.at)
    return Routes(net.sliced, target.start).counts, np.concatenate(norms), np.concatenate(batches), target.name


def _norms_table(found: Drawn) -> pd.DataFrame:
    """One row a sample, draw and length."""
    draws, lengths = found.norms.shape[1:]
    index = np.indices(found.norms.shape).reshape(3, -1)
    names = dict(zip(("sample", "draw", "length"), index, strict=True))
    return pd.DataFrame({**names, "norm": found.norms.ravel(), "batch": np.repeat(found.batch, draws * lengths)})


def measure_participation(
    net: Unraveled, bench: Bench, pairs: bool, title: str, settings: PathSettings | None = None
) -> Participation:
    """The share of the gradient through blocks and pairs on all samples."""
    settings, blocks = settings or PathSettings(), len(net.blocks)

    def compute(data: Any, number: int, advance: Advance) -> pd.DataFrame:
        found = participation(net, data, settings, pairs=pairs, progress=advance)
        both = np.zeros((blocks, blocks)) if found.pairs is None else found.pairs * found.squares.sum()
        values = {"product": found.products.ravel(), "square": found.squares, "pair": both.ravel()}
        kinds = np.repeat(list(values), [len(each) for each in values.values()])
        return pd.DataFrame({"kind": kinds, "value": np.concatenate(list(values.values()))})

    key = {"work": "participation", "pairs": pairs, **_place(settings)}
    tables = _pieces(net, bench, (title, 2), key, compute)
    parts = [{str(kind): group["value"].to_numpy() for kind, group in table.groupby("kind")} for table in tables]
    products = np.concatenate([part["product"].reshape(-1, blocks) for part in parts])
    squares = np.concatenate([part["square"] for part in parts])
    both = sum(part["pair"].reshape(blocks, blocks) for part in parts) / squares.sum() if pairs else None
    names = tuple(block.name for block in net.blocks)
    return Participation(names, products, squares, both, resolve_target(net, settings.at).name)


def measure_strongest(
    net: Unraveled, bench: Bench, count: int, title: str, settings: PathSettings | None = None
) -> StrongPaths:
    """The strongest single paths of the first batch, one piece of work."""
    settings = settings or PathSettings()
    inputs, targets = next(iter(bench.samples.batches(bench.batch_size)))
    advance = bench.track(title, 1)
    facts = ("bound", "expanded", "open", "settled", "at")

    def compute() -> pd.DataFrame:
        found = strongest_paths(net, [(inputs, targets)], settings, count=count)
        rows = found.table.assign(blocks=found.table["blocks"].map(list))
        return rows.assign(**{name: getattr(found, name) for name in facts})

    key = {"work": "strongest", "network": fingerprint(net), "count": count, **_place(settings)}
    table, _ = bench.folder.piece({**key, "samples": batch_digest(inputs, targets)}, compute)
    advance(1)
    blocks = table["blocks"].map(lambda chosen: tuple(int(block) for block in chosen))
    rows = table.drop(columns=list(facts)).assign(blocks=blocks)
    bound, expanded, left, settled, at = (table[name].iloc[0] for name in facts)
    return StrongPaths(rows, float(bound), int(expanded), int(left), bool(settled), str(at))


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
