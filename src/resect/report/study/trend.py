"""Whether the error follows the effective number of paths, as far as the samples, and the seeds, can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resect.jobs.findings import Answers, MultiplicityRow, Step
from resect.words import decimal, large, percent, points, span

_PATHS = "the effective number of paths"


@dataclass(frozen=True)
class _Network:
    """One network of the comparison, or the mean of several that differ in the seed alone."""

    name: str
    error: float
    log2_paths: float
    parameters: int
    trainings: int

    @classmethod
    def of(cls, rows: Sequence[MultiplicityRow]) -> _Network:
        error, paths = (
            float(np.mean([getattr(row, name) for row in rows])) for name in ("error", "log2_effective_paths")
        )
        return cls(rows[0].model, error, paths, rows[0].parameters, len(rows))


def trend(answers: Answers) -> str:
    """Whether the error falls or rises as multiplicity grows, and whether size grows along with it; for two networks
    only how they differ. Nothing is claimed that paired intervals do not show."""
    rows, steps = answers.multiplicity, answers.trend
    if not steps:
        why = "the study does not hold paired intervals of their errors"
        if steps is not None:
            why = "they differ in the seed of their training alone"
        return f"What multiplicity does cannot be told from these {len(rows)} networks: {why}."
    ordered = [_Network.of([rows[i] for i in places]) for places in (steps[0].fewer, *(step.more for step in steps))]
    if len(steps) == 1:
        return _two(ordered[0], ordered[1], steps[0])
    unclear = [i for i, step in enumerate(steps) if not (_sure(step.error) and _sure(step.paths))]
    among = f"Among these {len(ordered)} networks"
    if unclear:
        return f"{among} the data cannot tell whether the error follows {_PATHS}: {_unclear(ordered, steps, unclear)}."
    signs = {step.error[0] > 0 for step in steps}
    if len(signs) > 1:
        return f"{among} the error does not follow {_PATHS}: it both rises and falls as that grows."
    kind = f"{among} the error {'rises' if signs.pop() else 'falls'} as {_PATHS} (an upper bound) grows"
    kind += ", each step beyond the 95 % intervals"
    if max(network.trainings for network in ordered) == 1:
        kind += " over images, with one training each, beside which other seeds may differ as much"
    sizes = np.diff([network.parameters for network in ordered])
    if not sizes.any():
        return f"{kind}, at equal numbers of parameters."
    if (sizes >= 0).all():
        along = "grow along with it" if (sizes > 0).all() else "never fall as it grows"
        return f"{kind}; the parameters {along}, so that this alone does not tell the two apart."
    return f"{kind}, though the parameters do not grow in the same order."


def _sure(change: tuple[float, float, float]) -> bool:
    """Whether an interval lies on one side of 0."""
    _, low, high = change
    return bool(low > 0 or high < 0)


def _unclear(ordered: Sequence[_Network], steps: Sequence[Step], which: Sequence[int]) -> str:
    """The first step that cannot be told, and how many more there are."""
    first, error = which[0], steps[which[0]].error
    what = "number of paths" if _sure(error) else f"error{_interval(error)}"
    names = f"{ordered[first].name} and {ordered[first + 1].name}"
    more = f", and {len(which) - 1} more of the {len(steps)} steps" if len(which) > 1 else ""
    return f"{names} cannot be told apart by their {what}{more}"


def _interval(change: tuple[float, float, float]) -> str:
    value, low, high = change
    if not np.isfinite(low + high):
        return f" ({points(value)}, no interval)"
    return f" ({points(value)}, {decimal(low * 100, 1)} to {decimal(high * 100, 1)})"


def _two(fewer: _Network, more: _Network, step: Step) -> str:
    times = large(more.log2_paths - fewer.log2_paths)
    bound = "as many effective paths as" if times == "1" else f"{times} times the effective paths of"
    told = "" if _sure(step.error) else ", which may be chance"
    trainings = [network.trainings for network in (fewer, more)]
    seeds = "" if max(trainings) == 1 else f", over {span(min(trainings), max(trainings))} trainings each"
    return (
        f"By the upper bounds {more.name} has {bound} {fewer.name}; it errs on {percent(more.error)} against "
        f"{percent(fewer.error)}{_interval(step.error)}{seeds}{told}; two networks show no trend."
    )
