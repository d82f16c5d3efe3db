"""`resect study`: everything about one network, measured into one run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from resect.data.normalization import how_read
from resect.data.samples import Cut, SampleSet
from resect.digest import key_digest
from resect.errors import InputError
from resect.jobs.answers import answer_depth, answer_ensemble, answer_gradient, multiplicity_row
from resect.jobs.asked import DATA, MODEL, StudyAsked
from resect.jobs.asked_pruning import PruneAsked
from resect.jobs.findings import Answers, PlainControl, StudySubject
from resect.jobs.fit import require_fit
from resect.jobs.job import Answer, Job, Lab, Subject, digest_of
from resect.jobs.networks import trained_into
from resect.jobs.paths import lengths_table
from resect.jobs.source import Source, slug, split_spec
from resect.jobs.trend import Compared, steps, training_of
from resect.jobs.untrained import Measured, untrained_twin
from resect.jobs.warn import at_chance
from resect.models.names import bare_name, is_shipped
from resect.network.requirements import require_blocks
from resect.network.unraveled import Unraveled
from resect.paths.sampled import PathDraws, sample_paths
from resect.paths.settings import PathSettings, passing
from resect.paths.spectrum import PathSpectrum, path_spectrum
from resect.paths.squares import path_squares
from resect.pruning.spared import ranges, spared
from resect.runs.record import Record
from resect.sweep import plans
from resect.sweep.lesion import lesion
from resect.sweep.result import LesionResult

_NO_REORDERINGS = pd.DataFrame(columns=["swaps", "repeat", "kendall_tau", "error", "loss", "damage"])


@dataclass(frozen=True)
class StudyJob(StudyAsked, Job):
    """A study of one network."""

    def prepare(self, lab: Lab) -> _Networks:
        """Load (and where asked, train) the network under study, its control and those beside it."""
        return _Loader(self, self.source.samples(), lab).networks()

    def answer(self, subject: _Networks, lab: Lab) -> Answer:
        """Measure everything.

        Raises:
            InputError: the network has no residual joins, or is not finite.
        """
        bench, main = _Bench(self, lab), subject.main
        net, samples = main.net, main.samples
        singles = bench.lesion(main, plans.single(net), "single deletions")
        random_plan = plans.random(net, repeats=self.repeats, seed=self.source.seed)
        random = bench.lesion(main, random_plan, "random deletions")
        shuffled_plan = plans.shuffled(net, repeats=self.repeats, seed=self.source.seed)
        shuffled = bench.lesion(main, shuffled_plan, "reorderings") if len(shuffled_plan) else None
        control = bench.control(self.control, subject.control) if self.control and subject.control else None
        more = {"control": control.deletions} if control else {}
        spectrum = depth = gradient = twin = None
        if not net.plain:
            measured = spectrum, draws, squares = bench.paths(main)
            more["lengths"] = lengths_table(spectrum, draws, squares)
            depth, gradient = answer_depth(spectrum, draws, squares), answer_gradient(spectrum, draws)
            if self.untrained:
                measure, again = partial(bench.paths, of="untrained, "), partial(bench.sampled, of="untrained, ")
                twin = untrained_twin(self.source, main, measured, self.batch_size, measure, again)
                more |= {} if twin.lengths is None else {"untrained": twin.lengths}
        own = multiplicity_row(self.source.model, net, singles.intact_error, spectrum)
        networks = [Compared(own, subject.trainings[0], singles.intact["error"], singles.weights, spectrum)]
        for text, training, other in zip(self.beside, subject.trainings[1:], subject.beside, strict=True):
            networks.append(bench.beside(text, training, other))
        rows = tuple(network.row for network in networks)
        ensemble = answer_ensemble(singles, random, shuffled, control, samples.targets_only())
        blocks = net.blocks.table
        spare = None if net.plain or len(net.blocks) < 2 else self._spared(net, singles, bench, main)
        found = {
            "subject": asdict(self._subject(net, samples)),
            **how_read(samples),
            "answers": Answers(ensemble, depth, gradient, rows, steps(networks)).as_dict(),
            "intact_loss": singles.intact_loss,
            "control": control.numbers() if control else None,
            "untrained": twin.numbers() if twin else None,
            "spared": spare,
        }
        tables = {
            "blocks": blocks,
            "deletions": _with_kinds(singles.table, blocks),
            "random": random.table,
            "reorderings": shuffled.table if shuffled else _NO_REORDERINGS,
            **more,
        }
        errors = [singles.intact_error, *([control.intact_error] if control else []), *(row.error for row in rows[1:])]
        return Answer(found, tables, subject.warnings(errors))

    def _spared(self, net: Unraveled, singles: LesionResult, bench: _Bench, main: Subject) -> dict[str, Any]:
        """What could go at no measurable loss, and the command that removes it."""
        what = spared(net, singles, lambda plan: bench.lesion(main, plan, "what could go"))
        command = PruneAsked(self.source, without=ranges(what.blocks)).command() if what.blocks else None
        return {**asdict(what), "said": what.said(), "command": command}

    def _subject(self, net: Unraveled, samples: SampleSet) -> StudySubject:
        return StudySubject(
            model=self.source.model,
            data=samples.name,
            samples=len(samples),
            classes=samples.classes,
            blocks=len(net.blocks),
            parameters=sum(parameter.numel() for parameter in net.model.parameters()),
            unit="layer" if net.plain else "block",
        )


@dataclass(frozen=True)
class _Networks:
    """The networks of a study, each with the samples as it takes them."""

    main: Subject
    control: Subject | None
    beside: tuple[Subject, ...]
    names: tuple[str, ...]
    trainings: tuple[str, ...]  # of the network under study and those beside it, but for their seeds

    @property
    def all(self) -> list[Subject]:
        """The network under study, the plain control, and those beside it."""
        return [self.main, *([self.control] if self.control else []), *self.beside]

    @property
    def made_of(self) -> dict[str, Any]:
        """Digests of samples and networks."""
        samples = digest_of([subject.samples for subject in self.all])
        return {"samples": samples, "networks": [subject.net.fingerprint() for subject in self.all]}

    @property
    def capture_seconds(self) -> float:
        """What the captures of all took."""
        return sum(subject.capture_seconds for subject in self.all)

    def warnings(self, errors: Sequence[float]) -> tuple[str, ...]:
        """What to warn of, given the intact error of each."""
        warnings: tuple[str, ...] = ()
        for name, subject, error in zip(self.names, self.all, errors, strict=True):
            warnings += (*subject.warnings, *at_chance(name, error, subject.samples, random=subject.random))
        return warnings


@dataclass(frozen=True)
class _Bench:
    """Measures networks on their samples."""

    job: StudyJob
    lab: Lab

    def lesion(self, subject: Subject, plan: plans.Plan, title: str) -> LesionResult:
        """Outcomes of a plan on all samples."""
        advance = self.lab.track(title, (len(plan) + len(plan.references) + 1) * len(subject.samples))
        data = subject.samples.batches(self.job.batch_size)
        return lesion(subject.net, data, plan, progress=advance, engine=self.lab.engine)

    def spectrum(self, subject: Subject, title: str) -> PathSpectrum:
        """The exact shares, on the first samples."""
        data = subject.samples.limited(self.job.gradient_samples).batches(self.job.gradient_batch)
        advance = self.lab.track(title, passing(subject.net) * len(data))
        return path_spectrum(subject.net, data, progress=advance, engine=self.lab.engine)

    def paths(self, subject: Subject, of: str = "") -> Measured:
        """The exact shares, sampled single paths, and random signs; `of` says of what their bars are."""
        spectrum, draws = self.sampled(subject, of)
        data, sweeps = self._for_paths(subject), self.job.sweeps
        bar = self.lab.track(f"{of}random signs", passing(subject.net) * len(data) * sweeps)
        settings = PathSettings(seed=self.job.source.seed)
        squares = path_squares(subject.net, data, settings, sweeps=sweeps, progress=bar, engine=self.lab.engine)
        return spectrum, draws, squares

    def sampled(self, subject: Subject, of: str = "") -> tuple[PathSpectrum, PathDraws]:
        """The exact shares, and sampled single paths."""
        spectrum = self.spectrum(subject, f"{of}gradient by path length")
        data, draws = self._for_paths(subject), self.job.draws
        bar = self.lab.track(f"{of}sampled single paths", passing(subject.net) * len(data))
        settings = PathSettings(seed=self.job.source.seed)
        return spectrum, sample_paths(subject.net, data, settings, draws=draws, progress=bar, engine=self.lab.engine)

    def _for_paths(self, subject: Subject) -> Cut:
        return subject.samples.limited(self.job.path_samples).batches(self.job.path_batch)

    def control(self, spec: str, subject: Subject) -> PlainControl:
        """The plain network's deletions (paper, section 4.1)."""
        net = subject.net
        result = self.lesion(subject, plans.single(net), f"plain control, {spec}")
        damage = result.table["damage"]
        return PlainControl(
            model=spec,
            intact_error=result.intact_error,
            deletions=_with_kinds(result.table, net.blocks.table),
            refused=len(net.rejected),
            median_damage=float(damage.median()),
            largest_damage=float(damage.max()),
            largest_damage_layer=str(result.table["name"][int(damage.argmax())]),
        )

    def beside(self, text: str, training: str, subject: Subject) -> Compared:
        """Depth, width and multiplicity of another network."""
        spec, net = split_spec(text)[0], subject.net
        intact = self.lesion(subject, plans.explicit(net, []), f"{spec}, intact")
        spectrum = self.spectrum(subject, f"{spec}, gradient")
        row = multiplicity_row(spec, net, intact.intact_error, spectrum)
        return Compared(row, training, intact.intact["error"], intact.weights, spectrum)


