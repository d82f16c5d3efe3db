"""`resect scores`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resect.cli._options import (
    DATA_SPECS,
    data_options,
    given,
    model_options,
    out_option,
    output_options,
    part_options,
    task_option,
    whole,
)
from resect.cli._terminal import do
from resect.jobs.asked_pruning import ScoresAsked
from resect.pruning.settings import SCORES


@click.command(epilog=DATA_SPECS)
@click.argument("model")
@click.argument("data")
@click.option("--score", "scores", multiple=True, type=click.Choice(SCORES), help="Repeatable; all if absent.")
@whole("--batch-size", default=ScoresAsked.batch_size)
@out_option
@model_options
@part_options
@data_options
@task_option
@output_options
def scores(model: str, data: str, out: Path | None, output: str, quiet: bool, **options: Any) -> None:
    """What every block of MODEL is worth on DATA by several measures, and how far they agree.

    Damage of deleting it (error, loss, divergence), Block Influence, angular distance, norm ratio, its part of the
    gradient, and its Shapley value. `resect scores resect:resnet110-digits digits --limit 100`
    """
    asked = ScoresAsked.from_options(model, data, given(options))
    from resect.jobs.scores import ScoresJob

    do(ScoresJob(**vars(asked)), out, output=output, quiet=quiet)
