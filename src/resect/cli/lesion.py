"""`resect lesion`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from resect.cli._console import console
from resect.cli._options import Setting, data_options, model_options, output_options
from resect.cli._progress import progress_bars
from resect.cli._sizes import BatchSize, Bytes, Numbers
from resect.jobs.sweeps import PLANS, Request, run_sweep
from resect.network.unraveled import unravel
from resect.report.sweeps import print_sweep, sweep_numbers, write_sweep
from resect.runs.folder import RunFolder
from resect.sweep.settings import METRICS, LesionSettings


@click.command()
@click.argument("model")
@click.argument("data")
@click.option("--plan", type=click.Choice(PLANS), default="single", show_default=True)
@click.option("--without", metavar="I,J,...", type=Numbers(), help="Delete just these blocks together, no plan.")
@click.option(
    "--removal",
    type=click.Choice(["zero", "mean", "other sample"]),
    default="zero",
    show_default=True,
    help="What stands for a deleted branch.",
)
@click.option("--counts", metavar="1-9,12", type=Numbers(), help="Of random: blocks deleted; of windows: lengths.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(min=1), help="Of random and shuffled.")
@click.option(
    "--orders", default=20, show_default=True, type=click.IntRange(min=1), help="Of shapley: pairs of orders."
)
@click.option("--removed", type=click.IntRange(min=1), help="Of ensemble: blocks missing in a member; a tenth.")
@click.option("--members", default=32, show_default=True, type=click.IntRange(min=2), help="Of ensemble.")
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
    "--layout",
    type=click.Choice(["auto", "contiguous", "channels-last"]),
    default="auto",
    show_default=True,
    help="Memory format of images; auto: the faster.",
)
@click.option("--compile", is_flag=True, help="Fuse the slices with torch.compile; changes the last bits.")
@click.option("--plain", is_flag=True, help="Lesion the layers of a plain network.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder: tables, figures, and where a killed run goes on."
)
@model_options
@data_options
@output_options
def lesion(model: str, data: str, out: Path | None, output: str, quiet: bool, plain: bool, **options: Any) -> None:
    """Delete or reorder blocks of MODEL and measure it on DATA, e.g. `resect lesion resect:resnet110-digits digits`."""
    own = {name: options.pop(name) for name in ("checkpoint", "model_args", "limit", "seed", "device", "dtype")}
    setting = Setting(model, data, **own)
    metrics = options.pop("metrics") or LesionSettings.metrics
    settings = LesionSettings(
        metrics=metrics,
        precision=options.pop("precision"),
        compile=options.pop("compile"),
        seed=setting.seed,
    )
    request = Request(seed=setting.seed, **options)
    asked = {**asdict(setting), **asdict(settings), **asdict(request), "plain": plain}
    asked["checkpoint"] = str(setting.checkpoint) if setting.checkpoint else None
    del asked["batch_size"]
    folder = RunFolder(out, _plainly(asked | {"batch_size": request.batch_size})) if out else None
    loaded, samples = setting.load()
    assert samples is not None
    net = unravel(loaded.module, loaded.example, plain=plain)
    with progress_bars(quiet) as track:
        found = run_sweep(net, samples, request, settings, track, folder)
    if folder:
        write_sweep(found, folder.path)
    if output == "json":
        click.echo(sweep_numbers(found))
    else:
        print_sweep(found, console())
    if folder and not quiet:
        console(stderr=True).print(f"Tables and figures: {folder.path}", soft_wrap=True)


def _plainly(asked: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists, as YAML gives them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asked.items()}