def _with_kinds(table: pd.DataFrame, blocks: pd.DataFrame) -> pd.DataFrame:
    return table.merge(blocks[["block", "kind", "downsampling"]], on="block")


@dataclass(frozen=True)
class _Loader:
    """Loads the networks of a study; those that have no weights are trained into its folder."""

    job: StudyJob
    samples: SampleSet
    lab: Lab

    def networks(self) -> _Networks:
        """All of them."""
        job, source = self.job, self.job.source
        main = self._subject(source, plain=job.plain)
        if not (task := require_fit(main.net.model, main.samples, None, job.source.batch_dim)).classes:
            raise InputError(
                f"a study asks for errors of classes, but the targets of {main.samples.name} are of {task.name}. "
                "resect lesion and resect paths take them."
            )
        control = self._subject(source.beside(job.control), plain=True) if job.control else None
        others = [self._ready(source.beside(text)) for text in job.beside]
        beside = tuple(self._subject(other, plain=False) for other in others)
        trainings = tuple(map(training_of, (self._ready(source), *others)))
        names = (source.model, *([job.control] if job.control else []), *job.beside)
        return _Networks(main, control, beside, names, trainings)

    def _subject(self, source: Source, *, plain: bool) -> Subject:
        source = self._ready(source)
        subject = self.lab.subject(source, self.samples, plain=plain)
        require_blocks(subject.net)
        return subject

    def _ready(self, source: Source) -> Source:
        """A source with weights: where it has none, or --retrain wants shipped ones anew, they are trained."""
        spec, checkpoint = source.model, source.checkpoint
        if self.job.retrain and is_shipped(spec):
            bare = f"resect:{bare_name(spec.removeprefix('resect:'))}"
            return replace(source, model=bare, checkpoint=self._trained(spec))
        if source is self.job.source or checkpoint or not spec.startswith("resect:") or is_shipped(spec):
            return source
        return replace(source, checkpoint=self._trained(spec), normalize=None)

    def _trained(self, spec: str) -> Path:
        return trained_into(self.lab, spec, self.job.source, self.samples)


def study(model: str = MODEL, data: str = DATA, *, out: Path | str | None = None, **options: Any) -> Record:
    """Everything about one network: lesions, paths, and the paper's four questions.

    Args:
        model: a model spec; the shipped ResNet-110 by default.
        data: a data spec.
        out: the run folder, where a killed study goes on; None keeps nothing.
        options: those of `resect study`, by the names of the attributes of StudyJob and Source, e.g. repeats=3,
            beside=("resect:resnet56",), limit=100.

    Raises:
        ResectError: something that was asked for cannot be done.

    Example:
        >>> resect.study("resect:resnet110-digits", "digits", out="runs/digits").found["answers"]["depth"]
    """
    return StudyJob.from_options(model, data, options).run(out)


def default_folder(job: StudyJob) -> Path:
    """A folder under runs/ that tells the study from others."""
    digest = key_digest(job.asked())[:6]
    return Path("runs") / f"study-{slug(job.source.model)}-{slug(job.source.data or '')}-{digest}"
