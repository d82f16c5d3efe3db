"""`resect blocks`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from resect.cli._options import SEED, model_options, output_options, part_options
from resect.cli._terminal import console
from resect.errors import InputError
from resect.jobs.source import Source

if TYPE_CHECKING:  # which loads torch; help does without
    from resect.network.unraveled import Unraveled


@click.command()
@click.argument("model")
@click.option("--plain", is_flag=True, help="List the layers of a plain network instead.")
@click.option("--rejected", is_flag=True, help="List also the additions that are no blocks, with the reasons.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of random weights.")
@output_options
@model_options
@part_options
def blocks(
    model: str,
    plain: bool,
    rejected: bool,
    output: str,
    quiet: bool,
    **options: Any,
) -> None:
    """List the residual blocks of MODEL, e.g. `resect blocks torchvision:resnet50`."""
    source = Source(model, **options)
    from resect.network.entrance import unravel
    from resect.network.requirements import no_joins_message

    net = unravel(source.part(source.load()), plain=plain, batch_dim=source.batch_dim)
    if not net.blocks and not plain:
        layers = net.as_plain()
        raise InputError(
            f"{no_joins_message(net)} It has {len(layers.blocks)} layers that can be deleted and "
            f"{len(layers.rejected)} that change the shape."
        )
    if output == "json":
        click.echo(json.dumps(_numbers(model, net), indent=2))
    else:
        _print(model, net, rejected)


def _numbers(model: str, net: Unraveled) -> dict[str, Any]:
    return {
        "model": model,
        "unit": "layer" if net.plain else "block",
        "recorded": net.recorded,
        "capture_seconds": net.capture_seconds,
        "blocks": [asdict(block) for block in net.blocks],
        "rejected": [asdict(entry) for entry in net.rejected],
    }


def _print(model: str, net: Unraveled, rejected: bool) -> None:
    from resect.network.requirements import recorded_message
    from resect.report.layout import print_table
    from resect.words import duration

    unit = "layers that can be deleted" if net.plain else "blocks"
    rows = []
    for block in net.blocks:
        shapes = ["x".join(map(str, shape)) for shape in (block.entry_shape, block.branch_shape)]
        name = block.name if block.parent is None else f"{block.name} (in {block.parent})"
        numbers = (str(block.span), str(block.layers), f"{block.parameters:,}")
        rows.append((str(block.index), name, block.kind, *numbers, *shapes))
    headings, names = ("#", "name", "kind", "span", "layers", "parameters", "entry", "branch"), ("name", "kind")
    terminal = console()
    title = f"{model}: {len(net.blocks)} {unit}, {net.layers} layers on their branches"
    print_table(terminal, headings, rows, names=names, title=title)
    if message := recorded_message(net):
        terminal.print(message)
    what = "layers" if net.plain else "additions"
    if net.rejected and not rejected:
        terminal.print(f"{len(net.rejected)} {what} were considered and are not among them; --rejected lists them.")
    for number, module, reason in net.rejected.table.itertuples(index=False) if rejected else ():
        times = f"{number:,} in" if number > 1 else "one in"
        terminal.print(f"{times} {module or 'the model'}: {reason}", highlight=False)
    terminal.print(f"Captured in {duration(net.capture_seconds)}.", highlight=False)
