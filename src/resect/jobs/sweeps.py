"""One sweep over one network, as the command line asks for it: plan, batch size and memory format, pieces of work."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from resect.data.samples import Samples
from resect.errors import InputError
from resect.jobs.environment import environment
from resect.jobs.measure import Bench, Track, measure_lesions
from resect.measuring.memory import bytes_per_sample
from resect.network.unraveled import Unraveled
from resect.runs.folder import RunFolder, given_or_scratch
from resect.sweep import plans
from resect.sweep.batching import Choices, Trial, best, trials
from resect.sweep.ensemble import EnsembleResult, ensemble
from resect.sweep.result import LesionResult
from resect.sweep.settings import LesionSettings
from resect.sweep.shapley import ShapleyResult, from_orders
from resect.sweep.walk import Tour

_TRYING = 0.1  # of the sweep's own work may go into the choice of batch size and memory format
PLANS = ("single", "pairs", "random", "windows", "shuffled", "skips", "repeated", "shapley", "ensemble")


@dataclass(frozen=True)
class Request:
    """What a sweep runs, and in which batches.

    Attributes:
        plan: one of PLANS.
        without: delete just these blocks together, instead of a plan.
        removal: what stands for a deleted branch.
        counts: of random, the numbers of deleted blocks; of windows, their lengths.
        repeats: of random and shuffled.
        orders: of shapley, pairs of orders.
        removed: of ensemble, blocks missing in every member; None for a tenth.
        members: of ensemble.
        batch_size: None for the fastest of several.
        memory: bytes for values; None for half of what is free.
        layout: "auto" for the faster, "contiguous" or "channels-last".
    """

    plan: str = "single"
    without: tuple[int, ...] | None = None
    removal: Any = "zero"
    counts: tuple[int, ...] | None = None
    repeats: int = 5
    orders: int = 20
    removed: int | None = None
    members: int = 32
    batch_size: int | None = None
    memory: int | None = None
    layout: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class SweepFound:
    """What a sweep found.

    Attributes:
        lesions: outcomes of the plan; None for an ensemble.
        shapley, ensemble: of those plans, else None.
        facts: how it ran: batch size, memory format, slices run, states kept, environment.
        trials: what was tried to choose batch size and memory format, the choice first.
    """

    lesions: LesionResult | None
    shapley: ShapleyResult | None
    ensemble: EnsembleResult | None
    facts: dict[str, Any]
    trials: pd.DataFrame


def make_plan(net: Unraveled, request: Request) -> plans.Plan:
    """The plan that a request names.

    Raises:
        InputError: it would be empty, or names blocks that do not exist.
    """
    if request.without is not None:
        plans.single(net)  # says so if there is no block at all
        return plans.explicit(net, [net.intact.without(*request.without)]).removing(request.removal)
    counts, repeats, seed = request.counts, request.repeats, request.seed
    makers = {
        "single": lambda: plans.single(net),
        "pairs": lambda: plans.pairs(net),
        "random": lambda: plans.random(net, counts, repeats, seed),
        "windows": lambda: plans.windows(net, counts),
        "shuffled": lambda: plans.shuffled(net, counts, repeats, seed),
        "skips": lambda: plans.skips(net),
        "repeated": lambda: plans.repeated(net),
        "shapley": lambda: plans.orders(net, request.orders, seed),
        "ensemble": lambda: plans.random(net, [_removed(net, request)], request.members, seed),
    }
    plan = makers[request.plan]()
    if not plan.arrangements:
        why = {
            "shuffled": "no two blocks have the same shapes, so none can trade places",
            "pairs": "it has a single block",
            "repeated": "no block keeps the shape of its input",
            "skips": "a plain network has none",
        }
        raise InputError(f"the plan {request.plan} is empty on this network: {why[request.plan]}.")
    return plan.removing(request.removal)


def _removed(net: Unraveled, request: Request) -> int:
    return max(1, round(len(net.blocks) / 10)) if request.removed is None else request.removed


def run_sweep(
    net: Unraveled,
    samples: Samples,
    request: Request,
    settings: LesionSettings,
    track: Track,
    folder: RunFolder | None,
) -> SweepFound:
    """Run a sweep; in a folder, only what a killed run left to do.

    Raises:
        InputError: the plan cannot run on this network, or not even the smallest batch fits into memory.
        DataError: the samples do not fit the network.
    """
    plan = make_plan(net, request)
    if request.plan == "ensemble" and request.removal != "zero":
        raise InputError(f"`removal` of an ensemble must be 'zero', got {request.removal!r}.")
    with given_or_scratch(folder) as place:
        tour = Tour.of(net.programs, [*plan.arrangements, *plan.references, net.intact])
        tried = _choose(net, samples, request, tour, place)
        size = int(tried["batch_size"][0])
        settings = replace(settings, channels_last=bool(tried["channels_last"][0]))
        bench = Bench(place, samples, size, track)
        shapley, found, members = None, None, None
        if request.plan == "ensemble":
            advance = track("ensemble", (request.members + 1) * len(samples))
            batches = samples.batches(size)
            members = ensemble(net, batches, _removed(net, request), request.members, settings, progress=advance)
        else:
            found = measure_lesions(net, bench, plan, f"{plan.name} lesions", settings)
            shapley = from_orders(net, found) if request.plan == "shapley" else None
    facts = {
        "batch_size": size,
        "channels_last": settings.channels_last,
        "compile": settings.compile,
        "removal": request.removal,
        "slices_run": len(tour.stops),
        "states_kept": tour.states,
        "environment": environment(),
    }
    return SweepFound(found, shapley, members, facts, tried)


def _choose(net: Unraveled, samples: Samples, request: Request, tour: Tour, place: RunFolder) -> pd.DataFrame:
    """Trials of batch sizes and memory formats, those of an earlier sitting if there was one; the first is chosen."""
    settled = None if request.layout == "auto" else request.layout == "channels-last"
    choices = Choices.of(net, len(samples), tour.states, request.memory, request.batch_size, settled)
    forwards = len(tour.stops) / len(net.sliced.slices) * len(samples)

    def choose() -> pd.DataFrame:
        tried = samples.inputs[: max(choices.sizes)]
        found = list(trials(net, tried, choices, states=tour.states, budget=_TRYING * forwards))
        if choices.settled or not found:  # too little work to try anything
            found = [Trial(choices.sizes[0], choices.formats[0], float("nan"), bytes_per_sample(net, tour.states))]
        chosen = found[0] if len(found) == 1 else best(found)
        rows = [asdict(trial) for trial in [chosen, *(trial for trial in found if trial is not chosen)]]
        return pd.DataFrame(rows)

    return place.piece({"work": "batch size and memory format"}, choose)[0]
