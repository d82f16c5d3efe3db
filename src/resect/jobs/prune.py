"""`resect prune`: which units can go, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, comb
from pathlib import Path
from typing import Any

import pandas as pd

from resect.data.brackets import brackets_of
from resect.data.names import parse_data_spec
from resect.data.normalization import how_read
from resect.data.samples import Samples, SampleSet, in_memory
from resect.errors import DataError, InputError
from resect.jobs.asked_pruning import PruneAsked
from resect.jobs.healed import keep_weights
from resect.jobs.job import Answer, Job, Lab, Subject
from resect.jobs.plan_file import read_plan
from resect.jobs.warn import at_chance
from resect.measuring.memory import bytes_per_sample, free_bytes
from resect.measuring.tasks import Task
from resect.models.inputs import ModelInputs
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.pruning import refit
from resect.pruning.export.fitting import fitted
from resect.pruning.export.formats import require_expressible
from resect.pruning.groups import groups_of
from resect.pruning.prune import prune, remove
from resect.pruning.result import Pruning
from resect.pruning.settings import Budget, PruneSettings
from resect.pruning.treatment import MEASURED, PASSES
from resect.words import percent

_STATES = 6  # that a sweep keeps at one time, about
_BATCH = 64  # samples, at the most, unless the user says


@dataclass(frozen=True)
class PruneJob(PruneAsked, Job):
    """A search for units of one network that can go.

    Attributes:
        targets: what is written of the result afterwards; of what is given to go, a format that cannot hold it is
            refused before anything is measured.
    """

    targets: tuple[str, ...] = ()

    def asked(self) -> dict[str, Any]:
        """The whole configuration, which targets are no part of."""
        return {name: value for name, value in super().asked().items() if name != "targets"}

    def command(self) -> str:
        """The command that does the same, but writes nothing of the result."""
        return super(PruneJob, replace(self, targets=())).command()

    def prepare(self, lab: Lab) -> Subject:
        """Load and unravel the network, and load the samples; a plan is read first, as it is soon wrong."""
        plan = None if self.plan is None else read_plan(self.plan)
        subject = Subject(*self.source.unravel())
        more: dict[str, Any] = {} if plan is None else {"plan": plan}
        if self.calibration is not None:
            more["calibration"] = self._calibration().digest()
        if self.healing():
            more["training"] = self._training.digest()
            self._require_own_training()
        subject = replace(subject, more=more)
        if self.targets and self.budget is None:
            require_expressible(subject.net, self._given(subject.net, subject), self.targets)
        return subject

    @cached_property
    def _training(self) -> Samples:
        """What heals, in memory."""
        data = self.heal_data or self.source.data
        return in_memory(replace(self.source, data=data, limit=None).samples(split="train"))

    def _require_own_training(self) -> None:
        """Raise DataError if the data have no samples to train on beside those that choose and judge."""
        every = replace(self.source, limit=None).samples()
        if every.digest() == self._training.digest():
            raise DataError(
                f"{self.heal_data or self.source.data} must have training samples beside those that choose and judge, "
                f"but they are the same. Name other{'s' if self.heal_data is None else ' ones'} with --heal-data DATA."
            )

    @property
    def _doing(self) -> str:
        """What the bar is called."""
        return f"{'search' if self.budget else 'evaluation'}{', healing' if self.healing() else ''}"

    def _calibration(self) -> SampleSet:
        return replace(self.source, data=self.calibration, limit=None).samples()

    def answer(self, subject: Subject, lab: Lab) -> Answer:
        """Search, and measure what was found on other samples.

        Raises:
            InputError: the budget cannot be reached, or a block is unknown.
            DataError: the samples do not fit the network, or are too few to be parted.
        """
        net, samples = subject.net, subject.samples
        settings, budget, kept_to = self._with_brackets(self.settings(), samples), self.budget, ""
        if budget and self.fits:
            search = fitted(net, settings, budget, self.fits)
            settings, budget, kept_to = search.settings, search.budget, search.said
        size = self.batch_size or _batch_size(net, len(samples))
        chooses = None if self.calibration is None else self._calibration().batches(size)
        bar = _Estimated(lab, self._doing, self._samples(net, samples, settings, budget))
        more: dict[str, Any] = {
            "calibration": chooses, "task": self.task, "progress": bar.advance, "engine": lab.engine
        }  # fmt: skip
        if heal := self.healing():
            more |= {"heal": heal, "training": self._training.batches(size), "checkpoints": self._checkpoints(lab)}
        data = samples.batches(size)
        if budget:
            result = prune(net, data, budget, settings, **more)
        else:
            result = remove(net, data, self._given(net, subject), settings, **more)
        bar.finish()
        answer = self._answer(result)
        found = {**answer.found, **how_read(samples), "batch_size": size, **self._kept(result, lab)}
        found |= {"kept_to": kept_to} if kept_to else {}
        meaning = result.outcomes.meaning
        warnings = at_chance(
            self.source.model, result.intact, samples, random=subject.random, task=Task.named(meaning.task)
        ) if meaning.error else ()  # fmt: skip
        if result.arrangement == net.intact.without(range(len(net.blocks))):
            warnings += ("No block is left: what remains is what lies around them.",)
        if result.healing and lab.folder is None:
            warnings += ("The healed weights are not kept: there is no run folder. Name one with --out RUN.",)
        return Answer(found, answer.tables, (*subject.warnings, *warnings))

    def _checkpoints(self, lab: Lab) -> Path | None:
        """Where interrupted trainings are kept."""
        if lab.folder is None:
            return None
        lab.folder.open()
        return lab.folder.path / "networks"

    def _kept(self, result: Pruning, lab: Lab) -> dict[str, Any]:
        """What healing found, after its weights are written."""
        if result.healing is None:
            return {}
        said = {**result.healing.as_dict(), "summary": result.healing.summary()}
        if lab.folder is not None:
            said["weights"] = keep_weights(result.healing.network, lab.folder.path)
        return {"healing": said}

    def _with_brackets(self, settings: PruneSettings, samples: SampleSet) -> PruneSettings:
        """Settings that know which tokens of a text are brackets."""
        own, source = settings.generation, self.source
        if own is None or samples.first()[1].ndim != 2:
            return settings
        model = ModelInputs(source.model, source.checkpoint, source.model_args)
        brackets = brackets_of(parse_data_spec(str(source.data)), model.reading())
        return replace(settings, generation=replace(own, brackets=brackets.pairs, before=brackets.before))

    def _given(self, net: Unraveled, subject: Subject) -> Arrangement:
        """What goes without a search."""
        if self.without is not None:
            return net.intact.without(self.without)
        try:
            return net.arrangement((subject.more or {})["plan"])
        except InputError as error:
            raise InputError(
                f"the plan {self.plan} must be of this network, of {len(net.blocks)} blocks: {error}"
            ) from error

    def _samples(self, net: Unraveled, samples: SampleSet, settings: PruneSettings, budget: Budget | None) -> float:
        """How many samples sets of units will run on, about: what the bar counts."""
        units, levels = len(groups_of(net, settings.unit)), len(budget.levels(self.sweep)) if budget else 1
        calibration = min(self.calibration_samples, max(len(samples) // 4, 1))
        sets = _sets(settings, budget, units, levels) if budget else 1.0
        heal, judging = self.healing(), len(samples) - calibration
        trained = PASSES * heal.epochs * len(self._training) if heal else 0
        trained += refit.passes(net) * min(len(self._training), MEASURED) if heal and heal.refit else 0
        healed = (heal.candidates if heal and budget else 1) * (trained + 2 * len(samples)) if heal else 0
        return sets * calibration + (levels + 1) * judging + healed

    def _missed(self, kept: Mapping[str, float]) -> list[str]:
        """That the budget was not met, by what was measured."""
        if self.budget is None or self.budget.what == "remove" or kept[self.budget.what] <= self.budget.asked:
            return []
        return [f"No removal that was tried leaves {percent(self.budget.asked)} of the {self.budget.what} or less."]

    def _answer(self, result: Pruning) -> Answer:
        last = result.table.iloc[-1]
        kept = {name: float(last[name]) for name in result.costs.columns}
        found = {
            "summary": " ".join([result.summary(), *self._missed(kept)]),
            "verdict": result.verdict(),
            "what": result.what,
            "unit": result.unit,
            "units": len(result.groups),
            "removed": list(result.removed),
            "arrangement": str(result.arrangement),
            "kept": kept,
            "budget": self.budget.what if self.budget else "remove",
            "objective": result.objective,
            "effort": result.effort,
            "passes": result.passes,
            "measured": result.measured,
            "calibration_samples": result.calibration,
            "samples": result.outcomes.samples,
            "task": result.outcomes.meaning.as_dict(),
            "intact": result.intact,
        }
        rows = [(group.name, ",".join(map(str, group.blocks)), group.name in result.removed) for group in result.groups]
        units = pd.DataFrame(rows, columns=["name", "blocks", "removed"])
        tables = {"front": result.table, "units": units}
        if (written := result.generation) is not None:
            found["generation"] = {"summary": written.summary(), "prompt": written.prompt, "tokens": written.tokens}
            tables["generation"] = written.table
        if result.healing is not None:
            tables["healing"] = result.healing.table
        return Answer(found, tables)


def _batch_size(net: Unraveled, samples: int) -> int:
    """What fits into half of the free memory, so that there are several batches to be parted."""
    if net.batch_size is not None:
        return net.batch_size
    fits = free_bytes(net.device) // 2 // max(1, bytes_per_sample(net, _STATES))
    if not fits:
        raise InputError("not even one sample fits into half of the free memory; stop what else uses it.")
    return int(min(_BATCH, fits, max(1, samples // 4)))


def _sets(settings: PruneSettings, budget: Budget, units: int, levels: int) -> float:
    """How many sets of units a search measures on all calibration samples, about."""
    gone = min(int(budget.need), units) if budget.what == "remove" else max(1, ceil(budget.need * units))
    greedy = gone * units - gone * (gone - 1) / 2
    counts: dict[str, float] = {
        "greedy": greedy,
        "one-shot": units + levels,
        "window": levels,
        "beam": greedy * settings.width,
        "evolution": units + levels * settings.generations * settings.offspring / 2,
        "pairwise": units * (units - 1) / 2 + settings.tried * levels,
        "exchange": greedy * settings.width + levels * units,
        "exhaustive": min(comb(units, min(gone, units)), settings.most_sets),
    }
    return counts[settings.search]


class _Estimated:
    """A bar whose total is an estimate: it does not run over its end, and is full when all is done."""

    def __init__(self, lab: Lab, what: str, total: float) -> None:
        self._left, self._bar = total, lab.track(what, total)

    def advance(self, amount: float) -> None:
        """So many samples more."""
        amount = min(amount, self._left)
        self._left -= amount
        self._bar(amount)  # 0, too: it notes an interruption

    def finish(self) -> None:
        """All is done."""
        self.advance(self._left)
