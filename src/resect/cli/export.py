"""`resect export`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resect.cli._options import SEED, Blocks, given, model_options, output_options, part_options
from resect.cli._process import when_interrupted
from resect.cli._terminal import console, progress_bars, wrote
from resect.errors import ExportError
from resect.jobs.source import DTYPES

if TYPE_CHECKING:
    from resect.jobs.export import ExportAsked
    from resect.pruning.export.formats import Exported

_KINDS = """KIND is hf (a folder for from_pretrained, without the removed layers), hf-zero (the same with all layers,
removed branches set to zero: loads anywhere, exact, not faster), timm (for create_model), torchvision (for its
constructors), resect (weights for --checkpoint), torch (the stand-alone network, faster, as an archive of
torch.export), onnx, mergekit (a passthrough recipe) or gguf-layers (numbers for
llama-quantize --prune-layers)."""


@click.command(epilog=_KINDS)
@click.argument("subject", metavar="RUN|MODEL")
@click.argument("exports", metavar="KIND:PATH...", nargs=-1, required=True)
@click.option("--without", metavar="0-2,-1,NAME", type=Blocks(), help="The blocks that go, by number or name.")
@click.option("--arrangement", metavar="0..2,-,4..9", help="What runs in every slot, instead.")
@click.option("--plan", type=click.Path(path_type=Path), metavar="FILE", help="What a run of prune removed, instead.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of random weights.")
@click.option(
    "--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Of weights; a run has its own."
)
@output_options
@model_options
@part_options
def export(subject: str, exports: tuple[str, ...], output: str, quiet: bool, **options: Any) -> None:
    """Write MODEL without some of its blocks for others, e.g. `resect export hf:gpt2 --without 4-7 hf:smaller`.

    RUN is the folder of a run that removed blocks. What was written is loaded in a fresh process and compared with the
    pruned network before it is kept; what a format cannot express is refused with the reason.
    """
    from resect.jobs.export import ExportAsked
    from resect.pruning.export.formats import require_targets

    asked = ExportAsked.of(subject, exports, given(options))
    require_targets(exports, asked.source.model)
    for done in exported(asked, exports, quiet=quiet):
        if output == "json":
            click.echo(json.dumps(asdict(done) | {"path": str(done.path)}))
        else:
            say(done)


def exported(asked: ExportAsked, targets: Sequence[str], *, quiet: bool) -> Iterator[Exported]:
    """Write a network in one format after the other.

    Raises:
        ExportError: some formats cannot hold it; the others are written first, which it says.
    """
    from resect.pruning.export.formats import export as write

    if not quiet:
        console(stderr=True).print(f"Taking {asked.source.model} apart ...", soft_wrap=True, highlight=False)
    net = asked.network()
    when_interrupted(lambda: "What was being written is thrown away.")
    refused: list[ExportError] = []
    written: list[Path] = []
    for target in targets:
        try:
            with progress_bars(quiet) as track:
                done = write(net, asked.chosen(net), target, origin=asked.origin(), track=track)
        except ExportError as error:
            refused.append(ExportError(f"{target}: {error}" if len(targets) > 1 else str(error)))
            continue
        written.append(done.path)
        yield done
        if not quiet:
            wrote(done.path)
    if refused:
        kept = f" Written: {', '.join(map(str, written))}." if written else ""
        raise ExportError(" ".join(map(str, refused)) + kept)


def say(done: Exported) -> None:
    """Print what was compared."""
    console().print(done.summary(), soft_wrap=True, highlight=False)
