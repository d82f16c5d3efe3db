"""The check that trains nothing, on the terminal and in figures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
from rich.console import Console

from resect.figures import robustness as figures
from resect.figures.style import side_by_side
from resect.report.layout import print_table
from resect.report.parts import save_figures, say
from resect.runs.record import Record
from resect.words import decimal, part, plural, points

_BETWEEN = {
    "log2_blocks": "log₂ blocks",
    "log2_paths": "log₂ paths",
    "log2_effective_paths": "log₂ effective paths, at most",
    "effective_depth": "effective depth",
    "log2_coherence": "log₂ coherence",
}
_SHORT = ("paths, bits", "at most, bits", "depth", "log₂ coherent")
_ADDED = {
    "alone": "each alone, summed",
    "shares": "shares, summed",
    "ties": "ties of pairs",
}
_WITHIN = {
    "share": "share of the gradient",
    "first_order_size": "first-order size",
    "first_order": "first-order, signed",
}


def show(record: Record, console: Console) -> None:
    """Print the networks, and what goes with damage within and with robustness between them."""
    tables = record.tables
    say(console, f"{plural(record.found['samples'], 'sample')} of {record.found['data']}", "")
    headings = ("network", "blocks", "error", "without a tenth", "robust", *_SHORT)
    rows = [
        (row["model"], str(row["blocks"]), part(row["error"]), part(row["error_without_tenth"]),
         decimal(row["robustness"]), *(decimal(row[name], 1) for name in list(_BETWEEN)[1:]))
        for row in tables["networks"].to_dict("records")
    ]  # fmt: skip
    print_table(console, headings, rows, names=("network",))
    names, correlations = {**_BETWEEN, **_WITHIN, **_ADDED}, ("Spearman", "95 %", "p")
    for key, title in (
        ("within", "Within a network: the loss that deleting a block costs, against"),
        ("added", "Several blocks deleted: what that costs (of ties: beyond each alone), against"),
        ("between", "Between networks: robustness, against"),
    ):
        if key not in tables:  # of an earlier version
            continue
        first = ("measure",) if key == "between" else ("network", "measure")
        rows = [
            (*([] if key == "between" else [row["model"]]), names[row["measure"]], decimal(row["spearman"]),
             _ends(row["low"], row["high"]), _p(row["p_value"]))
            for row in tables[key].to_dict("records")
        ]  # fmt: skip
        print_table(console, (*first, *correlations), rows, names=first, title=title)
    damage = tables["blocks"].groupby("model", sort=False)["damage"]
    for model, own in damage:
        ends = f"{points(own.min())} to {points(own.max())}"
        say(console, f"{model}: deletions cost {ends}.")
    say(console, "By the number of paths alone, each would cost the same.", "", record.found["summary"])


def _ends(low: float, high: float) -> str:
    return "" if pd.isna(low) else f"{decimal(low)} to {decimal(high)}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else decimal(value, 3)


def draw(record: Record, folder: Path) -> Path:
    """Write figures/*.png."""
    blocks, networks = record.tables["blocks"], record.tables["networks"]
    within = [partial(figures.within, blocks, name, label) for name, label in _WITHIN.items()]
    between = [partial(figures.between, networks, name, _BETWEEN[name]) for name in list(_BETWEEN)[1:]]
    drawn = {"within": partial(side_by_side, within), "between": partial(side_by_side, between)}
    return save_figures(drawn, folder)
