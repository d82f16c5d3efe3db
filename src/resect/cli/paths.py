"""`resect paths`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from resect.cli._console import console
from resect.cli._options import Setting, data_options, model_options, output_options
from resect.cli._progress import progress_bars
from resect.cli._sizes import Bytes, mass_option
from resect.jobs.measure import Bench
from resect.jobs.paths import PathRequest, checkpoints_in, over_training, run_paths
from resect.network.unraveled import unravel
from resect.paths.settings import PathSettings, require_paths
from resect.report.path_run import path_numbers, print_paths, write_paths
from resect.runs.folder import RunFolder, given_or_scratch


@click.command()
@click.argument("model")
@click.argument("data")
@click.option(
    "--samples",
    default=PathRequest.samples,
    show_default=True,
    type=click.IntRange(min=0),
    help="Sampled single paths of each length and batch.",
)
@click.option(
    "--sweeps", default=PathRequest.sweeps, show_default=True, type=click.IntRange(min=0), help="Random signs a batch."
)
@click.option(
    "--strongest", default=PathRequest.strongest, show_default=True, type=click.IntRange(min=0), help="Paths to find."
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
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder: tables, figures, and where a killed run goes on."
)
@model_options
@data_options
@click.option("--batch-size", default=PathRequest.batch_size, show_default=True, type=click.IntRange(min=1))
@output_options
def paths(model: str, data: str, out: Path | None, output: str, quiet: bool, **options: Any) -> None:
    """The gradient of MODEL on DATA by path length, e.g. `resect paths resect:resnet110-digits digits --limit 64`."""
    own = {name: options.pop(name) for name in ("checkpoint", "model_args", "limit", "seed", "device", "dtype")}
    setting = Setting(model, data, **own)
    at, of = (_number_or_name(options.pop(name)) for name in ("at", "of"))
    settings = PathSettings(at, of, options.pop("memory"), setting.seed)
    mass, folder_of_weights = options.pop("mass"), options.pop("checkpoints")
    request = PathRequest(**options)
    asked = {**asdict(setting), "at": at, "of": of, **asdict(request), "mass": mass}
    asked |= {"checkpoint": _text(setting.checkpoint), "checkpoints": _text(folder_of_weights)}
    asked["model_args"] = list(setting.model_args)
    weights = checkpoints_in(folder_of_weights) if folder_of_weights else []
    folder = RunFolder(out, asked) if out else None
    loaded, samples = setting.load()
    assert samples is not None
    net = unravel(loaded.module, loaded.example)
    require_paths(net)
    training = None
    with progress_bars(quiet) as track, given_or_scratch(folder) as place:
        found = run_paths(net, Bench(place, samples, request.batch_size, track), request, settings)
        if weights:
            training = over_training(net, weights, Bench(place, samples, request.batch_size, track), settings, mass)
    if folder:
        folder.open()
        write_paths(asked, mass, found, training, folder.path)
    if output == "json":
        click.echo(path_numbers(asked, mass, found, training))
    else:
        print_paths(model, mass, found, console())
    if folder and not quiet:
        console(stderr=True).print(f"Tables and figures: {folder.path}", soft_wrap=True)


def _number_or_name(text: str) -> str | int:
    return int(text) if text.lstrip("-").isdigit() else text


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
