"""The gradient along paths, on the terminal and in figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from resect.figures import carriers, paths
from resect.figures.style import side_by_side
from resect.measuring.meaning import CLASSIFIED, Meaning
from resect.paths.measures import FEW_SAMPLES, Effective, interaction_of, most_tied
from resect.paths.precision import PRECISION
from resect.report.layout import print_table
from resect.report.parts import Figures, save_figures, say
from resect.runs.record import Record
from resect.words import contribute, decimal, named, part, percent, plural, power_of_ten, ratio, span, two_to

_NAMED = 5  # blocks, of those that carry most
_SHOWN = 5e-5  # of the gradient, by any measure: lengths that carry less are left out on the terminal


def show(record: Record, console: Console) -> None:
    """Print the table by length, then what each part says in a sentence."""
    by_length, effective = record.tables["lengths"], record.found["effective"]
    place, sampled = record.found["at"], "path_norm" in by_length
    rows = plural(record.found["samples"], "sample" if place in ("input", "stem") else "gradient")
    title = f"{record.asked['model']}: the gradient at {place} by path length, {rows}"
    headings = ["length", "layers", "paths", "share %", "±", "norm"]
    headings += ["one path", "count × it %"] if sampled else []
    measures = [name for name in ("share", "magnitude", "magnitude_rms") if name in by_length]
    known = by_length[by_length["share"].notna()]
    shown = known[(known[measures].abs() > _SHOWN).any(axis=1)]
    low, high = (effective["low"], effective["high"]) if effective else (0, -1)
    bold = {number for number, length in enumerate(shown["length"]) if low <= int(length) <= high}
    cells = [_cells(row, sampled) for row in shown.to_dict("records")]
    print_table(console, headings, cells, title=title, bold=bold)
    say(console, *sentences(record))
    if len(shown) < len(known):
        say(console, f"Lengths that carry at most {part(_SHOWN)} are left out; --format json and --out DIR have them.")


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
    numbers, whole = record.found, len(record.tables["lengths"]) - 1
    mass, size, all_known = f"{100 * numbers['mass']:g} %", numbers["multiplicity"], numbers["known"] == whole
    meaning = Meaning.of(numbers)
    other = meaning.task != CLASSIFIED.task and record.asked.get("of") == "loss"
    told = [f"The gradient is that of the loss of {meaning.task}, the {meaning.loss}."] if other else []
    said = [f"The lengths told apart hold less than {mass} of the gradient; a longer --max-length may hold it."]
    if numbers["effective"]:
        effective = Effective(**numbers["effective"])
        said = [
            f"Effective lengths (at least {mass} of the gradient, here {percent(effective.held)}): "
            f"{effective.lengths}, {percent(effective.path_fraction)} of all paths."
        ]
        said += _range_beside(numbers)
    measures = {
        "magnitude": "count × mean norm of sampled paths",
        "rms": "count × root mean square norm, the bound if all paths of a length were parallel",
        "energy": "energy, as if no path interfered with another",
    }
    for key, name in measures.items():
        if by := numbers.get(f"effective_by_{key}"):
            said.append(f"By {name}: {Effective(**by).lengths}, {percent(by['path_fraction'])} of all paths.")
    said += _estimates(record)
    of, deep = ("", "effective depth") if all_known else (", by the lengths told apart", "their mean length")
    said.append(
        f"{two_to(size['log2_paths'])} paths, of which {contribute(size['log2_effective_paths'])}{of}; {deep} "
        f"{decimal(size['effective_depth'])} blocks. Shares and rest sum to "
        f"{numbers['sum_of_shares'] + numbers['rest']:.9f} (relative error {power_of_ten(numbers['sum_error'])})."
    )
    if (within := numbers["log2_effective_paths_within"]) is not None:
        said.append(f"Weighted within a length by the squared norms of the sampled paths, about {two_to(within)}.")
    if not all_known:
        said.append(f"All longer paths together: {percent(numbers['rest'])} of the gradient, exactly.")
    return said + told + _carriers(record) + _carried(record)


def _carried(record: Record) -> list[str]:
    """How far the carry gates of highway blocks are open."""
    if "carry" not in record.tables["blocks"]:
        return []
    gates = record.tables["blocks"]["carry"].dropna()
    return [
        f"The carry gates on skips are open to {percent(gates.mean())} on average ({percent(gates.min())} to "
        f"{percent(gates.max())} by block)."
    ]


def _range_beside(numbers: Mapping[str, Any]) -> list[str]:
    """What the effective range misses, how sure it is, and where it lies if samples are pooled."""
    said = []
    if residual := numbers.get("residual"):
        said.append(
            f"These lengths miss {percent(residual['missed'])} of the norm of a sample's gradient (cosine "
            f"{residual['cosine']:.3f}), as a share does not see what is orthogonal to the gradient."
        )
    if interval := numbers.get("effective_interval"):
        (low, up), (down, high) = interval
        said.append(f"Over samples, the 95 % intervals of its ends: {span(low, up)} and {span(down, high, 'block')}.")
    samples, rest_on, pooled = numbers["samples"], numbers.get("effective_samples"), numbers.get("effective_pooled")
    if rest_on is not None and pooled and samples > 1:
        few = ", too few to go by" if rest_on < FEW_SAMPLES else ""
        said.append(
            "Shares are means over the samples' own. Pooled, where samples weigh by their squared gradients, they "
            f"rest on {decimal(rest_on)} of {samples} samples{few}: {Effective(**pooled).lengths}."
        )
    return said


def _estimates(record: Record) -> list[str]:
    """Whether the random signs are enough to go by, and how the paths of a length stand to each other."""
    lengths, effective = record.tables["lengths"], record.found["effective"]
    if "coherence" not in lengths or not effective:
        return []
    some = lengths.iloc[effective["low"] : effective["high"] + 1]
    kappa = some["coherence"].dropna()
    said = [
        f"Coherence of the paths of these lengths, 1 if they do not interfere: {ratio(float(kappa.min()))} to "
        f"{ratio(float(kappa.max()))}."
    ]
    error, most = record.found.get("sweeps_error"), record.asked.get("precision") or PRECISION
    sweeps = f"{plural(record.found['sweeps'], 'sweep')} of random signs"
    if error is None or not isfinite(error):
        said.append(f"{sweeps} do not say how far off this is.")
    elif error * 100 <= most:
        said.append(f"By {sweeps}; one standard error of the sums of squares is at most {percent(error)} of them.")
    else:
        said.append(
            f"By {sweeps}, too few: one standard error of the sums of squares is up to {percent(error)} of them, not "
            f"{most:g} %, so that root mean squares, energy and coherence are orders of magnitude; more --sweeps make "
            "them better."
        )
    return said


def _carriers(record: Record) -> list[str]:
    """Which blocks, pairs and single paths carry most."""
    tables = record.tables
    blocks = tables["blocks"]
    names = [named(name, block) for name, block in zip(blocks["name"], blocks["block"], strict=True)]
    best = ", ".join(f"{names[i]} ({percent(blocks['share'][i])})" for i in blocks["share"].nlargest(_NAMED).index)
    none = percent(float(tables["lengths"]["share"][0]))
    said = [f"Shares of the gradient through single blocks, the largest first: {best}; over the skips alone: {none}."]
    if "fair_share" in blocks:
        due = ", ".join(
            f"{names[i]} ({percent(blocks['fair_share'][i])})" for i in blocks["fair_share"].nlargest(3).index
        )
        said.append(
            "A path counts for every block in it, so that these do not add up to 100 %. Split evenly among its blocks, "
            f"they do, with the skips: {due}."
        )
    if "pairs" in tables and len(blocks) > 1:
        said.append(most_tied(names, interaction(record)))
    if "strongest" in tables:
        first = tables["strongest"].iloc[0]
        chosen, search = list(map(str, first["blocks"])), record.found["strongest"]
        through = f"block{'s' * (len(chosen) > 1)} {', '.join(chosen)}" if chosen else "no block, over the skips alone"
        found = " found" if search.get("open", 1) else ""
        said.append(
            f"The strongest path{found} has {percent(float(first['relative']))} of the "
            f"norm of the whole gradient and goes through {through}. {search['summary']}"
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
