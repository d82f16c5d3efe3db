"""`resect multiplicity`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resect.cli._options import Parts, batch_option, given, output_options, parse_arguments, run_options, whole
from resect.cli._process import when_interrupted
from resect.cli._terminal import console, do, kept, progress_bars, show, wrote
from resect.errors import InputError
from resect.jobs.design import MultiplicityAsked, RobustnessAsked

if TYPE_CHECKING:
    from resect.runs.record import Record


@click.command()
@click.argument("data")
@click.argument("arms", nargs=-1, metavar="[primary|grid|ARM ...]")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder: plan, weights, tables, figures.")
@click.option("--trainings", type=click.IntRange(min=0), help="At most so many now; 0 compares what is over.")
@click.option(
    "--at-once",
    type=click.IntRange(min=1),
    help="Trainings side by side, each in a process of its own, 1 by default; a GPU has room for several.",
)
@whole("--seeds", "Trainings of each arm; --seed is the first.", default=MultiplicityAsked.seeds, least=2)
@click.option("--recipe", help="digits, cifar10 or a YAML file; that of the data by default.")
@click.option("--setting", "settings", multiple=True, metavar="K=V", help="Of the recipe, e.g. epochs=6; repeatable.")
@click.option("--bound", default=MultiplicityAsked.bound, show_default=True, help="Points that count as no effect.")
@click.option(
    "--learning-rates",
    type=Parts(),
    metavar="A,B,...",
    help="Try these on every arm beforehand; the best on held-out training images is its own.",
)
@whole("--held-out", "Training images that are held out for that.", default=MultiplicityAsked.held_out)
@whole("--pilots", "Seeds with which each is tried.", default=MultiplicityAsked.pilots)
@click.option(
    "--training-free",
    is_flag=True,
    help="Train nothing: do number of paths, depth or coherence predict how networks bear lesions? ARMs are trained "
    "networks then, MODEL[@FILE]; by default those that are shipped.",
)
@whole("--repeats", "Of training-free: random deletions of a tenth.", default=RobustnessAsked.repeats)
@whole("--gradient-samples", "Of training-free: for the paths.", default=RobustnessAsked.gradient_samples)
@batch_option
@run_options
@output_options
def multiplicity(
    data: str, arms: tuple[str, ...], out: Path | None, training_free: bool, output: str, quiet: bool, **options: Any
) -> None:
    """What the number of paths does to the test error, at equal depth, width, parameters and norms.

    ARMs are resnetN-bB-sS: B towers that merge every S blocks. All are trained, with several seeds; the plan is written
    into the run folder first. A killed run goes on where it stopped, and what is over is compared. `resect multiplicity
    cifar10:DIR --setting epochs=6 --out runs/multiplicity`
    """
    chosen = given({**options, "settings": parse_arguments(options["settings"], "setting")})
    if training_free:
        RobustnessAsked.of(data, arms, chosen)  # says what is wrong with it, before torch is imported
        from resect.jobs.robustness import RobustnessJob

        do(RobustnessJob.of(data, arms, chosen), out, output=output, quiet=quiet)
        return
    how = {name: chosen.pop(name) for name in ("trainings", "at_once") if name in chosen}
    MultiplicityAsked.of(data, arms, chosen)
    if out is None:
        raise InputError("`--out` must name a run folder: a killed run of hours goes on from there.")
    from resect.jobs.multiplicity import MultiplicityJob
    from resect.report.faces import draw

    def seen(record: Record) -> None:
        draw(record, out)
        found = record.found
        chosen = found.get("learning_rates", {}) is not None
        over = f"{found['trained']} of {found['planned']} trainings are over. " if chosen else ""
        console(stderr=True).print(over + found["summary"], soft_wrap=True, highlight=False)

    when_interrupted(lambda: kept(out))
    with progress_bars(quiet) as track:
        record = MultiplicityJob.of(data, arms, chosen).run(out, track, **how, seen=seen)
    place = draw(record, out)
    show(record, output)
    if not quiet:
        wrote(place or out)
