"""What a search is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from resect.pruning.objective import Objective, Removed
from resect.pruning.settings import PruneSettings

_SLACK = 1e-9  # of sums of prices


@dataclass(frozen=True)
class Problem:
    """Units to remove until enough is saved, at the least harm.

    Attributes:
        objective: the harm.
        prices: (units,) what the removal of each saves; nothing is gained by removing those at 0 or below, and those
            at minus infinity have to stay.
        levels: what is to be saved, rising; the last is what the user asked for.
    """

    objective: Objective
    prices: np.ndarray
    levels: tuple[float, ...]
    settings: PruneSettings

    @property
    def candidates(self) -> list[int]:
        """The units whose removal saves something."""
        return [int(i) for i in np.flatnonzero(self.prices > 0)]

    @property
    def largest(self) -> list[int]:
        """As many of them as can go, the cheapest first: all, or where these hold all blocks, all but the cheapest."""
        some = sorted(self.candidates, key=lambda i: self.prices[i])
        return some[1:] if self.empties(some) else some

    def empties(self, removed: Iterable[int]) -> bool:
        """Whether no block is left without some units."""
        groups = self.objective.groups
        return len({block for i in removed for block in groups[i].blocks}) == len(self.objective.net.blocks)

    def saved(self, removed: Iterable[int]) -> float:
        """What the removal of some units saves."""
        return float(self.prices[list(removed)].sum())

    def meets(self, removed: Iterable[int], level: float) -> bool:
        """Whether so much is saved."""
        return self.saved(removed) >= level - _SLACK

    def just_meets(self, removed: Collection[int], level: float) -> bool:
        """Whether so much is saved, but not without the least of the units."""
        least = float(self.prices[list(removed)].min(initial=np.inf))
        return self.meets(removed, level) and self.saved(removed) - least < level - _SLACK

    def price_of_harm(self, values: np.ndarray, sets: Sequence[Iterable[int]]) -> np.ndarray:
        """The harm of sets for what each saves: less is better; where all units have one price, as by harm alone."""
        saved = np.array([self.saved(removed) for removed in sets])
        return np.asarray(np.where(values > 0, values / saved, values * saved))

    def minimal(self, level: float) -> Iterator[tuple[int, ...]]:
        """All sets that save so much, but not without the least of their units."""
        for size in self._sizes(level):
            for chosen in combinations(self.candidates, size):
                if self.just_meets(chosen, level):
                    yield chosen

    def fewer_than(self, level: float, most: int) -> bool:
        """Whether so few sets have the sizes of those that are `minimal`."""
        return sum(comb(len(self.candidates), size) for size in self._sizes(level)) <= most

    def _sizes(self, level: float) -> range:
        """How many units save so much: at least of the dearest, at most of the cheapest."""
        prices = np.sort(self.prices[self.candidates])
        fewest, most = (int((np.cumsum(order) < level - _SLACK).sum()) + 1 for order in (prices[::-1], prices))
        return range(fewest, min(most, len(prices)) + 1)


@dataclass(frozen=True)
class Choice:
    """The units that a search removes to reach a level, and the harm on the calibration samples."""

    removed: Removed
    value: float
