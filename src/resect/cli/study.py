"""`resect study`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from resect.cli._console import console
from resect.cli._options import (
    Setting,
    batch_option,
    data_options,
    model_options,
    output_options,
    parse_arguments,
    slug,
)
from resect.cli._progress import Advance, Track, progress_bars
from resect.data import Samples
from resect.errors import InputError
from resect.jobs.study import Settings, Subjects, load_beside, run_study, split_spec, study_numbers
from resect.jobs.train import TrainingJob, train_network
from resect.models.specs import SHIPPED, LoadedModel, bare_name, has_weights, load_card, load_model
from resect.report.console import answers_table
from resect.report.page import write_report
from resect.runs.folder import RunFolder, digest
from resect.training.loop import Watch
from resect.training.recipe import Recipe
from resect.training.recipes import NAMES, load_recipe_file

MODEL, DATA = "resect:resnet110-digits", "digits"


@click.command()
@click.argument("model", default=MODEL)
@click.argument("data", default=DATA)
@click.option(
    "--beside",
    multiple=True,
    metavar="SPEC[@FILE]",
    help="A shallower, deeper, narrower ... network to set "
    "beside it; a resect: network without weights is trained first. Repeatable.",
)
@click.option("--control", metavar="SPEC[@FILE]", help="The plain network; by default the VGG-15 shipped for DATA.")
@click.option("--plain", is_flag=True, help="Take the network as a plain one: lesion its layers.")
@click.option(
    "--repeats",
    default=Settings.repeats,
    show_default=True,
    type=click.IntRange(min=1),
    help="Random deletions of each number of blocks, and reorderings of each number of swaps.",
)
@click.option("--gradient-samples", default=Settings.gradient_samples, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--paths",
    default=Settings.paths,
    show_default=True,
    type=click.IntRange(min=1),
    help="Sampled single paths of each length and batch.",
)
@click.option("--retrain", is_flag=True, help="Train the shipped networks anew first.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; one under runs/ by default.")
@model_options
@data_options
@batch_option
@output_options
def study(
    model: str,
    data: str,
    beside: tuple[str, ...],
    control: str | None,
    plain: bool,
    repeats: int,
    gradient_samples: int,
    paths: int,
    retrain: bool,
    out: Path | None,
    output: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Everything about one network: lesions, paths, the paper's four questions, and a report.

    MODEL is resect:resnet110-digits and DATA is digits by default. A killed study goes on where it stopped.
    """
    setting = Setting(model, data, **options)
    if retrain and (setting.checkpoint or setting.model_args):
        raise InputError("`--retrain` trains by the shipped recipe: leave out --checkpoint and --model-arg.")
    settings = Settings(
        batch_size=setting.batch_size,
        repeats=repeats,
        gradient_samples=gradient_samples,
        paths=paths,
        seed=setting.seed,
        plain=plain,
    )
    samples = setting.samples()
    kind = data.partition(":")[0]
    if control is None and not plain and has_weights(f"vgg15-{kind}"):
        control = f"resect:vgg15-{kind}"
    asked = {**asdict(setting), **asdict(settings), "control": control, "beside": list(beside), "retrain": retrain}
    asked |= {
        "checkpoint": str(setting.checkpoint) if setting.checkpoint else None,
        "model_args": list(setting.model_args),
    }
    folder = RunFolder(out or Path("runs") / f"study-{slug(model)}-{slug(data)}-{digest(asked)[:6]}", asked)
    terminal = console(stderr=True)
    with progress_bars(quiet) as track:
        subjects = _subjects(setting, samples, folder, track)
        found, finished = run_study(subjects, samples, settings, folder, track)
        report = folder.path / "report.html"
        if not (finished and report.exists()):
            write_report(found, folder.path, folder.configuration)
    if output == "json":
        click.echo(json.dumps(study_numbers(found), indent=2))
    else:
        console().print(answers_table(found))
    if not quiet:
        done = "was finished before; nothing was done again" if finished else f"took {found.seconds:.0f} s"
        terminal.print(f"The study {done}. Report: {report}", soft_wrap=True)


def _shipped(spec: str) -> bool:
    return spec.removeprefix("resect:") in SHIPPED


def _subjects(setting: Setting, samples: Samples, folder: RunFolder, track: Track) -> Subjects:
    """Load (and where asked, train) the network under study, its control and those beside it."""
    asked = folder.configuration
    networks = folder.path / "networks"

    def trained(spec: str, *, retrain: bool = False) -> Path | None:
        name = spec.removeprefix("resect:")
        if not spec.startswith("resect:") or (_shipped(spec) and not retrain):
            return None
        kind = (setting.data or "").partition(":")[0]
        if setting.data is None or kind not in NAMES:
            raise InputError(f"{spec} has no weights for {setting.data}: pass them as {spec}@FILE.")
        file, bare = networks / f"{name}.safetensors", bare_name(name)
        load_model(f"resect:{bare}", samples=samples)  # refuses an unknown name before anything is written
        if not file.exists():
            folder.open()
            known = load_recipe_file(kind)
            settings = load_card(name)["recipe"] if _shipped(spec) else known.settings
            recipe = Recipe(**settings | {"seed": setting.seed})
            _train(TrainingJob(bare, setting.data, file, recipe, device=setting.device, recipe_file=known), track)
        return file

    def load(spec: str, checkpoint: Path | None) -> LoadedModel:
        arguments = parse_arguments(setting.model_args) if spec == setting.model else None
        if asked["retrain"] and _shipped(spec):
            bare = f"resect:{bare_name(spec.removeprefix('resect:'))}"
            found = load_model(bare, checkpoint=trained(spec, retrain=True), samples=samples)
            return setting.placed(replace(found, spec=spec))
        loaded = load_model(spec, checkpoint=checkpoint, arguments=arguments, samples=samples, seed=setting.seed)
        return setting.placed(loaded)

    def beside(text: str) -> LoadedModel:
        spec, checkpoint = split_spec(text)
        if asked["retrain"] and _shipped(spec):
            return load(spec, checkpoint)
        return setting.placed(load_beside(text, samples, setting.seed, trained))

    control = asked["control"]
    return Subjects(
        main=load(setting.model, setting.checkpoint),
        control=beside(control) if control else None,
        beside=tuple(beside(text) for text in asked["beside"]),
    )


def _train(job: TrainingJob, track: Track) -> None:
    advance: Advance | None = None

    def begin(total: int, seen: int) -> None:
        nonlocal advance
        advance = track(f"training {job.model}", total)
        advance(seen)

    def step(seen: int, loss: float) -> None:
        assert advance
        advance(seen)

    train_network(job, Watch(begin=begin, step=step))
