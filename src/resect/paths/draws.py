"""Norms along paths that were drawn at random, and their intervals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from resect.graph.routes import Counts
from resect.measuring.results import Shown, require_alike
from resect.measuring.statistics import bootstrap_interval


@dataclass(frozen=True)
class Draws(Shown, ABC):
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

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The draws of several results, each of batches of its own, as one; InputError if they do not fit."""
        require_alike(parts, "counts", "at")
        batches: list[np.ndarray] = []
        for part in parts:
            _, own = np.unique(part.batch, return_inverse=True)
            batches.append(own + (batches[-1].max() + 1 if batches else 0))
        return cls(
            parts[0].counts, np.concatenate([part.norms for part in parts]), np.concatenate(batches), parts[0].at
        )

    @property
    @abstractmethod
    def table(self) -> pd.DataFrame:
        """One row a length."""

    @abstractmethod
    def summary(self) -> str:
        """What was drawn and what it says."""

    @property
    def draws(self) -> int:
        """How often was drawn, over all batches."""
        return int(self.norms.shape[1]) * len(np.unique(self.batch))

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
