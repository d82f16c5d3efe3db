"""`resect multiplicity`: arms that differ in their number of paths alone, trained with several seeds, and compared.

The plan lies in the run folder before the first training, and what is over at any time can be analysed. Of a training
that is over its card and its outcomes count; its weights may be deleted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from resect.data import load_samples
from resect.data.samples import SampleSet
from resect.digest import file_digest
from resect.engines.local import LOCAL
from resect.errors import InputError, ResectError, ResectWarning, RunError, require_whole
from resect.files import write_text
from resect.jobs.birth import born
from resect.jobs.design import START, Arm, MultiplicityAsked
from resect.jobs.evaluate import outcomes_of
from resect.jobs.fit import placed, require_fit
from resect.jobs.job import Advance, Answer, Job, Lab, Track, silent
from resect.jobs.mediators import TrainedPaths, mediation, paths_file, said_of_loss
from resect.jobs.outcomes import ImageOutcomes, kept_outcomes, outcomes_file, training_digest
from resect.jobs.pilot import Pilot, said_hopeless
from resect.jobs.plan import plan_of
from resect.jobs.together import train_here, train_together
from resect.jobs.train import TrainJob, shown
from resect.jobs.trained import Trained, card_of, has_diverged, keep_diverged, trainings_table
from resect.jobs.training import require_held_out
from resect.jobs.verdict import Verdict, answer_of, verdicts
from resect.jobs.warn import at_chance
from resect.measuring.contrasts import Slope, crossed_contrast, logit_slopes
from resect.models.specs import load_model
from resect.network.entrance import unravel
from resect.network.unraveled import Unraveled
from resect.runs.folder import RunFolder
from resect.runs.record import Record, plain
from resect.training.recipe import Recipe

PLAN, RATES = "plan.yaml", "learning_rates.json"


@dataclass(frozen=True)
class MultiplicityJob(MultiplicityAsked, Job):
    """An experiment on multiplicity."""

    def open(self, out: Path | str | None, track: Track) -> Lab:
        """The lab of a run folder, which the plan alone makes one, too: a copy may have nothing but what was found."""
        return Lab(RunFolder(Path(out), self.verb, self.asked(), also=PLAN) if out else None, track)

    def run(
        self,
        out: Path | str | None = None,
        track: Track = silent,
        *,
        trainings: int | None = None,
        at_once: int = 1,
        seen: Callable[[Record], None] = lambda record: None,
    ) -> Record:
        """Train what is left, and compare what is over.

        Args:
            out: the run folder.
            track: opens bars.
            trainings: at most so many now; 0 to compare only.
            at_once: so many side by side, each in a process of its own with its share of the threads.
            seen: called with the record of all that is over after every training, or those that ran side by side.

        Raises:
            ResectError: something that was asked for cannot be done, or the folder has another plan.
        """
        if out is None:
            raise InputError("`out` must name a run folder: trainings take hours, and a killed run goes on from there.")
        require_whole("at_once", at_once, 1)
        lab = self.open(out, track)
        assert lab.folder is not None
        if not (lab.folder.path / PLAN).exists():
            self._require_possible()
        self._keep_plan(lab.folder)
        compare, pilot = super().run, self._pilot(lab.folder)

        def train(jobs: Sequence[TrainJob]) -> None:
            bar, done = track("trainings", len(jobs)) if jobs else silent("", 0), 0.0

            def share(part: float) -> None:
                nonlocal done
                done += part
                bar(part)

            for first in range(0, len(jobs), at_once):
                if first:
                    seen(compare(out, silent))
                group = jobs[first : first + at_once]
                watches = [shown(track, job.out.stem, share) for job in group]
                if at_once == 1:
                    train_here(group[0], watches[0], keep_diverged)
                else:
                    train_together(group, watches, at_once, keep_diverged)
                share(max(0.0, first + len(group) - done))  # what is left of one that diverged

        pilots = pilot.missing()[:trainings]
        train(pilots)
        if pilots:
            seen(compare(out, silent))
        pilot.keep()
        if pilot.chosen() is not None:
            jobs = {pair: self._job(lab.folder, *pair) for pair in self.trainings}
            missing = [job for pair, job in jobs.items() if not (self._card(lab.folder, *pair) or has_diverged(job))]
            train(missing[: None if trainings is None else trainings - len(pilots)])
        return compare(out, track)

    def prepare(self, lab: Lab) -> Trained:
        """Load the test images, and what the networks that are trained answered; those that were not asked are now.

        Raises:
            InputError: the data are not of classes.
            RunError: a network must be tested, but its weights are not there.
        """
        assert lab.folder is not None, "run refuses to do without"
        samples = load_samples(str(self.source.data), split="test", limit=self.source.limit)
        digest, name = samples.digest(), f"images of {self.source.data}"
        cards = {pair: card for pair in self.trainings if (card := self._card(lab.folder, *pair))}
        kept = {
            (arm, seed): kept_outcomes(self._file(lab.folder, arm, seed), card, digest, name)
            for (arm, seed), card in cards.items()
        }
        missing = sum(outcomes is None for outcomes in kept.values())
        advance = lab.track("test images", missing * len(samples)) if missing else silent("", 0)
        outcomes = {
            (arm.name, seed): known or self._tested(self._job(lab.folder, arm, seed), samples, advance)
            for (arm, seed), known in kept.items()
        }
        paths = self._paths(lab.folder, {pair: outcomes[pair[0].name, pair[1]] for pair in kept}, samples, lab)
        known = {(arm.name, seed): card for (arm, seed), card in cards.items()}
        return Trained(samples, known, outcomes, paths, self._pilot(lab.folder).table(), self._diverged(lab.folder))

    def _diverged(self, folder: RunFolder) -> tuple[tuple[str, int], ...]:
        """Arms and seeds of the trainings that diverged."""
        if self._pilot(folder).chosen() is None:
            return ()
        return tuple((arm.name, seed) for arm, seed in self.trainings if has_diverged(self._job(folder, arm, seed)))

    def _paths(
        self, folder: RunFolder, outcomes: Mapping[tuple[Arm, int], ImageOutcomes], samples: SampleSet, lab: Lab
    ) -> dict[tuple[str, int], TrainedPaths]:
        """What the paths of trained networks are like, as far as it is known or their weights are there."""
        known, missing = {}, []
        for (arm, seed), own in outcomes.items():
            file = self._file(folder, arm, seed)
            key = {"weights": own.weights, "samples": own.samples}
            if paths := TrainedPaths.read(paths_file(file), key):
                known[arm.name, seed] = paths
            elif file.is_file():
                missing.append((arm, seed, key))
            elif paths_file(file).exists():
                said = f"{paths_file(file)} is damaged or of something else, and {file.name} is not there: left out."
                warnings.warn(said, ResectWarning, stacklevel=2)
        advance = lab.track("paths", len(missing)) if missing else silent("", 0)
        nets: dict[Arm, Unraveled] = {}  # an arm is captured once
        for arm, seed, key in missing:
            job = self._job(folder, arm, seed)
            module = placed(load_model(job.spec, checkpoint=job.out, samples=samples).module, self.source.device)
            if arm not in nets:
                nets[arm] = unravel(module, samples.first(2)[0])
            nets[arm].model.load_state_dict(module.state_dict())
            try:
                known[arm.name, seed] = TrainedPaths.of(nets[arm], samples, self.source.seed)
                known[arm.name, seed].write(paths_file(job.out), key)
            except ResectError as error:  # of a training that diverged; the planned test does not depend on it
                warnings.warn(f"{arm.name}, seed {seed}: its paths are left out: {error}", ResectWarning, stacklevel=2)
            advance(1)
        return known

    def before(self, lab: Lab, subject: Trained) -> Record | None:
        """The record, if it is of all trainings that are over."""
        record = lab.folder.finished({}) if lab.folder else None
        return record if record and record.made_of == plain(subject.made_of) else None

    def answer(self, subject: Trained, lab: Lab) -> Answer:
        """Compare the arms on the seeds that all of them have."""
        assert lab.folder is not None, "run refuses to do without"
        outcomes = {pair: own.wrong.astype(np.float32) for pair, own in subject.outcomes.items()}
        first = self.design[0].name
        seeds = [s for name, s in outcomes if name == first and all((arm.name, s) in outcomes for arm in self.design)]
        wrong = np.array([[outcomes[arm.name, seed] for seed in seeds] for arm in self.design])
        judged, slopes = self._compared(wrong) if seeds else ([], [])
        found = {
            "plan": yaml.safe_load((lab.folder.path / PLAN).read_text(encoding="utf-8")),
            "data": subject.samples.name,
            "samples": len(subject.samples),
            "trained": len(outcomes),
            "planned": len(self.trainings),
            "seeds": seeds,
            "summary": answer_of(judged[0] if judged else None, len(seeds), self.seeds, self.bound),
        }
        if self.learning_rates:
            found["learning_rates"] = rates = self._pilot(lab.folder).chosen()
            if rates is None:
                all_pilots = len(self.pilot_trainings)
                said = f"{len(subject.pilot)} of {all_pilots} trainings that choose the learning rates are over."
                hopeless = self._pilot(lab.folder).hopeless(subject.pilot)
                found["summary"] = f"{said} {said_hopeless(hopeless) if hopeless else found['summary']}"
        trained = trainings_table(subject.cards, outcomes, subject.paths)
        engine = lab.engine if outcomes else None  # the paths at birth take a capture: once a training is over
        design = pd.DataFrame([born(arm, subject.samples, self.source.seed, engine) for arm in self.design])
        for name in ("training_loss", "training_error"):
            design[name] = design["arm"].map(trained.groupby("arm")[name].mean()).astype(float)
        design[["error", "error_low", "error_high"]] = [_interval(own) for own in wrong] if seeds else nan
        tables = {"design": design, "trainings": trained}
        tables |= {"contrasts": pd.DataFrame(map(asdict, judged)), "slopes": pd.DataFrame(map(asdict, slopes))}
        pairs = [(few.name, many.name) for many, few in self.contrasts]
        tables["mediation"] = mediation(trained, pairs, seeds) if seeds else pd.DataFrame()
        found["summary"] += said_of_loss(tables["mediation"])
        if self.learning_rates:
            tables["pilot"] = subject.pilot
        doubts = self._doubts(trained, subject) + self._pilot(lab.folder).at_edges()
        return Answer(found, tables, doubts)

    def _doubts(self, trained: pd.DataFrame, subject: Trained) -> tuple[str, ...]:
        """One sentence for each network that, as trained, is no better than chance, and each that diverged."""
        rows = trained[["arm", "seed", "error"]].itertuples(index=False)
        each = (at_chance(f"{arm}, seed {seed}", error, subject.samples, random=True) for arm, seed, error in rows)
        poor = tuple(f"{doubt} Train the arms longer, with --setting epochs=N." for said in each for doubt in said)
        return poor + tuple(
            f"{arm}, seed {seed}, diverged: without this seed in all arms no verdict is given. Try a lower learning "
            "rate, with another --out."
            for arm, seed in subject.diverged
        )

    def _compared(self, wrong: np.ndarray) -> tuple[list[Verdict], list[Slope]]:
        """Contrasts and slopes of (A, R, N), whether each arm errs with each seed on each image."""
        of = dict(zip(self.design, wrong, strict=True))
        differences = {(few.name, many.name): of[few] - of[many] for many, few in self.contrasts}
        columns: dict[str, np.ndarray] = {
            name: np.array([arm.regressors[name] for arm in self.design]) for name in self.design[0].regressors
        }
        over = wrong.shape[1] == self.seeds
        return verdicts(differences, self.bound / 100, over=over), logit_slopes(columns, wrong)

    def _tested(self, job: TrainJob, samples: SampleSet, advance: Advance) -> ImageOutcomes:
        """What a trained network answers, which is kept."""
        card = job.finished()
        assert card is not None, "it is tested where it has weights"
        loaded = load_model(job.spec, checkpoint=job.out, samples=samples)
        network = replace(loaded, module=placed(loaded.module, self.source.device))
        own = outcomes_of(network, samples, self.batch_size, advance, LOCAL, require_fit(network.module, samples))
        if not own.single:
            raise InputError(f"an experiment asks for errors of classes, but {samples.name} has others.")
        outcomes = ImageOutcomes(own.errors > 0, training_digest(card), samples.digest(), file_digest(job.out))
        outcomes.write(outcomes_file(job.out))
        return outcomes

    def _require_possible(self) -> None:
        """Raise what is wrong with an arm, or the images, before a plan is written that could not be carried out."""
        samples = load_samples(str(self.source.data), split="test", limit=self.source.limit)
        if self.learning_rates:
            require_held_out(load_samples(str(self.source.data), split="train"), self.held_out)
        for arm in self.design:
            module = load_model(f"resect:{arm.name}", model_args=dict(START), samples=samples).module
            require_fit(placed(module, self.source.device), samples.limited(2))

    def _keep_plan(self, folder: RunFolder) -> None:
        """Write the plan, or see that it is still the same; RunError if it is not."""
        file, plan = folder.path / PLAN, plain(plan_of(self))
        if not file.exists():
            if any(file.suffix in (".json", ".safetensors") for file in folder.path.glob("networks/*")):
                raise RunError(f"{folder.path} has trainings, but no {PLAN}, which was there before them. Choose "
                               "another --out.")  # fmt: skip
            folder.open()
            write_text(file, yaml.safe_dump(plan, sort_keys=False, allow_unicode=True, width=110))
            return
        try:
            there = yaml.safe_load(file.read_text(encoding="utf-8"))
            changed = [name for name in {**plan, **there} if name != "words" and there.get(name) != plan.get(name)]
        except (UnicodeDecodeError, yaml.YAMLError, TypeError, AttributeError) as error:
            raise RunError(f"{file} is damaged. Take it from a copy, or choose another --out.") from error
        if changed:
            raise RunError(
                f"{file} must stay as it was before the first training, but has another {', '.join(changed)} than is "
                "asked for here. Restore it, or choose another --out for another experiment."
            )

    def _file(self, folder: RunFolder, arm: Arm, seed: int) -> Path:
        return folder.path / "networks" / f"{arm.name}-seed{seed}.safetensors"

    def _pilot(self, folder: RunFolder) -> Pilot:
        """The trainings that choose the learning rates."""
        place = folder.path / "networks"
        return Pilot(
            {
                (arm, seed, rate): self._trained_by(
                    place / f"{arm.name}-rate{rate}-seed{seed}.safetensors",
                    arm,
                    self.recipe_of(seed, rate),
                    held_out=self.held_out,
                )
                for arm, seed, rate in self.pilot_trainings
            },
            folder.path / RATES,
        )

    def _card(self, folder: RunFolder, arm: Arm, seed: int) -> Record | None:
        """The card of a training that is over: its weights are there, or what they answered.

        Raises:
            InputError: there are weights or outcomes, but of something else.
        """
        if self._pilot(folder).chosen() is None:
            return None
        job = self._job(folder, arm, seed)
        return card_of(job, outcomes_file(job.out))

    def _job(self, folder: RunFolder, arm: Arm, seed: int) -> TrainJob:
        """A training of the experiment, once its learning rate is known."""
        rates = self._pilot(folder).chosen()
        assert rates is not None, "nothing asks before"
        return self._trained_by(self._file(folder, arm, seed), arm, self.recipe_of(seed, rates.get(arm.name)))

    def _trained_by(self, out: Path, arm: Arm, recipe: Recipe, *, held_out: int = 0) -> TrainJob:
        return TrainJob(
            arm.name, str(self.source.data), out, recipe, dict(START),
            device=self.source.device, recipe_file=self.recipe_file, held_out=held_out,
        )  # fmt: skip


def _interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean error of one arm with its interval, which few seeds would have reach beyond what errors can be."""
    contrast = crossed_contrast(values)
    low, high = np.clip(contrast.interval(), 0, 1)
    return contrast.mean, float(low), float(high)


def multiplicity(
    data: str, *arms: str, out: Path | str, trainings: int | None = None, at_once: int = 1, **options: Any
) -> Record:
    """Train arms that differ in their number of paths alone, with several seeds, and compare their test errors.

    Args:
        data: a data spec with training and test samples.
        arms: "primary", "grid" or resect: specs such as "resnet38-b2-s18"; the primary design if none is named.
        out: the run folder. The plan is written there before the first training; a killed run goes on.
        trainings: at most so many now; 0 to compare what is over.
        at_once: so many side by side, each in a process of its own.
        options: seeds, seed, recipe, settings, bound, learning_rates, held_out, pilots, limit, device, batch_size.

    Returns:
        A record with the tables `design`, `trainings`, `contrasts`, `slopes`, `mediation` and, with `learning_rates`,
        `pilot`.

    Raises:
        ResectError: something that was asked for cannot be done.

    Example:
        >>> resect.multiplicity("digits", "resnet14-b2-s1", "resnet14-b2-s6", seeds=2, out="runs/m").found["summary"]
    """
    return MultiplicityJob.of(data, arms, options).run(out, trainings=trainings, at_once=at_once)
