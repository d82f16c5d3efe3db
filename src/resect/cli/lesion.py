"""`resect lesion`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from resect.cli._options import (
    DATA_SPECS,
    BatchSize,
    Blocks,
    Bytes,
    Numbers,
    data_options,
    given,
    model_options,
    out_option,
    output_options,
    part_options,
    renamed_option,
    task_option,
    whole,
)
from resect.cli._terminal import do
from resect.graph.decisions import Combine, Removal, Unit
from resect.jobs.asked import MEMORY_FORMATS, LesionAsked
from resect.sweep.settings import METRICS, PLANS


@click.command(epilog=DATA_SPECS)
@click.argument("model")
@click.argument("data")
@click.option("--plan", type=click.Choice(PLANS), default="single", show_default=True)
@click.option(
    "--without",
    metavar="0-2,-1,NAME",
    type=Blocks(),
    help="Delete just these blocks together, by number or name; no plan.",
)
@click.option(
    "--removal",
    type=click.Choice(get_args(Removal)),
    default="zero",
    show_default=True,
    help="What stands for a deleted branch.",
)
@click.option(
    "--counts",
    metavar="1-9,12",
    type=Numbers(),
    help="Of random, random-repeated: blocks; windows, reversed, parallel: lengths; shuffled: swaps.",
)
@click.option(
    "--unit",
    type=click.Choice(get_args(Unit)),
    default="block",
    show_default=True,
    help="Of windows, reversed and parallel: what is counted.",
)
@click.option("--middle", is_flag=True, help="Of them: one span of each length, in the middle; not at every start.")
@click.option(
    "--combine",
    type=click.Choice(get_args(Combine)),
    default="mean",
    show_default=True,
    help="Of parallel: the mean of the outputs, or all that they add.",
)
@whole("--repeats", "Of random, random-repeated and shuffled.", default=LesionAsked.repeats)
@whole("--orders", "Of shapley: pairs of orders.", default=LesionAsked.orders)
@whole("--removed", "Of ensemble: blocks missing in a member; a tenth.")
@whole("--members", "Of ensemble.", least=2, default=LesionAsked.members)
@click.option(
    "--metric", "metrics", multiple=True, type=click.Choice(METRICS), help="Repeatable; all but kl if absent."
)
@click.option(
    "--precision",
    metavar="POINTS",
    type=float,
    help="Stop each lesion once the 95 % interval of its damage is within so many points of error.",
)
@click.option("--batch-size", type=BatchSize(), default="auto", show_default=True, help="auto: the fastest of several.")
@click.option("--memory", metavar="SIZE", type=Bytes(), help="Room for values, e.g. 4GiB; half of what is free.")
@click.option(
    "--memory-format", type=click.Choice(MEMORY_FORMATS), default="auto", show_default=True, help="auto: the faster."
)
@renamed_option("--layout", "--memory-format")
@click.option("--compile", is_flag=True, help="Fuse the slices with torch.compile; changes the last bits.")
@click.option("--plain", is_flag=True, help="Lesion the layers of a plain network.")
@out_option
@model_options
@part_options
@data_options
@task_option
@output_options
def lesion(model: str, data: str, out: Path | None, output: str, quiet: bool, **options: Any) -> None:
    """Delete or reorder blocks of MODEL and measure it on DATA, e.g. `resect lesion resect:resnet110-digits digits`."""
    asked = LesionAsked.from_options(model, data, given(options))
    from resect.jobs.lesion import LesionJob

    do(LesionJob(**vars(asked)), out, output=output, quiet=quiet)
