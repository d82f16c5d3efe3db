"""One study: everything about one network, measured into a run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from resect.data import Samples
from resect.errors import InputError, RunError
from resect.files import write_text
from resect.jobs.answers import (
    answer_depth,
    answer_ensemble,
    answer_gradient,
    multiplicity_row,
)
from resect.jobs.environment import environment
from resect.jobs.measure import Bench, Track, fingerprint, measure_lesions
from resect.jobs.measure_paths import lengths_table, measure_paths, measure_spectrum, measure_squares
from resect.jobs.results import Answers, MultiplicityRow, PlainControl, Study, Subject
from resect.models.specs import LoadedModel, load_model
from resect.network.blocks import blocks_table
from resect.network.unraveled import Unraveled, no_joins_message, unravel
from resect.paths.settings import PathSettings
from resect.runs.folder import RunFolder, write_parquet
from resect.sweep import plans
from resect.sweep.result import LesionResult
from resect.weights import check_finite

FINISHED = "answers.json"


@dataclass(frozen=True)
class Settings:
    """How much a study measures.

    Attributes:
        repeats: random deletions for each number of blocks, and reorderings for each number of swaps.
        gradient_samples: samples for the exact shares, in batches of `gradient_batch`.
        paths: sampled single paths of each length and batch.
        sweeps: random signs a batch, for the root mean square over all paths.
        path_samples: samples for both, in batches of `path_batch`.
        plain: take the network as a plain one, layer by layer.
    """

    batch_size: int = 500
    repeats: int = 10
    gradient_samples: int = 64
    gradient_batch: int = 32
    paths: int = 20
    sweeps: int = 8
    path_samples: int = 32
    path_batch: int = 16
    seed: int = 0
    plain: bool = False


@dataclass(frozen=True)
class Subjects:
    """The networks of a study: the one under study, the plain control, and those beside it."""

    main: LoadedModel
    control: LoadedModel | None
    beside: tuple[LoadedModel, ...]


def run_study(
    subjects: Subjects, samples: Samples, settings: Settings, folder: RunFolder, track: Track
) -> tuple[Study, bool]:
    """Measure everything, or what a killed run left to do; write the tables and the answers into the folder.

    Returns:
        The study, and whether the folder was finished before.

    Raises:
        InputError: the network has no residual joins, or is not finite.
    """
    started = time.perf_counter()
    lab = _Lab(samples, settings, folder, track)
    net = lab.unravel(subjects.main, plain=settings.plain)
    control_net = lab.unravel(subjects.control, plain=True) if subjects.control else None
    besides = [(other.spec, lab.unravel(other, plain=False)) for other in subjects.beside]
    singles = lab.lesion(net, plans.single(net), "single deletions")
    random = lab.lesion(net, plans.random(net, repeats=settings.repeats, seed=settings.seed), "random deletions")
    shuffled_plan = plans.shuffled(net, repeats=settings.repeats, seed=settings.seed)
    shuffled = lab.lesion(net, shuffled_plan, "reorderings") if len(shuffled_plan) else None
    control = lab.control(subjects.control.spec, control_net) if subjects.control and control_net else None
    spectrum = None if net.plain else lab.spectrum(net, "gradient by path length")
    paths = None if net.plain else lab.paths(net, "sampled single paths")
    squares = None if net.plain else lab.squares(net, "random signs")
    rows = [multiplicity_row(subjects.main.spec, net, singles.intact_error, spectrum)]
    rows += [lab.beside(spec, other) for spec, other in besides]
    answers = Answers(
        ensemble=answer_ensemble(singles, random, shuffled, control, samples.targets),
        depth=answer_depth(spectrum, paths, squares) if spectrum and paths and squares else None,
        gradient=answer_gradient(spectrum, paths) if spectrum and paths else None,
        multiplicity=tuple(rows),
    )
    blocks = blocks_table(net.blocks)
    empty = pd.DataFrame(columns=["swaps", "repeat", "kendall_tau", "error", "loss", "damage"])
    study = Study(
        subject=_subject(subjects.main, net, samples),
        answers=answers,
        blocks=blocks,
        deletions=_with_kinds(singles.table, blocks),
        random=random.table,
        reorderings=shuffled.table if shuffled else empty,
        lengths=lengths_table(spectrum, paths, squares) if spectrum and paths and squares else None,
        plain=control,
        intact_loss=singles.intact_loss,
        environment=environment(),
        seconds=time.perf_counter() - started,
    )
    made_of = {"samples": samples.digest(), "networks": lab.fingerprints}
    return _keep(study, folder, made_of)


class _Lab:
    """Measures networks on one set of samples, into one folder."""

    def __init__(self, samples: Samples, settings: Settings, folder: RunFolder, track: Track) -> None:
        self.samples, self.settings, self.folder, self.track = samples, settings, folder, track
        self.fingerprints: list[str] = []

    def unravel(self, loaded: LoadedModel, *, plain: bool) -> Unraveled:
        check_finite(loaded.module)
        device = next(iter(loaded.module.parameters()), self.samples.inputs).device
        net = unravel(loaded.module, self.samples.inputs[:1].to(device), plain=plain)
        if not net.blocks:
            raise InputError(no_joins_message(net))
        self.fingerprints.append(fingerprint(net))
        return net

    def lesion(self, net: Unraveled, plan: plans.Plan, title: str) -> LesionResult:
        bench = Bench(self.folder, self.samples, self.settings.batch_size, self.track)
        return measure_lesions(net, bench, plan, title)

    def spectrum(self, net: Unraveled, title: str) -> Any:
        chosen = self.samples.limited(self.settings.gradient_samples)
        return measure_spectrum(net, Bench(self.folder, chosen, self.settings.gradient_batch, self.track), title)

    def paths(self, net: Unraveled, title: str) -> Any:
        chosen = self.samples.limited(self.settings.path_samples)
        bench = Bench(self.folder, chosen, self.settings.path_batch, self.track)
        return measure_paths(net, bench, self.settings.paths, title, PathSettings(seed=self.settings.seed))

    def squares(self, net: Unraveled, title: str) -> Any:
        chosen = self.samples.limited(self.settings.path_samples)
        bench = Bench(self.folder, chosen, self.settings.path_batch, self.track)
        return measure_squares(net, bench, self.settings.sweeps, title, PathSettings(seed=self.settings.seed))

    def control(self, spec: str, net: Unraveled) -> PlainControl:
        result = self.lesion(net, plans.single(net), f"plain control, {spec}")
        damage = result.table["damage"]
        return PlainControl(
            model=spec,
            intact_error=result.intact_error,
            deletions=_with_kinds(result.table, blocks_table(net.blocks)),
            refused=len(net.rejected),
            median_damage=float(damage.median()),
            largest_damage=float(damage.max()),
            largest_damage_layer=str(result.table["name"][int(damage.argmax())]),
        )

    def beside(self, spec: str, net: Unraveled) -> MultiplicityRow:
        intact = self.lesion(net, plans.explicit(net, []), f"{spec}, intact")
        return multiplicity_row(spec, net, intact.intact_error, self.spectrum(net, f"{spec}, gradient"))


def _with_kinds(table: pd.DataFrame, blocks: pd.DataFrame) -> pd.DataFrame:
    return table.merge(blocks[["block", "kind", "downsampling"]], on="block")


def _subject(loaded: LoadedModel, net: Unraveled, samples: Samples) -> Subject:
    return Subject(
        model=loaded.spec,
        data=samples.name,
        samples=len(samples),
        classes=samples.classes,
        blocks=len(net.blocks),
        parameters=sum(parameter.numel() for parameter in net.model.parameters()),
        unit="layer" if net.plain else "block",
    )


def _keep(study: Study, folder: RunFolder, made_of: dict[str, Any]) -> tuple[Study, bool]:
    """Write the tables and answers of a study; of a folder that is finished, keep everything as it is.

    Raises:
        RunError: the folder was finished with other samples or weights.
    """
    file = folder.path / FINISHED
    if file.exists():
        written = json.loads((folder.path / "environment.json").read_text())
        changed = [what for what in made_of if written["made_of"][what] != made_of[what]]
        if changed:
            raise RunError(
                f"{folder.path} holds the study of other {' and '.join(changed)} under the same names: a file has "
                "changed since. Choose another --out."
            )
        return replace(study, seconds=written["seconds"]), True
    tables = {"single": study.deletions, "random": study.random, "shuffled": study.reorderings}
    if study.plain:
        tables["plain control"] = study.plain.deletions
    filled = [table.assign(plan=plan) for plan, table in tables.items() if len(table)]
    write_parquet(folder.path / "results.parquet", pd.concat(filled, ignore_index=True))
    if study.lengths is not None:
        write_parquet(folder.path / "lengths.parquet", study.lengths)
    write_text(
        folder.path / "environment.json",
        json.dumps({**study.environment, "seconds": study.seconds, "made_of": made_of}, indent=2) + "\n",
    )
    write_text(file, json.dumps(study_numbers(study), indent=2) + "\n")
    return study, False


def study_numbers(study: Study) -> dict[str, Any]:
    """Subject and answers as plain values, for JSON."""
    return {"subject": asdict(study.subject), "answers": study.answers.as_dict()}


def split_spec(text: str) -> tuple[str, Path | None]:
    """SPEC or SPEC@FILE into the spec and its checkpoint."""
    spec, at, file = text.partition("@")
    return spec, Path(file) if at else None


def load_beside(text: str, samples: Samples, seed: int, trained: Callable[[str], Path | None]) -> LoadedModel:
    """A network to set beside the one under study: SPEC, SPEC@FILE, or a resect: network that `trained` provides."""
    spec, checkpoint = split_spec(text)
    if checkpoint is None:
        checkpoint = trained(spec)
    return replace(load_model(spec, checkpoint=checkpoint, samples=samples, seed=seed), spec=spec)
