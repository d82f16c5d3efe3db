"""`resect paths`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from resect.cli._options import (
    DATA_SPECS,
    Bytes,
    data_options,
    given,
    mass_option,
    model_options,
    out_option,
    output_options,
    part_options,
    renamed_option,
    task_option,
    whole,
)
from resect.cli._terminal import do
from resect.graph.decisions import Gates
from resect.jobs.asked import PathsAsked


@click.command(epilog=DATA_SPECS)
@click.argument("model")
@click.argument("data")
@whole("--draws", "Sampled single paths of each length and batch.", least=0, default=PathsAsked.draws)
@renamed_option("--samples", "--draws")
@whole("--sweeps", "Random signs a batch.", least=0, default=PathsAsked.sweeps)
@click.option(
    "--precision",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    default=PathsAsked.precision,
    show_default=True,
    metavar="PERCENT",
    help="Draw more signs, up to 8 times as many, until one standard error is so much of the squares they estimate.",
)
@whole("--strongest", "Paths to find.", least=0, default=PathsAsked.strongest)
@click.option("--pairs", is_flag=True, help="The share through each pair of blocks, too.")
@whole("--max-length", "Tell apart only paths up to so many blocks.", least=0)
@click.option(
    "--at",
    default="auto",
    show_default=True,
    metavar="PLACE",
    help="Where gradients are measured: input, stem, a block (number or name: its input), or a parameter.",
)
@click.option(
    "--of", default="loss", show_default=True, metavar="WHAT", help="loss, target (its logit), or a class (its logit)."
)
@click.option(
    "--gates",
    type=click.Choice(get_args(Gates)),
    default=PathsAsked.gates,
    show_default=True,
    help="How gradients take what is computed and multiplies a skip: hyper-connections' mixing, highway gates.",
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
@part_options
@data_options
@task_option
@whole("--batch-size", default=PathsAsked.batch_size)
@output_options
def paths(model: str, data: str, out: Path | None, output: str, quiet: bool, **options: Any) -> None:
    """The gradient of MODEL on DATA by path length, e.g. `resect paths resect:resnet110-digits digits --limit 64`."""
    options |= {name: _number_or_name(options[name]) for name in ("at", "of")}
    asked = PathsAsked.from_options(model, data, given(options))
    from resect.jobs.paths import PathsJob

    do(PathsJob(**vars(asked)), out, output=output, quiet=quiet)


def _number_or_name(text: str) -> str | int:
    return int(text) if text.lstrip("-").isdigit() else text
