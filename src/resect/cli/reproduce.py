"""`resect reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resect.cli._options import (
    batch_option,
    data_options,
    given,
    model_options,
    out_option,
    output_options,
    whole,
)
from resect.cli._terminal import do
from resect.jobs.asked import DATA, ReproduceAsked


@click.command()
@click.argument("claims", nargs=-1, metavar="[CLAIM ...|all]")
@click.option(
    "--data",
    default=DATA,
    show_default=True,
    metavar="DATA",
    help="digits, or cifar10:DIR, for which most networks are shipped; with --model any.",
)
@click.option("--model", metavar="SPEC", help="The network, if not the ResNet-110 that is shipped for the data.")
@model_options
@click.option("--train", is_flag=True, help="Train the networks of other depths, which have no weights (claim 1b).")
@whole(
    "--repeats",
    "Random deletions and repetitions of each number of blocks, and reorderings.",
    default=ReproduceAsked.repeats,
)
@out_option
@batch_option
@data_options
@output_options
def reproduce(claims: tuple[str, ...], data: str, out: Path | None, output: str, quiet: bool, **options: Any) -> None:
    """The paper's claims, one by one: what its authors found, what is found here, and a verdict by a rule.

    CLAIMs are numbers, 1 to 13; a part has a letter, 12a. What cannot be measured here is said to be so, with the
    command that does. In a run folder it goes on where it stopped, and claims that are asked for later join the others.
    `resect reproduce 1 3 4 --data cifar10:DIR --limit 500 --out runs/paper`
    """
    asked = ReproduceAsked.of(claims, data, given(options))
    from resect.jobs.reproduce import ReproduceJob

    do(ReproduceJob(**vars(asked)), out, output=output, quiet=quiet)
