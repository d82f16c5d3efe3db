"""The gradient along paths, on the terminal and in figures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from resect.figures import carriers, paths
from resect.figures.style import side_by_side
from resect.paths.measures import Effective, interaction_of, most_tied
from resect.report.parts import Figures, save_figures, say
from resect.runs.record import Record

_SHOWN = 5e-5  # of the gradient, by any measure: lengths that carry less are left out on the terminal


def show(record: Record, console: Console) -> None:
    """Print the table by length, then what each part says in a sentence."""
    lengths, effective = record.tables["lengths"], record.found["effective"]
    place, sampled = record.found["at"], "path_norm" in lengths
    rows = f"{record.found['samples']} {'samples' if place in ('input', 'stem') else 'gradients'}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.title = f"{record.asked['model']}: the gradient at {place} by path length, {rows}"
    names = ["length", "layers", "paths", "share %", "±", "norm"]
    names += ["one path", "count x it %"] if sampled else []
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    measures = [name for name in ("share", "magnitude", "magnitude_rms") if name in lengths]
    shown = lengths[(lengths[measures].abs() > _SHOWN).any(axis=1)]
    for row in shown.to_dict("records"):
        bold = effective is not None and effective["low"] <= int(row["length"]) <= effective["high"]
        table.add_row(*_cells(row, sampled), style="bold" if bold else "")
    console.print(table)
    say(console, *sentences(record))
    if len(shown) < len(lengths):
        say(console, f"Lengths that carry less than {_SHOWN:.3%} are left out; --format json and --out DIR have them.")


def _cells(row: dict[Any, Any], sampled: bool) -> list[str]:
    exponent = row["log2_paths"]
    paths = f"{2**exponent:.3g}" if exponent < 996 else f"2^{exponent:.1f}"
    half = (row["share_high"] - row["share_low"]) / 2 * 100
    cells = [str(row["length"]), f"{row['layers']:g}", paths, f"{row['share'] * 100:.2f}"]
    cells += [f"{half:.2f}" if np.isfinite(half) else "", f"{row['norm']:.2g}"]
    if sampled:
        cells += [f"{row['path_norm']:.2g}", f"{row['magnitude'] * 100:.2f}"]
    return cells


def sentences(record: Record) -> list[str]:
    """What each part of the answers says."""
    numbers = record.found
    mass, size = numbers["mass"], numbers["multiplicity"]
    said = [f"The lengths told apart hold less than {mass:.0%} of the gradient; a longer --max-length may hold it."]
    if effective := numbers["effective"]:
        said = [
            f"Effective lengths ({mass:.0%} of the gradient): {effective['low']} to {effective['high']} blocks, "
            f"{effective['low_layers']:g} to {effective['high_layers']:g} layers, {effective['path_fraction']:.3g} of "
            "all paths."
        ]
    for name, key in (("count x mean norm of sampled paths", "magnitude"), ("count x rms", "rms")):
        if by := numbers[f"effective_by_{key}"]:
            said.append(f"By {name}: {by['low']} to {by['high']} blocks, {by['path_fraction']:.3g} of all paths.")
    said.append(
        f"2^{size['log2_paths']:.1f} paths, of which 2^{size['log2_effective_paths']:.1f} effectively contribute; "
        f"effective depth {size['effective_depth']:.2f} blocks. Shares and rest sum to "
        f"{numbers['sum_of_shares'] + numbers['rest']:.9f} (relative error {numbers['sum_error']:.1e})."
    )
    if (within := numbers["log2_effective_paths_within"]) is not None:
        said.append(f"Weighted within a length by the squared norms of the sampled paths, 2^{within:.1f}.")
    if numbers["known"] < len(record.tables["lengths"]) - 1:
        said.append(f"All longer paths together: {numbers['rest']:.3%} of the gradient, exactly.")
    return said + _carriers(record)


def _carriers(record: Record) -> list[str]:
    """Which blocks, pairs and single paths carry most."""
    tables = record.tables
    through = tables["blocks"].sort_values("share", ascending=False).head(5)
    best = ", ".join(f"{name} {share:.1%}" for name, share in zip(through["name"], through["share"], strict=True))
    said = [f"Most of the gradient goes through {best}."]
    if "pairs" in tables and len(tables["blocks"]) > 1:
        said.append(most_tied(list(tables["blocks"]["name"]), interaction(record)))
    if "strongest" in tables:
        first = tables["strongest"].iloc[0]
        through_blocks = ", ".join(map(str, first["blocks"])) or "none (skips only)"
        search = record.found["strongest"]
        said.append(
            f"The strongest path{'' if search['proven'] else ' found'} has the norm of {first['relative']:.1%} of the "
            f"whole gradient and goes through blocks {through_blocks}. {search['summary']}"
        )
    return said


def interaction(record: Record) -> np.ndarray:
    """(n, n) share through both of two blocks less the product of their shares; 0 on the diagonal."""
    tables = record.tables
    return interaction_of(tables["pairs"].to_numpy(float), tables["blocks"]["share"].to_numpy(float))


def draw(record: Record, folder: Path) -> Path:
    """Write figures/*.png."""
    return save_figures(_figures(record), folder)


def _figures(record: Record) -> Figures:
    """Every figure that there are data for."""
    tables, mass = record.tables, record.found["mass"]
    lengths, blocks = tables["lengths"], tables["blocks"]
    ranges = {"share": record.found["effective"], "magnitude": record.found["effective_by_magnitude"]}
    asked = (lengths, {name: Effective(**ends) for name, ends in ranges.items() if ends}, mass)
    figures: dict[str, Callable[[], Axes | Figure]] = {"shares": partial(paths.shares, *asked)}
    if "magnitude" in lengths and record.found["known"] == len(lengths) - 1:
        pairs = paths.linear_and_log(*asked)
        figures = {name: partial(side_by_side, pair, height=paths.HEIGHTS[name]) for name, pair in pairs.items()}
    figures["blocks"] = partial(carriers.blocks, blocks)
    if "pairs" in tables:
        figures["pairs"] = partial(carriers.pairs, interaction(record))
    if "strongest" in tables:
        figures["strongest"] = partial(carriers.strongest, tables["strongest"], len(blocks))
    if "training" in tables:
        figures["training"] = partial(carriers.training, tables["training"])
    return figures
