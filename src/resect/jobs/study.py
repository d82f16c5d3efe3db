"""`resect study`: everything about one network, measured into one run folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from resect.data import Samples
from resect.digest import key_digest
from resect.errors import InputError
from resect.jobs.answers import answer_depth, answer_ensemble, answer_gradient, multiplicity_row
from resect.jobs.asked import DATA, MODEL, StudyAsked
from resect.jobs.findings import Answers, PlainControl, StudySubject
from resect.jobs.job import Answer, Job, Lab, Track, silent
from resect.jobs.paths import lengths_table
from resect.jobs.source import slug, split_spec
from resect.jobs.train import TrainJob
from resect.models.names import bare_name, is_shipped
from resect.models.specs import LoadedModel, load_card, load_model
from resect.network.blocks import blocks_table
from resect.network.unraveled import Unraveled, require_blocks, unravel
from resect.paths.sampled import sample_paths
from resect.paths.settings import PathSettings, passing
from resect.paths.spectrum import PathSpectrum, path_spectrum
from resect.paths.squares import path_squares
from resect.runs.record import Record
from resect.sweep import plans
from resect.sweep.lesion import lesion
from resect.sweep.result import LesionResult
from resect.training.loop import Watch
from resect.training.recipe import Recipe
from resect.training.recipes import NAMES, load_recipe_file
from resect.weights import check_finite

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
        bench, net = _Bench(self, subject.samples, lab), subject.main
        singles = bench.lesion(net, plans.single(net), "single deletions")
        random_plan = plans.random(net, repeats=self.repeats, seed=self.source.seed)
        random = bench.lesion(net, random_plan, "random deletions")
        shuffled_plan = plans.shuffled(net, repeats=self.repeats, seed=self.source.seed)
        shuffled = bench.lesion(net, shuffled_plan, "reorderings") if len(shuffled_plan) else None
        control = bench.control(self.control, subject.control) if self.control and subject.control else None
        more = {"control": control.deletions} if control else {}
        spectrum, depth, gradient = None, None, None
        if not net.plain:
            spectrum, draws, squares = bench.paths(net)
            more["lengths"] = lengths_table(spectrum, draws, squares)
            depth, gradient = answer_depth(spectrum, draws, squares), answer_gradient(spectrum, draws)
        rows = [multiplicity_row(self.source.model, net, singles.intact_error, spectrum)]
        rows += [bench.beside(text, other) for text, other in zip(self.beside, subject.beside, strict=True)]
        ensemble = answer_ensemble(singles, random, shuffled, control, subject.samples.targets)
        blocks = blocks_table(net.blocks)
        found = {
            "subject": asdict(self._subject(net, subject.samples)),
            "answers": Answers(ensemble, depth, gradient, tuple(rows)).as_dict(),
            "intact_loss": singles.intact_loss,
            "control": control.numbers() if control else None,
        }
        tables = {
            "blocks": blocks,
            "deletions": _with_kinds(singles.table, blocks),
            "random": random.table,
            "reorderings": shuffled.table if shuffled else _NO_REORDERINGS,
            **more,
        }
        return Answer(found, tables)

    def _subject(self, net: Unraveled, samples: Samples) -> StudySubject:
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
    """The networks of a study, unravelled: the one under study, the plain control, and those beside it."""

    samples: Samples
    main: Unraveled
    control: Unraveled | None
    beside: tuple[Unraveled, ...]

    @property
    def made_of(self) -> dict[str, Any]:
        """Digests of samples and networks."""
        networks = [self.main, *([self.control] if self.control else []), *self.beside]
        return {"samples": self.samples.digest(), "networks": [net.fingerprint() for net in networks]}


@dataclass(frozen=True)
class _Bench:
    """Measures networks on the samples of a study."""

    job: StudyJob
    samples: Samples
    lab: Lab

    def lesion(self, net: Unraveled, plan: plans.Plan, title: str) -> LesionResult:
        """Outcomes of a plan on all samples."""
        advance = self.lab.track(title, (len(plan) + len(plan.references) + 1) * len(self.samples))
        data = self.samples.batches(self.job.batch_size)
        return lesion(net, data, plan, progress=advance, engine=self.lab.engine)

    def spectrum(self, net: Unraveled, title: str) -> PathSpectrum:
        """The exact shares, on the first samples."""
        data = list(self.samples.limited(self.job.gradient_samples).batches(self.job.gradient_batch))
        advance = self.lab.track(title, passing(net) * len(data))
        return path_spectrum(net, data, progress=advance, engine=self.lab.engine)

    def paths(self, net: Unraveled) -> tuple[PathSpectrum, Any, Any]:
        """The exact shares, sampled single paths, and random signs."""
        spectrum = self.spectrum(net, "gradient by path length")
        data = list(self.samples.limited(self.job.path_samples).batches(self.job.path_batch))
        settings, slices, engine = PathSettings(seed=self.job.source.seed), passing(net) * len(data), self.lab.engine
        bar = self.lab.track("sampled single paths", slices)
        draws = sample_paths(net, data, settings, draws=self.job.draws, progress=bar, engine=engine)
        bar = self.lab.track("random signs", slices * self.job.sweeps)
        return spectrum, draws, path_squares(net, data, settings, sweeps=self.job.sweeps, progress=bar, engine=engine)

    def control(self, spec: str, net: Unraveled) -> PlainControl:
        """The plain network's deletions (paper, section 4.1)."""
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

    def beside(self, text: str, net: Unraveled) -> Any:
        """Depth, width and multiplicity of another network."""
        spec, _ = split_spec(text)
        intact = self.lesion(net, plans.explicit(net, []), f"{spec}, intact")
        return multiplicity_row(spec, net, intact.intact_error, self.spectrum(net, f"{spec}, gradient"))


