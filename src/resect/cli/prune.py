"""`resect prune`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click

from resect.cli._options import (
    DATA_SPECS,
    BatchSize,
    Blocks,
    data_options,
    given,
    model_options,
    out_option,
    output_options,
    parse_arguments,
    part_options,
    task_option,
    whole,
)
from resect.cli._terminal import do
from resect.cli.export import exported, say
from resect.errors import ExportError, InputError
from resect.graph.decisions import Unit
from resect.jobs.asked_pruning import PruneAsked
from resect.pruning.settings import FITTED, OBJECTIVES, SCORES, SEARCHES, HealSettings
from resect.runs.record import Record, finished

_PART = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command(epilog=DATA_SPECS)
@click.argument("model")
@click.argument("data")
@click.option("--remove", type=click.IntRange(1), metavar="N", help="Remove so many units.")
@click.option("--params", type=_PART, metavar="0.8", help="The part of the parameters that may stay.")
@click.option("--flops", type=_PART, metavar="0.8", help="The part of the operations that may stay.")
@click.option("--latency", type=_PART, metavar="0.7", help="The part of the time of a pass that may stay, measured.")
@click.option("--without", metavar="0-2,-1,NAME", type=Blocks(), help="Remove just these blocks, without a search.")
@click.option("--plan", type=click.Path(path_type=Path), metavar="FILE", help="Remove what an earlier run found.")
@click.option(
    "--unit", type=click.Choice(get_args(Unit)), default=PruneAsked.unit, show_default=True, help="What goes as one."
)
@click.option(
    "--group", "groups", multiple=True, type=Blocks(), metavar="0-2,NAME", help="A unit of your own; repeatable."
)
@click.option(
    "--fits",
    multiple=True,
    type=click.Choice(FITTED),
    help="Remove only what this format can do without, as --export has it in a search; repeatable.",
)
@click.option("--search", type=click.Choice(SEARCHES), default=PruneAsked.search, show_default=True)
@click.option("--objective", type=click.Choice(OBJECTIVES), help="What the search keeps low; the first the task has.")
@click.option(
    "--score", type=click.Choice(SCORES), default=PruneAsked.score, show_default=True, help="Of one-shot: what ranks."
)
@whole("--width", "Of beam and exchange: sets kept of each size.", default=PruneAsked.width)
@whole("--generations", "Of evolution.", default=PruneAsked.generations)
@whole("--offspring", "Of evolution.", default=PruneAsked.offspring)
@whole("--tried", "Of pairwise: sets of its model that are measured.", default=PruneAsked.tried)
@whole("--most-sets", "Of exhaustive and pairwise: up to which all are looked at.", default=PruneAsked.most_sets)
@click.option("--sweep", is_flag=True, help="The best for every smaller budget, too.")
@click.option("--calibration", metavar="DATA", help="Samples that choose; by default every fourth batch of DATA does.")
@whole("--calibration-samples", "At the most, of DATA.", default=PruneAsked.calibration_samples)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 100),
    default=PruneAsked.tolerance,
    show_default=True,
    help="A loss that does not matter, in points of error; of another error per cent of it.",
)
@click.option("--timed/--no-timed", default=True, help="Time the result in turn with the intact network.")
@click.option(
    "--export",
    "exports",
    multiple=True,
    metavar="KIND:PATH",
    help="Write the result, as resect export does; with --out; repeatable.",
)
@whole("--timing-batch", "Samples of a timed pass.", default=PruneAsked.timing_batch)
@whole("--timing-length", "Positions of a timed sequence; those of DATA by default.")
@whole("--heal", "Epochs of a training of the best candidates, before one is chosen.", metavar="EPOCHS")
@click.option("--heal-data", metavar="DATA", help="Whose training samples heal; those of DATA by default.")
@click.option(
    "--heal-setting", "heal_settings", multiple=True, metavar="K=V", help="Of its recipe, e.g. learning_rate=0.02."
)
@whole("--candidates", f"How many are healed, at the most; {HealSettings.candidates} by default.")
@click.option(
    "--distill", type=click.FloatRange(0, 1), metavar="W", help="Weight of the intact network's outputs in the loss."
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, min_open=True),
    help=f"Of --distill; {HealSettings.temperature:g} by default.",
)
@click.option("--refit", is_flag=True, help="Fit what is left to the intact network, by least squares; before --heal.")
@click.option("--recalibrate", is_flag=True, help="Measure batch norms again on training samples; after --heal.")
@whole("--prompts", "Of text: samples that are continued; 0 for none.", least=0, default=PruneAsked.prompts)
@whole("--new-tokens", "Of text: tokens by which each is continued.", default=PruneAsked.new_tokens)
@click.option("--batch-size", type=BatchSize(), default="auto", show_default=True, help="auto: 64, or what fits.")
@out_option
@model_options
@part_options
@data_options
@task_option
@output_options
def prune(
    model: str, data: str, out: Path | None, exports: tuple[str, ...], output: str, quiet: bool, **options: Any
) -> None:
    """Find the blocks of MODEL that can go within a budget; some samples of DATA choose, all others judge.

    `resect prune resect:resnet110-digits digits --remove 10 --out runs/small`, and to time, --latency 0.7. The run
    folder has a plan.yaml, which --plan removes again.
    """
    options["heal_settings"] = parse_arguments(options["heal_settings"], "heal-setting")
    asked = PruneAsked.from_options(model, data, given(options))
    asked = replace(asked, fits=_fits(asked, exports, out))
    if exports and out is None:
        raise InputError("`--export` needs a run folder, from which the model card is made. Add --out RUN.")
    from resect.jobs.export import ExportAsked
    from resect.jobs.prune import PruneJob
    from resect.pruning.export.formats import require_targets, require_weights

    require_targets(exports, model, out)
    if asked.healing():
        require_weights(exports, model)
    do(PruneJob(**vars(asked), targets=exports), out, output=output, quiet=quiet)
    try:
        for done in exported(ExportAsked.of(str(out), exports, {}), exports, quiet=quiet) if exports else ():
            if output != "json":  # which is the run's record
                say(done)
    except ExportError as error:
        raise ExportError(f"{error} {out} keeps what was found: `resect export {out} KIND:PATH` writes it.") from error


def _fits(asked: PruneAsked, exports: tuple[str, ...], out: Path | None) -> tuple[str, ...]:
    """The formats that a search is kept to: those that are named or exported; of a run that is over, its own."""
    if exports and out is not None and not asked.fits and finished(out):  # so that another export searches nothing
        return tuple(Record.read(out).asked.get("fits", ()))
    kinds = [target.partition(":")[0] for target in exports if asked.budget]
    return tuple(dict.fromkeys((*asked.fits, *(kind for kind in kinds if kind in FITTED))))
