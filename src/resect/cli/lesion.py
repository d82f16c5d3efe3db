"""`resect lesion`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from resect.cli._options import Setting, data_options, model_options, output_options
from resect.cli._progress import progress_bars
from resect.errors import InputError
from resect.network.unraveled import Unraveled, unravel
from resect.runs.folder import write_parquet
from resect.sweep import plans
from resect.sweep.lesion import LesionResult
from resect.sweep.lesion import lesion as run_lesion

_SHOWN = 60


@click.command()
@click.argument("model")
@click.argument("data")
@click.option("--plan", type=click.Choice(["single", "random", "shuffled"]), default="single", show_default=True)
@click.option("--without", "without", metavar="I,J,...", help="Delete just these blocks together, instead of a plan.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(min=1), help="Of random and shuffled.")
@click.option("--plain", is_flag=True, help="Lesion the layers of a plain network.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the table to this parquet file.")
@model_options
@data_options
@output_options
def lesion(
    model: str,
    data: str,
    plan: str,
    without: str | None,
    repeats: int,
    plain: bool,
    out: Path | None,
    output: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Delete or reorder blocks of MODEL and measure it on DATA, e.g. `resect lesion resect:resnet110-digits digits`."""
    setting = Setting(model, data, **options)
    loaded, samples = setting.load()
    assert samples is not None
    net = unravel(loaded.module, loaded.example, plain=plain)
    chosen = _plan(net, plan, without, repeats, setting.seed)
    with progress_bars(quiet) as track:
        advance = track(f"{chosen.name} lesions", (len(chosen) + 1) * len(samples))
        result = run_lesion(net, samples.batches(setting.batch_size), chosen, progress=advance)
    if out is not None:
        write_parquet(out, result.table)
    if output == "json":
        rows = result.table.to_dict(orient="records")
        numbers = {"model": model, "data": data, "samples": len(samples), "intact_error": result.intact_error}
        click.echo(json.dumps({**numbers, "intact_loss": result.intact_loss, "lesions": rows}, indent=2))
    else:
        _print(model, result)


def _plan(net: Unraveled, plan: str, without: str | None, repeats: int, seed: int) -> plans.Plan:
    if without is not None:
        try:
            gone = [int(part) for part in without.split(",")]
        except ValueError as error:
            raise InputError(f"`--without` must be block numbers with commas between, got {without!r}.") from error
        return plans.explicit(net, [net.intact.without(*gone)])
    if plan == "single":
        return plans.single(net)
    chosen = (
        plans.random(net, repeats=repeats, seed=seed)
        if plan == "random"
        else plans.shuffled(net, repeats=repeats, seed=seed)
    )
    if not chosen.arrangements:
        raise InputError("no two blocks of this network have the same shapes, so none can trade places.")
    return chosen


def _print(model: str, result: LesionResult) -> None:
    rows = result.table
    table = Table(title=f"{model}: intact error {result.intact_error:.2%}, loss {result.intact_loss:.4f}")
    for name in rows.columns:
        table.add_column(str(name).replace("_", " "), justify="left" if name == "name" else "right")
    for row in rows.head(_SHOWN).to_dict(orient="records"):
        table.add_row(*(_cell(str(name), value) for name, value in row.items()))
    console = Console()
    console.print(table)
    if len(rows) > _SHOWN:
        console.print(f"{len(rows) - _SHOWN} more rows; --format json or --out FILE gives all.")
    console.print(result.summary(), highlight=False)


def _cell(name: str, value: Any) -> str:
    if name in ("error", "damage"):
        return f"{value * 100:.2f} {'%' if name == 'error' else 'points'}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
