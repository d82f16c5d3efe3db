"""Norms along paths that were drawn at random, and their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from resect.engines.work import Arrays
from resect.figures.shown import Shown
from resect.graph.routes import Counts
from resect.measuring.results import require_alike
from resect.paths.measures import column_intervals
from resect.words import plural, power_of_ten


@dataclass(frozen=True, repr=False)
class Draws(Shown):
    """N rows (samples), R draws, lengths 0 to n.

    Attributes:
        counts: exact numbers of paths and of their layers.
        norms: (N, R, n+1) float64; NaN for lengths of which nothing was drawn, and at the end of batches for which
            fewer draws were enough. The samples of a batch see the same draws; lengths of one draw are not independent
            of each other, but different draws are.
        batch: (N,) the batch that each row was in.
        at: where the gradient is measured, see `PathSpectrum`.
    """

    counts: Counts
    norms: np.ndarray
    batch: np.ndarray
    at: str

    @classmethod
    def of_batches(cls, runs: Iterable[Arrays], counts: Counts, at: str) -> Self:
        """What was drawn on one batch after the other."""
        norms = [arrays["norms"] for arrays in runs]
        batch = np.repeat(np.arange(len(norms)), [len(own) for own in norms])
        return cls(counts, of_one_length(norms), batch, at)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The draws of several results, each of batches of its own, as one; InputError if they do not fit."""
        require_alike(parts, "counts", "at")
        batches: list[np.ndarray] = []
        for part in parts:
            _, own = np.unique(part.batch, return_inverse=True)
            batches.append(own + (batches[-1].max() + 1 if batches else 0))
        norms = of_one_length([part.norms for part in parts])
        return cls(parts[0].counts, norms, np.concatenate(batches), parts[0].at)

    @property
    def draws(self) -> int:
        """How often was drawn, over all batches."""
        return sum(len(means) for means in self.by_batch(self.norms)[0])

    def by_batch(self, values: np.ndarray) -> tuple[list[np.ndarray], list[int]]:
        """Of values (N, R, n+1) the means over the samples of each batch, (draws, n+1); and how many samples it has."""
        batches = drawn_by_batch(values, self.batch)
        return [own.mean(0) for own in batches], [len(own) for own in batches]

    def by_draw(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means over the samples of a batch, (draws, n+1), of values (N, R, n+1); and what each weighs."""
        means, sizes = self.by_batch(values)
        most = max(map(len, means))
        weights = [np.full(len(own), size * most / len(own)) for own, size in zip(means, sizes, strict=True)]
        return np.concatenate(means), np.concatenate(weights)

    def interval(self, values: np.ndarray, level: float, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), (n+1,) each, of the mean of values (N, R, n+1) over draws.

        NaN where there is nothing drawn, or all draws are alike; of a length with one path, which every draw finds,
        both ends are the mean.
        """
        only = np.array(self.counts.paths) == 1
        return column_intervals(*self.by_draw(values), level, resamples, seed, exact=only)

    def _sentence(self, opening: str, norm: np.ndarray, whose: str, *more: str) -> str:
        """What was drawn, on how many gradients, and how strong the shortest and the longest path are.

        Args:
            norm: (n+1,) by length; NaN where it is not known.
        """
        known = np.flatnonzero(norm > 0)
        ends = dict.fromkeys([*known[:1], *known[-1:]])
        strength = " and ".join(f"{power_of_ten(float(norm[k]))} at length {k}" for k in ends) or "zero"
        said = "; ".join([f"{whose} is {strength}", *more])
        return f"{opening}, of {plural(len(self.norms), 'gradient')} at {self.at}: {said}."


def drawn_by_batch(values: np.ndarray, batch: np.ndarray) -> list[np.ndarray]:
    """Values (N, R, ...) of each batch, as far as it was drawn; all of them if they are NaN from the first draw on."""
    return [own[:, _drawn(own[0])] for own in (values[batch == number] for number in np.unique(batch))]


def _drawn(values: np.ndarray) -> np.ndarray:
    """(R,) booleans: which draws were made of a batch, whose values (R, ...) otherwise are NaN; all if none has any."""
    some = ~np.isnan(values).reshape(len(values), -1).all(1)
    return np.asarray(some | ~some.any())


def of_one_length(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays (rows, draws, ...) below each other, with NaN behind the draws of those that have fewer."""
    most = max(part.shape[1] for part in parts)
    ends = [[(0, 0), (0, most - part.shape[1]), *[(0, 0)] * (part.ndim - 2)] for part in parts]
    return np.concatenate([np.pad(p, end, constant_values=np.nan) for p, end in zip(parts, ends, strict=True)])
