"""`resect compare`."""

from __future__ import annotations

from pathlib import Path

import click

from resect.cli._options import format_option, mass_option
from resect.cli._terminal import show, wrote


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
@format_option
def compare(runs: tuple[Path, ...], labels: tuple[str, ...], mass: float, out: Path, output: str) -> None:
    """Overlay finished RUNs by path length, e.g. `resect compare runs/trained runs/untrained`.

    A RUN is a folder that `resect study` or `resect paths --out` wrote. The first is set against every other.
    """
    from resect.jobs.compare import CompareJob
    from resect.report.faces import draw

    record = CompareJob(runs, labels, mass).run(out)
    place = draw(record, out)
    show(record, output)
    wrote(place or out)
