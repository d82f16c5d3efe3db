"""`resect evaluate`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import click
import pandas as pd
from rich.table import Table

from resect.cli._console import console
from resect.cli._options import Setting, batch_option, data_options, output_options
from resect.cli._progress import progress_bars
from resect.jobs.evaluate import evaluate_networks
from resect.jobs.study import split_spec
from resect.models.specs import LoadedModel, load_model
from resect.report.tables import plain_rows
from resect.report.words import count, decimal, percent


@click.command()
@click.argument("data")
@click.argument("models", nargs=-1, required=True, metavar="MODEL[@FILE]...")
@batch_option
@data_options
@output_options
def evaluate(data: str, models: tuple[str, ...], output: str, quiet: bool, **options: Any) -> None:
    """Test error of MODELs on DATA with intervals, and the difference of each to the first.

    `resect evaluate cifar10 resect:resnet110-cifar10 resect:resnet110-cifar10-keep23`
    """
    settings = [Setting(spec, data, file, (), **options) for spec, file in map(split_spec, models)]
    samples = settings[0].samples()
    with progress_bars(quiet) as track:
        advance = track("images", len(samples) * len(models))

        def networks() -> Iterator[LoadedModel]:
            for text, setting in zip(models, settings, strict=True):
                loaded = load_model(setting.model, checkpoint=setting.checkpoint, samples=samples, seed=setting.seed)
                yield replace(setting.placed(loaded), spec=text)

        found = evaluate_networks(networks(), samples, settings[0].batch_size, advance)
    if output == "json":
        click.echo(json.dumps(plain_rows(found), indent=2))
    else:
        console().print(_table(data, found))


def _table(data: str, found: pd.DataFrame) -> Table:
    table = Table(title=f"Test error on {found['samples'][0]} samples of {data}, 95 % intervals")
    for name in ("model", "parameters", "error", "loss", "to the first, points", "p"):
        table.add_column(name, justify="left" if name == "model" else "right", overflow="fold")
    for row in found.to_dict("records"):
        error = f"{percent(row['error'], 2)}\n{decimal(100 * row['error_low'])} to {decimal(100 * row['error_high'])}"
        cells = [row["model"], count(row["parameters"]), error, decimal(row["loss"], 3), "", ""]
        if pd.notna(row.get("difference")):
            points = [decimal(100 * row[name]) for name in ("difference", "difference_low", "difference_high")]
            cells[-2:] = [f"{points[0]}\n{points[1]} to {points[2]}", f"{row['p_value']:.2g}"]
        table.add_row(*cells)
    return table
