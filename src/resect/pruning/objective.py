"""What searches minimise: how far the network is off without some units, on the calibration samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from math import fsum
from typing import Any, TypeVar

import numpy as np

from resect.engines.work import Engine, Progress
from resect.errors import InputError
from resect.measuring.batches import Batch
from resect.network.unraveled import Unraveled
from resect.pruning.groups import Group, without
from resect.pruning.metered import Metered
from resect.pruning.settings import OBJECTIVES
from resect.sweep import plans
from resect.sweep.lesion import lesion
from resect.sweep.settings import LesionSettings

Scored = TypeVar("Scored")
Removed = frozenset[int]
"""Some of the units, by number: those that are removed."""

Worth = Callable[[np.ndarray, Sequence[Removed]], np.ndarray]
"""(harms (sets,), sets) -> (sets,) what they are ranked by, never falling where a harm grows."""


@dataclass(frozen=True)
class Objective:
    """The mean of a metric over the calibration samples; every set of units is measured once on a batch.

    Sets that are asked for together share the states of common prefixes, as all lesions of one sweep do.

    Attributes:
        batches: the calibration samples.
        metric: one of OBJECTIVES.
    """

    net: Unraveled
    groups: tuple[Group, ...]
    batches: Sequence[Batch]
    metric: str
    engine: Engine
    progress: Progress | None = None
    _sums: dict[Removed, list[float]] = field(default_factory=dict, repr=False)  # over the first batches, one by one
    _scores: dict[str, tuple[Any, float]] = field(default_factory=dict, repr=False)  # and the passes of each

    def __post_init__(self) -> None:
        known = [metric for metric in OBJECTIVES if metric in self.batches[0].task.metrics]
        if self.metric not in known:
            task = self.batches[0].task.name
            raise InputError(f"`objective` of the task {task} must be of {', '.join(known)}, got {self.metric!r}.")

    def __call__(self, sets: Iterable[Iterable[int]], *, few: bool = False) -> np.ndarray:
        """(sets,) the metric's mean without the units of each set.

        Args:
            few: on the first batch alone, where there are several.
        """
        wanted, number = [frozenset(removed) for removed in sets], 1 if few else len(self._counted)
        return self._summed(wanted, number) / sum(self._weights[:number])

    def least(self, sets: Sequence[Removed], count: int, worth: Worth = lambda harms, _: harms) -> list[int]:
        """The positions of the sets of the least worth, the first of equals first; those are measured on all samples.

        The others are measured only until it is certain that they are not among them: what is summed up over some
        batches is no more than over all, as no sample's value is negative, and what ranks behind `count` sets that were
        measured to the end is left. The result is that of measuring all to the end.
        """
        batches, left = len(self._counted), list(range(len(sets)))
        if self._never_negative and len(sets) > count:
            total = sum(self._weights)
            for number in range(1, batches):
                some = [sets[i] for i in left]
                bounds = worth(self._summed(some, number) / total, some)
                if number == 1:
                    ahead = [some[i] for i in np.argsort(bounds, kind="stable")[:count]]
                    ahead += [removed for removed in some if removed not in ahead and self._knows(removed)]
                    limit = np.sort(worth(self(ahead), ahead))[count - 1]
                left = [i for i, bound in zip(left, bounds, strict=True) if not bound > limit]
        some = [sets[i] for i in left]
        return [left[i] for i in np.argsort(worth(self(some), some), kind="stable")[:count]]

    def scored(self, name: str, score: Callable[[Unraveled, Sequence[Batch], Engine], Scored]) -> Scored:
        """What a score says of the blocks on the calibration samples; it looks once, and its passes are counted."""
        if name not in self._scores:
            meter = Metered(self.engine)
            value = score(self.net, self.batches, meter)
            self._scores[name] = value, meter.runs / sum(map(len, self.batches))
        known: Scored = self._scores[name][0]
        return known

    @property
    def passes(self) -> int:
        """How often the calibration samples went through the network for scores, forward or back."""
        return round(sum(passes for _, passes in self._scores.values()))

    @property
    def seen(self) -> tuple[Removed, ...]:
        """The sets that were measured on some samples or all."""
        return tuple(self._sums)

    @property
    def measured(self) -> int:
        """How many sets were measured on all samples."""
        return sum(map(self._knows, self._sums))

    def _knows(self, removed: Removed) -> bool:
        """Whether a set was measured on all samples."""
        return len(self._sums.get(removed, ())) == len(self._counted)

    @cached_property
    def _counted(self) -> list[Batch]:
        """The batches with targets that count."""
        return [batch for batch in self.batches if batch.task.weights(batch.targets).any()]

    @cached_property
    def _weights(self) -> list[float]:
        return [float(batch.task.weights(batch.targets).double().sum()) for batch in self._counted]

    @property
    def _never_negative(self) -> bool:
        """Whether no sample's value can be negative: divergences, and errors and losses of tasks that have a name, but
        for InfoNCE, a difference that may be rounded below 0.
        """  # fmt: skip
        task = self.batches[0].task
        return self.metric == "kl" or (task.kind is not None and not task.whole)

    def _summed(self, sets: Sequence[Removed], number: int) -> np.ndarray:
        """(sets,) the sum of the metric over the counted samples of the first batches."""
        known = {removed: len(self._sums.get(removed, ())) for removed in sets}
        unknown = sorted((removed for removed in known if known[removed] < number), key=lambda s: known[s])
        for first, some in groupby(unknown, key=lambda removed: known[removed]):
            self._measure(list(some), self._counted[first:number])
        # fsum is rounded once, so that it never falls when more is added
        return np.array([fsum(self._sums[removed][:number]) for removed in sets])

    def _measure(self, sets: Sequence[Removed], batches: Sequence[Batch]) -> None:
        """Add the sums over the next batches."""
        plan = plans.explicit(self.net, [without(self.net, self.groups, removed) for removed in sets])
        settings = LesionSettings(self.metric)
        result = lesion(self.net, batches, plan, settings, progress=self.progress, engine=self.engine)
        start = 0
        for batch in batches:
            part = result.on(slice(start, start := start + len(batch)))
            for removed, mean in zip(sets, part.means(self.metric), strict=True):
                self._sums.setdefault(removed, []).append(float(mean * part.weights.sum(dtype=np.float64)))
