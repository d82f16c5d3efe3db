"""`resect study`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resect.cli._options import (
    DATA_SPECS,
    batch_option,
    data_options,
    given,
    model_options,
    output_options,
    part_options,
    renamed_option,
    whole,
)
from resect.cli._terminal import do
from resect.jobs.asked import DATA, MODEL, StudyAsked


@click.command(epilog=DATA_SPECS)
@click.argument("model", default=MODEL)
@click.argument("data", default=DATA)
@click.option(
    "--beside",
    multiple=True,
    metavar="SPEC[@FILE]",
    help="A shallower, deeper, narrower ... network to set "
    "beside it; a resect: network without weights is trained first. Repeatable.",
)
@click.option("--control", metavar="SPEC[@FILE]", help="The plain network; by default the VGG-15 shipped for DATA.")
@click.option(
    "--untrained/--no-untrained",
    default=True,
    help="Measure the paths of the same architecture with random weights, too; by default wherever it can be built.",
)
@click.option("--plain", is_flag=True, help="Take the network as a plain one: lesion its layers.")
@whole("--repeats", "Random deletions of each number of blocks, and reorderings.", default=StudyAsked.repeats)
@whole("--gradient-samples", "For the exact shares.", default=StudyAsked.gradient_samples)
@whole("--gradient-batch", "So many at a time.", default=StudyAsked.gradient_batch)
@whole("--path-samples", "For sampled paths and random signs.", default=StudyAsked.path_samples)
@whole("--path-batch", "So many at a time.", default=StudyAsked.path_batch)
@whole("--sweeps", "Random signs a batch.", default=StudyAsked.sweeps)
@whole("--draws", "Sampled single paths of each length and batch.", default=StudyAsked.draws)
@renamed_option("--paths", "--draws")
@click.option("--retrain", is_flag=True, help="Train the shipped networks anew first.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; one under runs/ by default.")
@model_options
@part_options
@data_options
@batch_option
@output_options
def study(model: str, data: str, out: Path | None, output: str, quiet: bool, **options: Any) -> None:
    """Everything about one network: lesions, paths, the paper's four questions, and a report.

    MODEL is resect:resnet110-digits and DATA is digits by default. A killed study goes on where it stopped.
    """
    asked = StudyAsked.from_options(model, data, given(options))
    from resect.jobs.study import StudyJob, default_folder

    job = StudyJob(**vars(asked))
    do(job, out or default_folder(job), output=output, quiet=quiet)
