"""`resect train`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from resect.cli._options import SEED, parse_arguments
from resect.data import load_samples
from resect.studies.train import TrainingJob, train_network
from resect.training.loop import Recipe


@click.command()
@click.argument("data")
@click.option("--model", required=True, metavar="NAME", help="A network of resect, e.g. resnet110 or vgg15.")
@click.option("--out", type=click.Path(path_type=Path), help="Weights to write; NAME-DATA.safetensors by default.")
@click.option(
    "--history",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for the weights before and after every epoch, for `resect paths --checkpoints`.",
)
@click.option("--model-arg", "model_args", multiple=True, metavar="K=V", help="E.g. width=32; repeatable.")
@click.option("--epochs", default=Recipe.epochs, show_default=True, type=click.IntRange(min=1))
@click.option("--batch-size", default=Recipe.batch_size, show_default=True, type=click.IntRange(min=2))
@click.option(
    "--learning-rate", default=Recipe.learning_rate, show_default=True, type=click.FloatRange(min=0, min_open=True)
)
@click.option("--momentum", default=Recipe.momentum, show_default=True, type=click.FloatRange(0, 1, max_open=True))
@click.option(
    "--warmup",
    default=Recipe.warmup,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Part of the steps up to the peak.",
)
@click.option("--weight-decay", default=Recipe.weight_decay, show_default=True, type=click.FloatRange(min=0))
@click.option(
    "--shift", default=Recipe.shift, show_default=True, type=click.IntRange(min=0), help="Random shifts, in pixels."
)
@click.option("--seed", default=0, show_default=True, type=SEED)
@click.option("--device", default="cpu", show_default=True)
@click.option("--quiet", is_flag=True, help="No progress bar.")
def train(
    data: str,
    model: str,
    out: Path | None,
    history: Path | None,
    model_args: tuple[str, ...],
    device: str,
    quiet: bool,
    **recipe: Any,
) -> None:
    """Train a network on DATA, e.g. `resect train digits --model resnet110`.

    Writes half-precision safetensors and a model card. An interrupted training goes on where it stopped.
    """
    name = model.removeprefix("resect:")
    target = out or Path(f"{name}-{data.partition(':')[0]}.safetensors")
    job = TrainingJob(name, data, target, Recipe(**recipe), parse_arguments(model_args), device, history)
    images = len(load_samples(data, split="train")) * job.recipe.epochs
    columns = (
        TextColumn("training {task.fields[name]}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %  loss {task.fields[loss]:.3f}  {task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet) as progress:
        task = progress.add_task("", total=images, name=name, loss=float("nan"), rate="")

        def step(seen: int, loss: float) -> None:
            if math.isnan(loss):  # those of earlier sittings, which say nothing about the speed of this one
                progress.reset(task, completed=seen)
                return
            speed = progress.tasks[task].speed
            progress.update(task, advance=seen, loss=loss, rate=f"{speed:.0f} images/s" if speed else "")

        card = train_network(job, step)
    console.print(
        f"{target}: test error {card['test_error']:.2%} on {card['test_samples']} samples, "
        f"{card['seconds']:.0f} s of training."
    )
