"""`resect paths`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from resect.cli._options import Setting, batch_option, data_options, model_options, output_options
from resect.cli._progress import progress_bars
from resect.network.unraveled import unravel
from resect.paths.samples import PathSamples, sample_paths
from resect.paths.spectrum import PathSpectrum, path_spectrum, require_paths
from resect.report.tables import plain_rows
from resect.runs.folder import require_writable, write_parquet

_BATCH = 32


@click.command()
@click.argument("model")
@click.argument("data")
@click.option(
    "--samples",
    "drawn",
    default=10,
    show_default=True,
    type=click.IntRange(min=0),
    help="Sampled single paths of each length and batch; 0 for none.",
)
@click.option(
    "--at",
    type=click.Choice(["auto", "input", "stem"]),
    default="auto",
    show_default=True,
    help="Where the gradient is measured.",
)
@click.option(
    "--mass",
    default=0.95,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Of the effective range.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the table to this parquet file.")
@model_options
@data_options
@batch_option
@output_options
def paths(
    model: str,
    data: str,
    drawn: int,
    at: str,
    mass: float,
    out: Path | None,
    output: str,
    quiet: bool,
    **options: Any,
) -> None:
    """The gradient of MODEL on DATA by path length, e.g. `resect paths resect:resnet110-digits digits --limit 64`."""
    setting = Setting(model, data, **options)
    if out is not None:
        require_writable(out)
    loaded, samples = setting.load()
    assert samples is not None
    net = unravel(loaded.module, loaded.example)
    require_paths(net)
    size = min(_BATCH, setting.batch_size)
    work = (len(net.sliced.slices) - 2) * -(-len(samples) // size)
    with progress_bars(quiet) as track:
        advance = track("exact shares", work)
        spectrum = path_spectrum(net, samples.batches(size), at=at, progress=advance)
        sampled = None
        if drawn:
            advance = track("sampled single paths", work)
            batches = samples.batches(size)
            sampled = sample_paths(net, batches, samples=drawn, at=at, seed=setting.seed, progress=advance)
    table = spectrum.table if sampled is None else spectrum.table.merge(sampled.table, on="length")
    if out is not None:
        write_parquet(out, table)
    if output == "json":
        click.echo(json.dumps(_numbers(model, data, mass, spectrum, sampled, table), indent=2))
    else:
        _print(model, mass, spectrum, sampled)


def _numbers(
    model: str, data: str, mass: float, spectrum: PathSpectrum, sampled: PathSamples | None, table: Any
) -> dict[str, Any]:
    return {
        "model": model,
        "data": data,
        "samples": len(spectrum.squares),
        "at": spectrum.at,
        "sum_of_shares": float(spectrum.share.sum()),
        "sum_error": spectrum.sum_error,
        "effective": vars(spectrum.effective(mass)),
        "effective_by_magnitude": vars(sampled.effective(mass)) if sampled else None,
        "multiplicity": vars(spectrum.multiplicity()),
        "lengths": plain_rows(table),
    }


def _print(model: str, mass: float, spectrum: PathSpectrum, sampled: PathSamples | None) -> None:
    effective, size = spectrum.effective(mass), spectrum.multiplicity()
    table = Table(title=f"{model}: the gradient at the {spectrum.at} by path length, {len(spectrum.squares)} samples")
    for name in ("length", "layers", "paths", "share", "norm") + (("one path", "count x norm") if sampled else ()):
        table.add_column(name, justify="right")
    for k, count in enumerate(spectrum.count):
        row = [str(k), f"{spectrum.layers[k]:g}", f"{count:.4g}", f"{spectrum.share[k]:.3%}", f"{spectrum.norm[k]:.3g}"]
        if sampled:
            row += [f"{sampled.mean[k]:.3g}", f"{sampled.magnitude[k]:.3%}"]
        table.add_row(*row, style="bold" if effective.low <= k <= effective.high else "")
    console = Console()
    console.print(table)
    console.print(
        f"Effective lengths ({mass:.0%} of the gradient): {effective.low} to {effective.high} blocks, "
        f"{effective.low_layers:g} to {effective.high_layers:g} layers, {effective.path_fraction:.3g} of all paths. "
        f"2^{size.log2_paths:.1f} paths, of which 2^{size.log2_effective_paths:.1f} effectively contribute; mean depth "
        f"{size.effective_depth:.2f} blocks. The shares sum to {spectrum.share.sum():.9f} "
        f"(relative error {spectrum.sum_error:.1e}).",
        highlight=False,
    )
