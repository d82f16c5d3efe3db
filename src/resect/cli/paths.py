"""`resect paths`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resect.cli._options import data_options, model_options, out_option, output_options, renamed_option
from resect.cli._show import do
from resect.cli._sizes import Bytes, mass_option
from resect.jobs.paths import PathsJob


@click.command()
@click.argument("model")
@click.argument("data")
@click.option(
    "--draws",
    default=PathsJob.draws,
    show_default=True,
    type=click.IntRange(min=0),
    help="Sampled single paths of each length and batch.",
)
@renamed_option("--samples", "--draws")
@click.option(
    "--sweeps", default=PathsJob.sweeps, show_default=True, type=click.IntRange(min=0), help="Random signs a batch."
)
@click.option(
    "--strongest", default=PathsJob.strongest, show_default=True, type=click.IntRange(min=0), help="Paths to find."
)
@click.option("--pairs", is_flag=True, help="The share through each pair of blocks, too.")
@click.option("--max-length", type=click.IntRange(min=0), help="Tell apart only paths up to so many blocks.")
@click.option(
    "--at",
    default="auto",
    show_default=True,
    metavar="PLACE",
    help="Where gradients are measured: input, stem, a block (number or name: the state before it), or a parameter.",
)
@click.option(
    "--of", default="loss", show_default=True, metavar="WHAT", help="loss, target (its logit), or a class (its logit)."
)
@mass_option
@click.option("--memory", metavar="SIZE", type=Bytes(), help="Room for values, e.g. 4GiB; half of what is free.")
@click.option(
    "--checkpoints",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of weights of this model, in the order of the numbers in their names: how all this changes.",
)
@out_option
@model_options
@data_options
@click.option("--batch-size", default=PathsJob.batch_size, show_default=True, type=click.IntRange(min=1))
@output_options
def paths(model: str, data: str, out: Path | None, output: str, quiet: bool, **options: Any) -> None:
    """The gradient of MODEL on DATA by path length, e.g. `resect paths resect:resnet110-digits digits --limit 64`."""
    options |= {name: _number_or_name(options[name]) for name in ("at", "of")}
    do(PathsJob.from_options(model, data, options), out, output=output, quiet=quiet)


def _number_or_name(text: str) -> str | int:
    return int(text) if text.lstrip("-").isdigit() else text
