"""Test errors side by side, on the terminal."""

from __future__ import annotations

import pandas as pd
from rich.console import Console

from resect.measuring.meaning import Meaning
from resect.report.layout import print_table
from resect.report.parts import say
from resect.runs.record import Record
from resect.words import count, decimal, plural


def show(record: Record, console: Console) -> None:
    """Print one row a network."""
    networks, meaning = record.tables["networks"], Meaning.of(record.found)
    samples = plural(int(networks["samples"][0]), "sample")
    sequences, rows = "perplexity" in networks, []
    for row in networks.to_dict("records"):
        error = (
            f"{meaning.value(row['error'])}\n{meaning.change(row['error_low'])} to {meaning.change(row['error_high'])}"
        )
        loss = decimal(row["loss"], 3) + (f"\n{decimal(row['perplexity'], 1)}" if sequences else "")
        cells = [row["model"], count(row["parameters"]), error, loss, "", ""]
        if pd.notna(row.get("difference")):
            points = [meaning.change(row[name]) for name in ("difference", "difference_low", "difference_high")]
            p_value = f"{row['p_value']:.2g}" if pd.notna(row["p_value"]) else ""
            cells[-2:] = [f"{points[0]}\n{points[1]} to {points[2]}", p_value]
        rows.append(cells)
    loss = "loss, perplexity" if sequences else "loss"
    headings = ("model", "parameters", meaning.error, loss, f"to the first{',' * meaning.rate}{meaning.points}", "p")
    title = f"Test {meaning.error} on {samples} of {record.asked['data']}, 95 % intervals"
    print_table(console, headings, rows, names=("model",), title=title)
    if "normalization" in networks:
        for how, alike in networks.groupby("normalization", sort=False):
            say(
                console, f"Pixels, scaled to [0, 1], were normalised by mean/std {how} for {', '.join(alike['model'])}."
            )
    if "prepared" in networks:
        for how, alike in networks.groupby("prepared", sort=False):
            say(console, f"Files became inputs of {', '.join(alike['model'])}: {how}.")