def _with_kinds(table: pd.DataFrame, blocks: pd.DataFrame) -> pd.DataFrame:
    return table.merge(blocks[["block", "kind", "downsampling"]], on="block")


@dataclass(frozen=True)
class _Loader:
    """Loads the networks of a study; those that have no weights are trained into its folder."""

    job: StudyJob
    samples: Samples
    lab: Lab

    def networks(self) -> _Networks:
        """All of them."""
        source, job = self.job.source, self.job
        main = self._shipped_anew(source.model) if self._anew(source.model) else source.load(self.samples)
        control = self._other(job.control) if job.control else None
        beside = [self._other(text) for text in job.beside]
        return _Networks(
            self.samples,
            self._unravel(main, plain=job.plain),
            self._unravel(control, plain=True) if control else None,
            tuple(self._unravel(other, plain=False) for other in beside),
        )

    def _unravel(self, loaded: LoadedModel, *, plain: bool) -> Unraveled:
        check_finite(loaded.module)
        device = next(iter(loaded.module.parameters()), self.samples.inputs).device
        net = unravel(loaded.module, self.samples.inputs[:1].to(device), plain=plain)
        require_blocks(net)
        return net

    def _other(self, text: str) -> LoadedModel:
        """A network to set beside the one under study: SPEC, SPEC@FILE, or a resect: network that is trained."""
        spec, checkpoint = split_spec(text)
        if self._anew(spec):
            return self._shipped_anew(spec)
        if checkpoint is None and spec.startswith("resect:") and not is_shipped(spec):
            checkpoint = self._trained(spec)
        loaded = load_model(spec, checkpoint=checkpoint, samples=self.samples, seed=self.job.source.seed)
        return self.job.source.placed(replace(loaded, spec=spec))

    def _anew(self, spec: str) -> bool:
        return self.job.retrain and is_shipped(spec)

    def _shipped_anew(self, spec: str) -> LoadedModel:
        """A shipped network, trained again."""
        bare = f"resect:{bare_name(spec.removeprefix('resect:'))}"
        loaded = load_model(bare, checkpoint=self._trained(spec), samples=self.samples)
        return self.job.source.placed(replace(loaded, spec=spec))

    def _trained(self, spec: str) -> Path:
        """Weights of a resect: network, trained by the recipe of the data if they are not there yet."""
        name, data = spec.removeprefix("resect:"), self.job.source.data or ""
        kind, bare = data.partition(":")[0], bare_name(name)
        if kind not in NAMES:
            raise InputError(f"{spec} has no weights for {data}: pass them as {spec}@FILE.")
        load_model(f"resect:{bare}", samples=self.samples)  # refuses an unknown name before anything is written
        if self.lab.folder is None:
            raise InputError(f"{spec} has no weights and is trained first, into the run folder: name one with --out.")
        file = self.lab.folder.path / "networks" / f"{name}.safetensors"
        if not file.exists():
            self.lab.folder.open()
            known = load_recipe_file(kind)
            settings = load_card(name).asked["recipe"] if is_shipped(spec) else known.settings
            recipe = Recipe(**settings | {"seed": self.job.source.seed})
            _train(TrainJob(bare, data, file, recipe, device=self.job.source.device, recipe_file=known), self.lab.track)
        return file


def _train(job: TrainJob, track: Track) -> None:
    advance = silent("", 0)

    def begin(total: int, seen: int) -> None:
        nonlocal advance
        advance = track(f"training {job.model}", total)
        advance(seen)

    job.train(Watch(begin=begin, step=lambda seen, loss: advance(seen)))


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
