"""`resect train`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from resect.cli._also import also_jobs
from resect.cli._options import (
    SEED,
    Decorated,
    Parts,
    arguments_option,
    normalize_option,
    quiet_option,
    task_option,
    whole,
)
from resect.cli._process import when_interrupted
from resect.cli._terminal import console
from resect.data.names import require_data_spec
from resect.models.names import require_model_spec
from resect.network import schedules
from resect.training.checkpoint import Kept
from resect.training.recipe import Border, Decay, Precision
from resect.training.recipes import load_recipe_file

if TYPE_CHECKING:  # which loads torch; help does without
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from resect.jobs.train import TrainJob
    from resect.training.loop import Watch


def recipe_options(function: Decorated) -> Decorated:
    """One option for everything that a recipe says; without a default, as the recipe has one."""
    positive = click.FloatRange(min=0, min_open=True)
    options: list[Callable[[Decorated], Decorated]] = [
        click.option("--schedule", type=click.Choice(schedules.NAMES), help="Which blocks run in a step."),
        whole("--keep", "Blocks that run, of fixed-count and, at first, of progressive."),
        click.option("--survival", type=positive, help="Probability of the last block, of stochastic-depth."),
        click.option("--correction/--no-correction", default=None, help="Scale branches by how often they ran."),
        whole("--epochs"),
        whole("--batch-size", "Over all processes together.", least=2),
        click.option("--learning-rate", type=positive, help="Its peak."),
        click.option("--decay", type=click.Choice(get_args(Decay)), help="Of the learning rate."),
        click.option("--drops", type=Parts(), help="Of all steps, after which `step` goes on with a tenth: 0.5,0.75."),
        click.option("--warmup", type=click.FloatRange(0, 1), help="Part of the steps up to the peak."),
        click.option("--momentum", type=click.FloatRange(0, 1, max_open=True)),
        click.option("--nesterov/--no-nesterov", default=None),
        click.option("--weight-decay", type=click.FloatRange(min=0)),
        whole("--shift", "Random shifts of images, in pixels.", least=0),
        click.option("--border", type=click.Choice(get_args(Border)), help="What shifts bring in."),
        click.option("--flip/--no-flip", default=None, help="Mirror half of the images."),
        click.option("--precision", type=click.Choice(get_args(Precision))),
        click.option("--channels-last/--no-channels-last", default=None),
        click.option("--compile/--no-compile", default=None, help="Fuse the network; on a GPU, into CUDA graphs."),
        click.option("--graphs/--no-graphs", default=None, help="On a GPU, CUDA graphs of what is not fused."),
        click.option("--seed", type=SEED),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@click.argument("recipe")
@click.option("--model", metavar="SPEC", help="E.g. resnet110, vgg15 or torchvision:resnet18.")
@arguments_option("E.g. width=32; repeatable.")
@click.option("--data", metavar="SPEC", help="What to train on, e.g. folder:DIR; the recipe's by default.")
@click.option("--test-data", metavar="SPEC", help="What to test on, where the data have no test split of their own.")
@whole("--held-out", "Training samples to test on in the place of test samples, for the choice of a recipe.")
@task_option
@normalize_option("none or imagenet. auto: the data's own.")
@click.option("--out", type=click.Path(path_type=Path), help="Weights to write; MODEL-DATA.safetensors by default.")
@click.option(
    "--history",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for the weights before and after every epoch, for `resect paths --checkpoints`.",
)
@click.option(
    "--logs", type=click.Path(file_okay=False, path_type=Path), help="A folder for TensorBoard, with the test error."
)
@click.option(
    "--save-every",
    default=Kept.every,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds between two checkpoints within an epoch.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or mps.")
@click.option(
    "--also",
    multiple=True,
    metavar="SETTING=VALUE,...",
    help="Train another network beside it that differs in this, in a process of its own; repeatable.",
)
@quiet_option
@recipe_options
def train(recipe: str, out: Path | None, also: tuple[str, ...], quiet: bool, **options: Any) -> None:
    """Train a network by RECIPE: digits, cifar10, cifar10-paper or a YAML file. Options that are given go before the
    recipe's.

    `resect train digits --model resnet110`, `resect train cifar10 --model resnet110 --schedule fixed-count --keep 23`.

    Writes half-precision safetensors and a model card. An interrupted training goes on where it stopped. On several
    GPUs or machines: `accelerate launch -m resect train ... --device cuda`.
    """
    _refuse(recipe, options["model"], options["data"], options["test_data"])
    from rich.progress import Progress

    from resect.jobs.together import train_together
    from resect.jobs.train import TrainJob

    jobs = [TrainJob.from_options(recipe, out, options)]
    if also:
        jobs = also_jobs(recipe, jobs[0], options, also)
    terminal = console(stderr=True)
    first = os.environ.get("RANK", "0") == "0"  # of the processes that `accelerate launch` started
    when_interrupted(lambda: " ".join(_kept(job.checkpoint) for job in jobs))
    left = [job for job in jobs if not job.finished()]
    with Progress(*_columns(), console=terminal, disable=quiet or not left or not first, transient=True) as progress:
        watches = [_follow(progress, job.out.stem if also else job.spec.removeprefix("resect:")) for job in left]
        if left and also:
            train_together(left, watches, len(jobs))
        elif left:
            left[0].train(watches[0])
    for job in jobs if first else []:
        terminal.print(_said(job, job in left), soft_wrap=True)


def _said(job: TrainJob, now: bool) -> str:
    """What was written, and how fast a training of this moment was."""
    from resect.measuring.meaning import Meaning

    card = job.finished()
    assert card, "it has been trained"
    seconds, images = card.environment["seconds"], card.found["train_samples"] * job.recipe.epochs
    took = f"{seconds:.0f} s of training, {images / max(seconds, 0.1):,.0f} samples/s"
    samples, meaning = card.found["test_samples"], Meaning.of(card.found)
    error = f"{card.found['test_error']:.2%}" if meaning.rate else meaning.value(card.found["test_error"])
    took = took if now else "trained before; nothing was done again"
    which = f"{samples} samples" + (" that were held out" if job.held_out else "")
    return f"Wrote {job.out}: test {meaning.error} {error} on {which}, {took}."


def _refuse(recipe: str, model: str | None, *data: str | None) -> None:
    """Refuse what the text of the command shows, before torch is imported."""
    load_recipe_file(recipe)
    if model is not None:
        require_model_spec(model if ":" in model else f"resect:{model}")
    for spec in filter(None, data):
        require_data_spec(spec)


def _kept(checkpoint: Path) -> str:
    """What is left of a training that is interrupted."""
    if checkpoint.exists():
        return f"{checkpoint} is kept: the same command goes on from there; the steps since it was written are lost."
    return "No checkpoint was written yet, so nothing is kept: the same command starts anew."


def _columns() -> tuple[TextColumn | BarColumn | TimeElapsedColumn | TimeRemainingColumn, ...]:
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return (
        TextColumn("training {task.fields[name]}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %  {task.fields[now]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


def _follow(progress: Progress, name: str) -> Watch:
    """A bar of the images of the whole training."""
    from resect.training.loop import Watch

    task = progress.add_task("", name=name, now="reading the data", total=None)

    def begin(total: int, seen: int) -> None:  # those of earlier sittings say nothing about the speed of this one
        progress.reset(task, total=total, completed=seen, name=name, now="")  # fields that are not named go
        if seen and not progress.disable:
            progress.console.print(f"{name} goes on after {seen / total:.0%} of its training.")

    def step(seen: int, loss: float) -> None:
        speed = progress.tasks[task].speed
        rate = f"  {speed:.0f} images/s" if speed else ""
        progress.update(task, advance=seen, now=f"loss {loss:.3f}{rate}")

    return Watch(begin=begin, step=step)
