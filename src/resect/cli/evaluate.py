"""`resect evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resect.cli._options import DATA_SPECS, batch_option, data_options, given, output_options, task_option
from resect.cli._terminal import do
from resect.jobs.asked import EvaluateAsked


@click.command(epilog=DATA_SPECS)
@click.argument("data")
@click.argument("models", nargs=-1, required=True, metavar="MODEL[@FILE]...")
@click.option("--out", type=click.Path(path_type=Path), help="A folder for the record and its table.")
@batch_option
@data_options
@task_option
@output_options
def evaluate(data: str, models: tuple[str, ...], out: Path | None, output: str, quiet: bool, **options: Any) -> None:
    """Test error of MODELs on DATA with intervals, and the difference of each to the first.

    `resect evaluate cifar10 resect:resnet110-cifar10 resect:resnet110-cifar10-keep23`
    """
    asked = EvaluateAsked.of(data, models, given(options))
    from resect.jobs.evaluate import EvaluateJob

    do(EvaluateJob(**vars(asked)), out, output=output, quiet=quiet)
