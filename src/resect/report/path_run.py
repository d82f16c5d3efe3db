"""What `resect paths` found, on the terminal, as JSON, and as tables and figures in its run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from resect.errors import InputError
from resect.files import write_text
from resect.jobs.paths import PathsFound
from resect.jobs.results import DepthAnswer, PathCurves
from resect.paths.measures import Effective, log2_effective
from resect.report import carrier_figures, path_figures
from resect.report.style import panels, save_figure
from resect.report.tables import plain, plain_rows
from resect.runs.folder import write_parquet

_SHOWN = 5e-5  # of the gradient, by any measure: lengths that carry less are left out on the terminal
Draw = Callable[[Axes], Any]


def print_paths(title: str, mass: float, found: PathsFound, console: Console) -> None:
    """The table by length, then what each part says in a sentence."""
    spectrum = found.spectrum
    effective = _effective(found, mass)
    rows = "gradients" if spectrum.at not in ("input", "stem") else "samples"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.title = f"{title}: the gradient at {spectrum.at} by path length, {len(spectrum.squares)} {rows}"
    names = ["length", "layers", "paths", "share %", "±", "norm"]
    names += ["one path", "count x it %"] if found.samples else []
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    lengths = found.lengths
    measures = [name for name in ("share", "magnitude", "magnitude_rms") if name in lengths]
    shown = lengths[(lengths[measures].abs() > _SHOWN).any(axis=1)]
    for row in shown.to_dict("records"):
        length = int(row["length"])
        bold = effective is not None and effective.low <= length <= effective.high
        table.add_row(*_cells(row, spectrum.count[length], found), style="bold" if bold else "")
    console.print(table)
    for sentence in _sentences(mass, found):
        console.print(sentence, highlight=False, soft_wrap=True)
    if len(shown) < len(lengths):
        left = f"Lengths that carry less than {_SHOWN:.3%} are left out; --format json and --out DIR have them."
        console.print(left, highlight=False, soft_wrap=True)


def _cells(row: dict[Any, Any], count: int, found: PathsFound) -> list[str]:
    paths = f"{count:.3g}" if count < 10**300 else f"2^{row['log2_paths']:.1f}"
    half = (row["share_high"] - row["share_low"]) / 2 * 100
    cells = [str(row["length"]), f"{row['layers']:g}", paths, f"{row['share'] * 100:.2f}"]
    cells += [f"{half:.2f}" if np.isfinite(half) else "", f"{row['norm']:.2g}"]
    if found.samples:
        cells += [f"{row['path_norm']:.2g}", f"{row['magnitude'] * 100:.2f}"]
    return cells


def _sentences(mass: float, found: PathsFound) -> list[str]:
    spectrum = found.spectrum
    effective, size = _effective(found, mass), spectrum.multiplicity()
    said = [f"The lengths told apart hold less than {mass:.0%} of the gradient; a longer --max-length may hold it."]
    if effective is not None:
        said = [
            f"Effective lengths ({mass:.0%} of the gradient): {effective.low} to {effective.high} blocks, "
            f"{effective.low_layers:g} to {effective.high_layers:g} layers, {effective.path_fraction:.3g} of all paths."
        ]
    for name, other in (("count x mean norm of sampled paths", found.samples), ("count x rms", found.squares)):
        if other is not None and np.isfinite(other.magnitude).all() and other.magnitude.sum() > 0:
            by = other.effective(mass)
            said.append(f"By {name}: {by.low} to {by.high} blocks, {by.path_fraction:.3g} of all paths.")
    said.append(
        f"2^{size.log2_paths:.1f} paths, of which 2^{size.log2_effective_paths:.1f} effectively contribute; effective "
        f"depth {size.effective_depth:.2f} blocks. Shares and rest sum to "
        f"{np.nansum(spectrum.share) + spectrum.rest_share:.9f} (relative error {spectrum.sum_error:.1e})."
    )
    if found.samples is not None:
        within = log2_effective(spectrum.share, found.samples.log2_paths_within)
        said.append(f"Weighted within a length by the squared norms of the sampled paths, 2^{within:.1f}.")
    if np.isnan(spectrum.share).any():
        said.append(f"All longer paths together: {spectrum.rest_share:.3%} of the gradient, exactly.")
    through = found.participation.table.sort_values("share", ascending=False)
    first_five = zip(through["name"].head(5), through["share"].head(5), strict=True)
    best = ", ".join(f"{name} {share:.1%}" for name, share in first_five)
    said.append(f"Most of the gradient goes through {best}.")
    if found.participation.pairs is not None and len(through) > 1:
        said.append(_pair_sentence(found))
    if found.strongest is not None:
        first = found.strongest.table.iloc[0]
        through_blocks = ", ".join(map(str, first["blocks"])) or "none (skips only)"
        said.append(
            f"The strongest path found has the norm of {first['relative']:.1%} of the whole gradient and goes through "
            f"blocks {through_blocks}. {found.strongest.summary()}"
        )
    return said


def _effective(found: PathsFound, mass: float) -> Effective | None:
    """The effective range; None where the lengths that were told apart do not hold so much."""
    try:
        return found.spectrum.effective(mass)
    except InputError:
        return None


def _pair_sentence(found: PathsFound) -> str:
    values = found.participation.interaction
    names = found.participation.names
    i, j = np.unravel_index(np.abs(values).argmax(), values.shape)
    verb = "together" if values[i, j] > 0 else "one or the other"
    return f"The pair most tied: {names[i]} and {names[j]} ({verb}, {values[i, j] * 100:+.2f} points)."


def path_numbers(asked: dict[str, Any], mass: float, found: PathsFound, training: pd.DataFrame | None) -> str:
    """Everything as JSON."""
    spectrum, samples, effective = found.spectrum, found.samples, _effective(found, mass)
    within = None if samples is None else log2_effective(spectrum.share, samples.log2_paths_within)
    numbers: dict[str, Any] = {
        **asked,
        "samples": len(spectrum.squares),
        "at": spectrum.at,
        "sum_of_shares": float(np.nansum(spectrum.share)),
        "rest": spectrum.rest_share,
        "sum_error": spectrum.sum_error,
        "effective": None if effective is None else vars(effective),
        "effective_by_magnitude": vars(found.samples.effective(mass)) if found.samples else None,
        "effective_by_rms": vars(found.squares.effective(mass)) if found.squares else None,
        "multiplicity": vars(spectrum.multiplicity()),
        "log2_effective_paths_within": within,
        "lengths": plain_rows(found.lengths),
        "blocks": plain_rows(found.participation.table),
    }
    if found.participation.pairs is not None:
        numbers["pairs"] = [[plain(value) for value in row] for row in found.participation.pairs]
    if found.strongest is not None:
        numbers["strongest"] = {
            "summary": found.strongest.summary(),
            "proven": found.strongest.proven,
            "bound": found.strongest.bound,
            "paths": plain_rows(found.strongest.table),
        }
    if training is not None:
        numbers["training"] = plain_rows(training)
    return json.dumps(numbers, indent=2)


def write_paths(
    asked: dict[str, Any], mass: float, found: PathsFound, training: pd.DataFrame | None, folder: Path
) -> None:
    """Write lengths.parquet, blocks.parquet, what else was asked for, summary.json and figures/*.png."""
    tables = {"lengths": found.lengths, "blocks": found.participation.table}
    if found.participation.pairs is not None:
        names = [str(i) for i in range(len(found.participation.names))]
        tables["pairs"] = pd.DataFrame(found.participation.pairs, columns=names)
    if found.strongest is not None:
        tables["strongest"] = found.strongest.table.assign(blocks=found.strongest.table["blocks"].map(list))
    if training is not None:
        tables["training"] = training
    for name, table in tables.items():
        write_parquet(folder / f"{name}.parquet", table)
    write_text(folder / "environment.json", json.dumps(found.environment, indent=2) + "\n")
    for name, (height, drawn) in _figures(mass, found, training).items():
        save_figure(partial(_beside, height, drawn), folder / "figures" / f"{name}.png")
    write_text(folder / "summary.json", path_numbers(asked, mass, found, training) + "\n")


def _beside(height: float, drawn: list[Draw]) -> Figure:
    """Panels side by side."""
    axes = panels(len(drawn), height=height)
    for draw, ax in zip(drawn, axes, strict=True):
        draw(ax)
    figure = axes[0].figure
    assert isinstance(figure, Figure)
    return figure


def _figures(mass: float, found: PathsFound, training: pd.DataFrame | None) -> dict[str, tuple[float, list[Draw]]]:
    """Height and panels of every figure that there are data for."""
    drawn: dict[str, tuple[float, list[Draw]]] = {}
    curves = _curves(mass, found)
    if curves is not None:
        for name, height, pair in (
            ("counts", 3.6, (path_figures.counts_figure, path_figures.counts_log_figure)),
            ("shares", 4.2, (path_figures.share_figure, path_figures.share_log_figure)),
            ("norms", 3.6, (path_figures.norm_figure, path_figures.norm_log_figure)),
        ):
            drawn[name] = (height, [partial(draw, curves) for draw in pair])
    else:
        drawn["shares"] = (3.6, [found.spectrum.plot])
    drawn["blocks"] = (3.6, [lambda ax: carrier_figures.blocks_figure(found.participation, ax)])
    if found.participation.pairs is not None:
        drawn["pairs"] = (5.6, [lambda ax: carrier_figures.pairs_figure(found.participation, ax)])
    strong = found.strongest
    if strong is not None:
        blocks = len(found.participation.names)
        height = 1.3 + 0.22 * len(strong.table)
        drawn["strongest"] = (height, [lambda ax: carrier_figures.strongest_figure(strong.table, blocks, ax)])
    if training is not None:
        drawn["training"] = (3.6, [lambda ax: carrier_figures.training_figure(training, ax)])
    return drawn


def _curves(mass: float, found: PathsFound) -> PathCurves | None:
    """What the figures by length need: all lengths, and sampled paths beside the exact shares."""
    spectrum, samples, squares = found.spectrum, found.samples, found.squares
    if samples is None or np.isnan(spectrum.share).any():
        return None
    by_rms = squares.effective(mass) if squares is not None else samples.effective(mass, rms=True)
    longest = spectrum.longest
    depth = DepthAnswer(
        mass=mass,
        by_share=spectrum.effective(mass),
        by_magnitude=samples.effective(mass),
        by_rms=by_rms,
        longest=longest,
        longest_layers=float(spectrum.layers[longest]),
    )
    return PathCurves(found.lengths, depth)
