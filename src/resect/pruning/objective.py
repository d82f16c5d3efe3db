"""What searches minimise: how far the network is off without some units, on the calibration samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from resect.engines.work import Engine, Progress
from resect.errors import InputError
from resect.measuring.batches import Batch
from resect.network.unraveled import Unraveled
from resect.pruning.groups import Group, without
from resect.pruning.settings import OBJECTIVES
from resect.sweep import plans
from resect.sweep.lesion import lesion
from resect.sweep.settings import LesionSettings

Removed = frozenset[int]
"""Some of the units, by number: those that are removed."""


@dataclass(frozen=True)
class Objective:
    """The mean of a metric over the calibration samples; every set of units is measured once.

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
    _known: dict[tuple[Removed, bool], float] = field(default_factory=dict, repr=False)

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
        few = few and len(self.batches) > 1
        wanted = [frozenset(removed) for removed in sets]
        new = [removed for removed in dict.fromkeys(wanted) if (removed, few) not in self._known]
        if new:
            plan = plans.explicit(self.net, [without(self.net, self.groups, removed) for removed in new])
            batches = self.batches[:1] if few else self.batches
            settings = LesionSettings(self.metric)
            result = lesion(self.net, batches, plan, settings, progress=self.progress, engine=self.engine)
            values = map(float, result.means(self.metric))
            self._known.update(zip([(removed, few) for removed in new], values, strict=True))
        return np.array([self._known[removed, few] for removed in wanted])

    def known(self, wanted: Callable[[Removed], bool]) -> list[tuple[Removed, float]]:
        """The sets that were measured on all samples, of those that are wanted, with their harm, least harm first."""
        whole = [(removed, value) for (removed, few), value in self._known.items() if not few and wanted(removed)]
        return sorted(whole, key=lambda pair: pair[1])

    @property
    def measured(self) -> int:
        """How many sets were measured on all samples."""
        return sum(not few for _, few in self._known)
