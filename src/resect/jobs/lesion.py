"""`resect lesion`: one sweep over one network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from resect.data.normalization import how_read
from resect.data.samples import SampleSet
from resect.engines.work import Arrays
from resect.errors import InputError
from resect.jobs.asked import LesionAsked
from resect.jobs.job import Answer, Job, Lab, Subject
from resect.jobs.warn import at_chance, chance_of
from resect.measuring.meaning import CLASSIFIED
from resect.measuring.memory import bytes_per_sample
from resect.measuring.tasks import Task
from resect.network.requirements import require_blocks
from resect.network.unraveled import Unraveled
from resect.sweep import plans
from resect.sweep.batching import Choices, Trial, best, trials
from resect.sweep.ensemble import ensemble
from resect.sweep.lesion import lesion
from resect.sweep.result import LesionResult
from resect.sweep.settings import LesionSettings
from resect.sweep.shapley import from_orders
from resect.sweep.together import together
from resect.sweep.walk import Tour

_TRYING = 0.1  # of the sweep's own work may go into the choice of batch size and memory format


@dataclass(frozen=True)
class LesionJob(LesionAsked, Job):
    """A sweep over one network."""

    def prepare(self, lab: Lab) -> Subject:
        """Load and unravel the network, and load the samples."""
        return lab.subject(self.source, plain=self.plain)

    def answer(self, subject: Subject, lab: Lab) -> Answer:
        """Run the sweep.

        Raises:
            InputError: the plan cannot run on this network, or not even the smallest batch fits into memory.
            DataError: the samples do not fit the network.
        """
        net, samples = subject.net, subject.samples
        plan = self.make_plan(net)
        tour = Tour.of(net.programs, [*plan.arrangements, *plan.references, net.intact])
        tried = self._choose(net, samples, tour, lab)
        size = int(tried["batch_size"][0])
        settings = self.settings(channels_last=bool(tried["channels_last"][0]))
        ran = {
            "batch_size": size,
            "channels_last": settings.channels_last,
            "compile": settings.compile,
            "removal": self.removal,
            "slices_run": len(tour.stops),
            "states_kept": tour.states,
        }
        data = samples.batches(size)
        if self.plan == "ensemble":
            answer = self._ensemble(net, samples, data, settings, lab)
        else:
            lesions = (len(plan) + len(plan.references) + 1) * len(samples)
            advance = lab.track("arrangements" if plan.name == "explicit" else f"{plan.name} lesions", lesions)
            result = lesion(net, data, plan, settings, task=self.task, progress=advance, engine=lab.engine)
            answer = self._shapley(net, result) if self.plan == "shapley" else lesion_answer(result)
        task = Task.named(answer.found["task"]["task"])
        chance = {"chance_error": chance_of(samples, task)[0]} if task.rate else {}
        kinds = {}
        if plan.name == "single" and not net.plain:
            blocks = net.blocks.table
            kinds = {"downsampling": blocks["block"][blocks["downsampling"]].tolist()}
        found = {**answer.found, **chance, **kinds, "ran": ran, **how_read(samples)}
        intact = found["intact"].get("error")
        warnings = (*subject.warnings, *at_chance(self.source.model, intact, samples, random=subject.random, task=task))
        return Answer(found, {**answer.tables, "trials": tried}, warnings)

    def make_plan(self, net: Unraveled) -> plans.Plan:
        """The plan that is asked for.

        Raises:
            InputError: it would be empty, or names blocks that do not exist.
        """
        require_blocks(net)
        if self.without is not None:
            plan = plans.explicit(net, [net.intact.without(self.without)]).removing(self.removal)
            names = [name for name, run in zip(net.blocks.names, plan.arrangements[0], strict=True) if run is None]
            return replace(plan, labels=({**plan.labels[0], "without": ", ".join(names)},))
        counts, repeats, seed = self.counts, self.repeats, self.source.seed
        of_spans: Any = {"unit": self.unit, "middle": self.middle}
        makers = {
            "single": lambda: plans.single(net),
            "pairs": lambda: plans.pairs(net),
            "random": lambda: plans.random(net, counts, repeats, seed),
            "windows": lambda: plans.windows(net, counts, **of_spans),
            "shuffled": lambda: plans.shuffled(net, counts, repeats, seed),
            "reversed": lambda: plans.reversed(net, counts, **of_spans),
            "parallel": lambda: plans.parallel(net, counts, **of_spans, combine=self.combine),
            "skips": lambda: plans.skips(net),
            "repeated": lambda: plans.repeated(net),
            "random-repeated": lambda: plans.random_repeated(net, counts, repeats, seed),
            "bypassed": lambda: plans.bypassed(net),
            "shapley": lambda: plans.orders(net, self.orders, seed),
            "ensemble": lambda: plans.random(net, [self._removed(net)], self.members, seed),
        }
        plan = makers[self.plan]()
        if not plan.arrangements:
            why = {
                "shuffled": "no two blocks have the same shapes, so none can trade places",
                "reversed": f"no {self.unit}s in a row can trade places",
                "parallel": f"no {self.unit}s in a row keep one shape, each on what the one before it gives",
                "pairs": "it has a single block",
                "repeated": "no block keeps the shape of its input",
                "random-repeated": "no block keeps the shape of its input",
                "bypassed": "no block keeps the shape of its input",
                "skips": "a plain network has none",
            }
            raise InputError(f"the plan {self.plan} is empty on this network: {why.get(self.plan, 'nothing fits it')}.")
        return plan.removing(self.removal)

    def _removed(self, net: Unraveled) -> int:
        return max(1, len(net.blocks) // 10) if self.removed is None else self.removed

    def _shapley(self, net: Unraveled, result: LesionResult) -> Answer:
        shapley = from_orders(net, result)
        found = {"summary": shapley.summary(), "total": dict(shapley.total)}
        return Answer({**lesion_answer(result).found, **found}, {"shapley": shapley.table})

    def _ensemble(self, net: Unraveled, samples: SampleSet, data: Any, settings: LesionSettings, lab: Lab) -> Answer:
        removed = self._removed(net)
        advance = lab.track("ensemble", (self.members + 1) * len(samples))
        result = ensemble(
            net, data, removed, self.members, settings, task=self.task, progress=advance, engine=lab.engine
        )
        found = {
            "summary": result.summary(),
            "plan": "ensemble",
            "removed": removed,
            "task": CLASSIFIED.as_dict(),
            "samples": len(result.intact_error),
            "intact": {"error": float(result.intact_error.mean())},
        }
        return Answer(found, {"ensembles": result.table})

    def _choose(self, net: Unraveled, samples: SampleSet, tour: Tour, lab: Lab) -> pd.DataFrame:
        """Trials of batch sizes and memory formats, of an earlier sitting if there was one; the first is chosen."""
        settled = None if self.memory_format == "auto" else self.memory_format == "channels-last"
        choices = Choices.of(net, len(samples), tour.states, self.memory, self.batch_size, settled)
        forwards = len(tour.stops) / net.slices * len(samples)

        def choose() -> Arrays:
            tried, _ = samples.first(max(choices.sizes))
            made = list(trials(net, tried, choices, states=tour.states, budget=_TRYING * forwards))
            if choices.settled or not made:  # too little work to try anything
                made = [Trial(choices.sizes[0], choices.formats[0], float("nan"), bytes_per_sample(net, tour.states))]
            chosen = made[0] if len(made) == 1 else best(made)
            rows = [chosen, *(trial for trial in made if trial is not chosen)]
            return {name: np.array([getattr(row, name) for row in rows]) for name in Trial.__dataclass_fields__}

        return pd.DataFrame(lab.engine.once(net, {"what": "batch size and memory format"}, choose))


def lesion_answer(result: LesionResult) -> Answer:
    """What a sweep found, as plain values and tables."""
    found = {
        "summary": result.summary(),
        "plan": result.plan.name,
        "samples": result.samples,
        "task": result.meaning.as_dict(),
        "intact": {name: result.intact_mean(name) for name in result.values},
    }
    tables = {"lesions": result.table}
    if result.plan.name == "single" and "error" in result.values and result.meaning.rate and not result.cut_short:
        found["together"] = together(result).as_dict()
    if result.plan.name == "pairs":
        tables["interaction"] = result.interaction(result.main_metric).rename(columns=str)
        if "error" in result.values and result.meaning.rate:
            tables["saturated"] = result.saturated().rename(columns=str)
    if result.targets is not None and "error" in result.values:
        flips = [result.flips(i).assign(lesion=i) for i in range(len(result.plan))]
        tables["flips"] = pd.concat(flips, ignore_index=True) if flips else pd.DataFrame()
        if result.meaning.outcome == "query":
            return Answer(found, tables)
        tables["classes"] = (
            result.by_class().rename(columns=str).rename_axis("lesion").reset_index().astype({"lesion": str})
        )
    return Answer(found, tables)
