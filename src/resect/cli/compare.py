"""`resect compare`."""

from __future__ import annotations

from pathlib import Path

import click

from resect.cli._console import console
from resect.cli._sizes import mass_option
from resect.report.comparison import summarise
from resect.report.comparison_output import (
    comparison_numbers,
    print_comparison,
    require_own_folder,
    write_comparison,
)
from resect.report.finished_runs import read_runs


@click.command()
@click.argument("runs", nargs=-1, metavar="RUN RUN [RUN]...", type=click.Path(path_type=Path))
@click.option("--label", "labels", multiple=True, metavar="NAME", help="Of a run, once for each; else its model.")
@mass_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("comparison"),
    show_default=True,
    help="Folder for table, numbers and figures; an earlier comparison in it is replaced.",
)
# As `output_options`, whose module waits for torch; there are no progress bars here that --quiet could silence.
@click.option("--format", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def compare(runs: tuple[Path, ...], labels: tuple[str, ...], mass: float, out: Path, output: str) -> None:
    """Overlay finished RUNs by path length, e.g. `resect compare runs/trained runs/untrained`.

    A RUN is a folder that `resect study` or `resect paths --out` wrote. The first is set against every other.
    """
    found = read_runs(runs, labels)
    require_own_folder(out)
    summaries = [summarise(run, mass) for run in found]
    numbers = comparison_numbers(summaries, mass)
    write_comparison(found, numbers, mass, out)
    if output == "json":
        click.echo(numbers)
        return
    terminal = console()
    print_comparison(summaries, mass, terminal)
    terminal.print(f"Tables and figures: {out}", soft_wrap=True, highlight=False)
