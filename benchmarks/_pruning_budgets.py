"""Methods of depth pruning at equal budgets on one network: what each removes, what that costs, and who is better."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from _pruning_networks import Subject

import resect
from resect.digest import fingerprint
from resect.engines.local import LOCAL, Local
from resect.engines.work import Arrays, Engine
from resect.errors import InputError
from resect.measuring.statistics import bootstrap_interval, paired_error_interval
from resect.measuring.timing import synchronise
from resect.pruning.groups import groups_of, without
from resect.pruning.hardest import hardest_first
from resect.pruning.latency import ratio_of_quartiles
from resect.pruning.objective import Objective
from resect.pruning.problem import Problem
from resect.pruning.prune import SEARCHES
from resect.pruning.refit import Refit, refit, with_tensors
from resect.pruning.rerun import Rerun
from resect.runs.folder import RunFolder
from resect.sweep.lesion import LesionResult, lesion

Row = dict[str, Any]
RANDOM, OURS, REFITTED = "random", "exchange", ", refitted"
OTHERS: dict[str, dict[str, Any]] = {
    "Block Influence (ShortGPT)": {"search": "one-shot", "score": "block_influence"},
    "angular window (Gromov)": {"search": "window"},
    "greedy by loss (SLEB)": {"search": "greedy", "objective": "loss"},
    "evolution (EvoPress)": {"search": "evolution"},
}
OWN: dict[str, dict[str, Any]] = {name: {"search": name} for name in ("one-shot", "greedy", "beam", "pairwise", OURS)}
_DRAWS = 5  # random sets of a size, whose mean is told
_PAIRS = 21  # of passes that are timed


@dataclass(frozen=True)
class Found:
    """What a method removes at every budget, and the seconds of the processor that its search took for all of them."""

    removed: dict[int, list[list[int]]]
    seconds: float


def compared(name: str, subject: Subject, kept: Path | None, quick: bool) -> list[Row]:
    """A row a method and budget, and a row of the same network refitted on the samples that choose.

    `error` and `loss`: on the samples that judge, of random sets the mean; `beside_intact`, `beside_ours`,
    `beside_refitted`: how much larger the subject's metric is than that of the intact network, than ours and than ours
    refitted, with paired 95 % intervals; `latency`: what stays of it, with its interval, of random sets of the first;
    `search_s`: of all budgets together; `strength`, `refit_s`: of the fit.
    """
    net, groups, metric = subject.net, groups_of(subject.net, "block"), subject.metric
    found = {
        method: _kept(kept and kept / f"{method}.json", partial(found_by, subject, method, quick))
        for method in (RANDOM, *OTHERS, *OWN)
    }
    every = list(dict.fromkeys(tuple(s) for one in found.values() for sets in one.removed.values() for s in sets))
    plan = resect.plans.explicit(net, [without(net, groups, removed) for removed in every])
    engine = Local(RunFolder(kept / "judged", "benchmark", {"pruning": name})) if kept else LOCAL
    judged, rows = lesion(net, subject.judges, plan, engine=engine), []
    places = {
        (m, k): [every.index(tuple(s)) for s in sets] for m, one in found.items() for k, sets in one.removed.items()
    }
    fits: dict[tuple[str, int], Fitted] = {}
    values = {which: [judged.values[which]] for which in ("error", "loss")}
    for method, budget in [key for key in places if key[0] in (OURS, *OTHERS)]:
        own = fitted_by(subject, plan.arrangements[places[method, budget][0]], engine)
        fits[method + REFITTED, budget] = own
        places[method + REFITTED, budget] = [len(every) + len(fits) - 1]
        for which, parts in values.items():
            parts.append(own.outcomes[which][None])
    judged = replace(judged, values={which: np.concatenate(parts) for which, parts in values.items()})
    for budget, method in product(subject.budgets, [*found, *(f"{m}{REFITTED}" for m in (*OTHERS, OURS))]):
        if (method, budget) not in places:
            continue
        which, ours, fit = places[method, budget], places[OURS, budget], fits.get((method, budget))
        cut = method.removesuffix(REFITTED)
        rows.append(
            {
                "network": name,
                "blocks": len(groups),
                "budget": budget,
                "method": method,
                "removed": found[cut].removed[budget],
                "metric": metric,
                "intact": judged.intact_mean(metric),
                **{other: float(judged.means(other)[which].mean()) for other in ("error", "loss")},
                "beside_intact": _change(judged, metric, which, None),
                "beside_ours": _change(judged, metric, which, ours),
                "beside_refitted": _change(judged, metric, which, places[OURS + REFITTED, budget]),
                "latency": _latency(subject, plan.arrangements[places[cut, budget][0]], engine),
                "search_s": found[cut].seconds,
                **({"strength": fit.strength, "refit_s": fit.seconds} if fit else {}),
                "calibration": sum(map(len, subject.chooses)),
                "samples": judged.samples,
            }
        )
    return rows


@dataclass(frozen=True)
class Fitted:
    """A network that was refitted: its outcomes on the samples that judge, the ridge, and the seconds of the fit."""

    outcomes: Arrays
    strength: float | None
    seconds: float


def fitted_by(subject: Subject, arrangement: resect.Arrangement, engine: Engine) -> Fitted:
    """Refit on the samples that choose, and measure on those that judge; of a single batch nothing can be held back, so
    that nothing is fitted."""
    net, start = subject.net, time.process_time()
    fit = refit(net, arrangement, subject.chooses) if len(subject.chooses) > 1 else Refit({}, None, {})
    seconds = time.process_time() - start
    module = with_tensors(net.standalone(arrangement), fit.tensors)
    rerun = Rerun(module, f"{arrangement} {fingerprint(module)}")
    return Fitted(rerun.outcomes(net, subject.judges, engine), fit.strength, seconds)


def _latency(subject: Subject, arrangement: Any, engine: Engine) -> list[float]:
    """What stays of the seconds of the processor of a pass of one sample, with its interval, timed in turn.

    Other work on the machine lengthens seconds of the clock, and the longer pass more than the shorter one.
    """
    net = subject.net
    inputs = net.part_of(subject.chooses[0].inputs, slice(1))

    def timed() -> dict[str, np.ndarray]:
        calls = [net.bound(inputs, one) for one in (net.intact, arrangement)]
        pairs = np.empty((_PAIRS, 2))
        with torch.no_grad():
            for call in calls * 3:
                call()
            for pair, place in product(range(_PAIRS), range(2)):
                which = (place + pair) % 2
                start = _now(net)
                calls[which]()
                pairs[pair, which] = _now(net) - start
        return {"seconds": pairs}

    key = {"what": "seconds of the processor", "arrangement": str(arrangement), "pairs": _PAIRS}
    return list(ratio_of_quartiles(engine.once(net, key, timed)["seconds"]))


def _now(net: resect.Unraveled) -> float:
    """Seconds of the processor, or of the clock where a GPU, which nobody else works on, has done what it was told."""
    if net.device.type != "cuda":
        return time.process_time()
    synchronise(net.device)
    return time.perf_counter()


def found_by(subject: Subject, method: str, quick: bool) -> Found:
    """The sets of a method; quickly: evolution is short."""
    if method == RANDOM:
        draw, blocks = Random(0), range(len(subject.net.blocks))
        return Found({k: [sorted(draw.sample(blocks, k)) for _ in range(_DRAWS)] for k in subject.budgets}, 0.0)
    own, net = {**OTHERS, **OWN}[method], subject.net
    settings = resect.PruneSettings(**own, **({"generations": 4, "offspring": 16} if quick else {}))
    start = time.process_time()
    chooses = hardest_first(net, subject.chooses, LOCAL) if method in OWN else subject.chooses
    objective = Objective(net, groups_of(net, "block"), chooses, settings.objective or "kl", LOCAL)

    def searched(levels: Sequence[int]) -> dict[int, list[list[int]]]:
        problem = Problem(objective, np.ones(len(net.blocks)), tuple(map(float, levels)), settings)
        choices = SEARCHES[settings.search](problem)
        return {k: [sorted(choice.removed)] for k, choice in zip(levels, choices, strict=True)}

    if settings.search != "window":
        return Found(searched(subject.budgets), time.process_time() - start)
    removed: dict[int, list[list[int]]] = {}
    for k in subject.budgets:
        with suppress(InputError):  # no stretch of one shape is so long
            removed |= searched([k])
    return Found(removed, time.process_time() - start)


def _kept(file: Path | None, compute: Callable[[], Found]) -> Found:
    """What an earlier run found, or what is found now."""
    if file is not None and file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        return Found({int(k): sets for k, sets in kept["removed"].items()}, kept["seconds"])
    found = compute()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"removed": found.removed, "seconds": found.seconds}), encoding="utf-8")
    return found


def _change(judged: LesionResult, metric: str, which: list[int], ours: list[int] | None) -> list[float]:
    """How much more the mean over some lesions is than over ours, or without lesions, and its 95 % interval, paired.

    Score intervals of one lesion's rate where every sample is one outcome, else by bootstrap.
    """
    some, values = judged.weights > 0, judged.values[metric].astype(np.float64)
    beside = judged.intact[metric] if ours is None else values[ours].mean(0)
    differences, weights = (values[which].mean(0) - beside)[some], judged.weights[some]
    mean = float(np.average(differences, weights=weights))
    if not differences.any():
        return [mean, 0.0, 0.0]
    if len(which) == 1 and metric == "error" and (weights == 1).all():
        ends = paired_error_interval([(differences > 0).sum()], [(differences < 0).sum()], len(differences))
    else:
        ends = bootstrap_interval(differences[None], None if (weights == 1).all() else weights)
    return [mean, *(float(end[0]) for end in ends)]


def told(rows: Iterable[Row]) -> list[Row]:
    """Two lines a budget of a network: the value of every method, its difference from ours, latency, seconds of search;
    and of the same networks refitted, their difference from ours refitted, and seconds of the fit."""
    lines: dict[tuple[str, int, bool], Row] = {}
    for row in rows:
        fit = row["method"].endswith(REFITTED)
        scale, what, digits = (100, "error, %", 2) if row["metric"] == "error" else (1, "loss, nats", 4)
        case = f"{row['network']}, {row['budget']} of {row['blocks']} blocks{REFITTED * fit}, {what}"
        start = {"case": case, "intact": f"{row['intact'] * scale:.{digits}f}"}
        change, low, high = (
            f"{value * scale:+.{digits}f}" for value in row["beside_refitted" if fit else "beside_ours"]
        )
        method = row["method"].removesuffix(REFITTED)
        beside = "" if method == OURS else f" ({change} [{low}, {high}])"
        costs = f"{row['refit_s']:.1f} s" if fit else f"latency {row['latency'][0]:.2f}, {row['search_s']:.0f} s"
        line = lines.setdefault((row["network"], row["budget"], fit), start)
        line[method] = f"{row[row['metric']] * scale:.{digits}f}{beside}, {costs}"
    return list(lines.values())


def judgement(rows: Sequence[Row]) -> list[Row]:
    """Ours beside each of the others, and beside the best of them at every budget, which is chosen when all is known:
    as they were cut, ours refitted beside them, and all of them refitted.

    The criterion: never significantly worse than the best, and better than it at half of the budgets.
    """
    each = [
        _counted(f"ours beside {method}", [row for row in rows if row["method"] == method], "beside_ours")
        for method in (RANDOM, *OTHERS)
    ]
    cut, fit = (RANDOM, *OTHERS), tuple(method + REFITTED for method in OTHERS)
    return [
        *each,
        _beside_best("ours beside the best of the others", rows, cut, "beside_ours"),
        _beside_best("ours, refitted, beside the best of the others, refitted", rows, fit, "beside_refitted"),
        _beside_best("ours, refitted, beside the best of the others", rows, cut, "beside_refitted"),
    ]


def _beside_best(case: str, rows: Sequence[Row], methods: Sequence[str], beside: str) -> Row:
    """Ours beside the best of some methods at every budget."""
    points: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row["method"] in methods:
            points.setdefault((row["network"], row["budget"]), []).append(row)
    best = [min(others, key=lambda row: float(row[row["metric"]])) for others in points.values()]
    last = _counted(case, best, beside)
    met = not last["significantly worse"] and 2 * last["better"] >= last["budgets"]
    return {**last, "criterion": "met" if met else "not met"}


def _counted(case: str, rows: Sequence[Row], beside: str) -> Row:
    """At how many budgets ours is better or worse than these."""
    changes = [row[beside] for row in rows]
    return {
        "case": case,
        "budgets": len(rows),
        "better": sum(change > 0 for change, _, _ in changes),
        "significantly better": sum(low > 0 for _, low, _ in changes),
        "equal": sum(change == 0 for change, _, _ in changes),
        "worse": sum(change < 0 for change, _, _ in changes),
        "significantly worse": sum(high < 0 for _, _, high in changes),
    }
