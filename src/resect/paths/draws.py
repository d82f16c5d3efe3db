"""Norms along paths that were drawn at random, and their intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from resect.graph.routes import Counts
from resect.measuring.statistics import bootstrap_interval
from resect.paths.trace import Trace


@dataclass(frozen=True)
class Drawn:
    """N rows (samples), R draws, lengths 0 to n.

    Attributes:
        counts: exact numbers of paths and of their layers.
        norms: (N, R, n+1) float64; NaN for lengths of which nothing was drawn. The samples of a batch see the same
            draws; lengths of one draw are not independent of each other, but different draws are.
        batch: (N,) the batch that each row was in.
        at: where the gradient is measured.
    """

    counts: Counts
    norms: np.ndarray
    batch: np.ndarray
    at: str

    def by_draw(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means over the samples of a batch, (draws, n+1), of values (N, R, n+1); and how many samples each holds."""
        batches = np.unique(self.batch)
        means = [values[self.batch == b].mean(0) for b in batches]
        sizes = [np.full(values.shape[1], (self.batch == b).sum()) for b in batches]
        return np.concatenate(means), np.concatenate(sizes).astype(float)

    def interval(self, values: np.ndarray, level: float, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), (n+1,) each, of the mean of values (N, R, n+1) over draws; NaN where there is nothing drawn."""
        means, weights = self.by_draw(values)
        low, high = np.full((2, means.shape[1]), np.nan)
        known = np.isfinite(means).all(0)
        if known.any() and len(means) > 1:
            low[known], high[known] = bootstrap_interval(means[:, known].T, weights, level, resamples, seed)
        return low, high


def collect(
    traces: Iterable[Trace], draws: int, lengths: int, norms_of: Callable[[Trace], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The norms (N, draws, lengths) and batches (N,) of all traces.

    Args:
        norms_of: gives those of one trace, (rows, draws, lengths), NaN for lengths of which nothing is drawn.
    """
    norms, batches = [np.empty((0, draws, lengths))], [np.empty(0, dtype=int)]
    for number, trace in enumerate(traces):
        norms.append(norms_of(trace))
        batches.append(np.full(trace.rows, number))
    return np.concatenate(norms), np.concatenate(batches)
