"""The root mean square of all paths of every length, from random signs.

Give every branch an independent random sign s_i; where it, or a skip, reads several states, every one of these. The
coefficient C_k of the path polynomial becomes the sum over the paths S of length k of s_S g_S, where s_S is the product
of the signs on S; as E[s_S s_T] is 0 unless S = T, the expectation of |C_k|^2 is the sum of |g_S|^2 over all C(n, k)
paths. One sweep serves all lengths at once.
Source: Hutchinson's estimator (1990) of a trace, with the signs on the branches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine, Progress
from resect.errors import InputError, require_whole
from resect.measuring.batches import AnyTask, Batch, Batches, batches_of
from resect.network.unraveled import Unraveled
from resect.paths.certainty import drawn_until, relative_errors, said, worst_error
from resect.paths.draws import Draws
from resect.paths.measures import MASS, Effective, effective_range, held, longest_path, rms_of, weighted_by_count
from resect.paths.polynomial import at_target, decompose
from resect.paths.sampled import row_norms
from resect.paths.settings import PathSettings, PathWork, Traces, concatenated
from resect.paths.signs import Signs
from resect.paths.spectrum import PathSpectrum
from resect.paths.trace import Trace
from resect.words import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class PathSquares(Draws):
    """Sums of squares over all paths of each length, estimated by R sweeps.

    `norms` (N, R, n+1) are |C_k| under the signs of each sweep; their mean square estimates without bias the sum of the
    squared norms of all paths of length k.
    """

    @property
    def total(self) -> np.ndarray:
        """(n+1,) mean over samples of the sum of squared norms over all paths of a length."""
        return np.asarray(self.own_total.mean(0))

    @property
    def own_total(self) -> np.ndarray:
        """(N, n+1) every sample's own estimate of it."""
        return np.asarray(np.nanmean(np.square(self.norms), 1))

    @property
    def rms(self) -> np.ndarray:
        """(n+1,) root mean square norm of a single path, over all paths and samples; NaN where there is none."""
        return rms_of(self.total, self.counts)

    def rms_interval(self, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), (n+1,) each: the interval of `rms` over sweeps, from that of its square."""
        scale = np.where(self.total > 0, self.total, np.nan)
        low, high = self.interval(np.square(self.norms) / scale, level, resamples, seed)
        return self.rms * np.sqrt(np.maximum(low, 0)), self.rms * np.sqrt(np.maximum(high, 0))

    @property
    def energy(self) -> np.ndarray:
        """(n+1,) the part of the sum of squared norms over all paths that those of each length hold."""
        return np.asarray(self.total / self.total.sum())

    def effective_energy(self, mass: float = 0.95) -> Effective:
        """The shortest range of lengths that holds `mass` of the energy: what the gradient would be of, if no path
        interfered with another."""
        return effective_range(self.energy, self.counts, mass)

    @property
    def variation(self) -> np.ndarray:
        """(n+1,) the coefficient of variation of one sweep's estimate of `total`; NaN where it is not known.

        Above 1 the mean of a few sweeps is likely too low: most of it comes from draws that are rare.
        """
        means, _ = self.by_batch(np.square(self.norms))
        if min(map(len, means)) < 2:
            return np.full(self.norms.shape[2], np.nan)
        spread = np.sqrt(np.mean([each.var(0, ddof=1) for each in means], 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(spread / np.mean([each.mean(0) for each in means], 0))

    @property
    def relative_error(self) -> np.ndarray:
        """(n+1,) one standard error of `total` as a part of it, that of `rms` twice; NaN below 3 sweeps a batch."""
        return relative_errors(*self.by_batch(np.square(self.norms)))

    @property
    def error(self) -> float:
        """The largest relative error of lengths that hold at least 1 % of the energy or of count × root mean square."""
        return worst_error(self.relative_error, self.total, self.counts)

    def coherence(self, spectrum: PathSpectrum) -> np.ndarray:
        """(n+1,) kappa: the squared norm of the summed gradient of a length over the sum of its paths' squared norms.

        1 if the paths of a length do not interfere on average; more if they reinforce each other, up to their number if
        all are equal; less if they cancel. Pooled over the samples that both were measured on, the first of each; NaN
        where there is no path.

        Raises:
            InputError: the spectrum is of another network or place.
        """
        summed, single = self._interfering(spectrum)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(summed.mean(0) / single.mean(0))

    def own_coherence(self, spectrum: PathSpectrum) -> np.ndarray:
        """(N, n+1) the same of every sample: its own, over the sum that this sample's sweeps estimate; NaN where that
        is zero."""
        summed, single = self._interfering(spectrum)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(single > 0, summed / single, np.nan))

    def coherence_table(self, spectrum: PathSpectrum) -> pd.DataFrame:
        """One row a length: `length`, `coherence`, pooled, and of the samples' own `coherence_median`, with the
        quartiles `coherence_lower` and `coherence_upper`."""
        own = self.own_coherence(spectrum)
        quartiles = np.full((3, own.shape[1]), np.nan)
        known = np.isfinite(own).any(0)
        quartiles[:, known] = np.nanquantile(own[:, known], [0.25, 0.5, 0.75], axis=0)
        names = ("coherence_lower", "coherence_median", "coherence_upper")
        columns = {"coherence": self.coherence(spectrum), **dict(zip(names, quartiles, strict=True))}
        return pd.DataFrame({"length": range(own.shape[1]), **columns})

    def _interfering(self, spectrum: PathSpectrum) -> tuple[np.ndarray, np.ndarray]:
        """The squared norms of sums of paths and the sums of squared norms, (rows, n+1) each, of the same samples."""
        if (spectrum.counts, spectrum.at) != (self.counts, self.at):
            raise InputError(f"`spectrum` must be of the same network and place, {self.at}, got one at {spectrum.at}.")
        rows = min(len(spectrum.norms), len(self.norms))
        return np.square(spectrum.norms[:rows]), self.own_total[:rows]

    @property
    def magnitude(self) -> np.ndarray:
        """(n+1,) count x root mean square norm, normalised to sum to 1 (as in the paper's Figure 6c)."""
        return weighted_by_count(self.rms, self.counts)

    def effective(self, mass: float = 0.95) -> Effective:
        """The shortest range of lengths that holds `mass` of count x root mean square."""
        return effective_range(self.magnitude, self.counts, mass)

    @property
    def table(self) -> pd.DataFrame:
        """One row a length: `length`, `rms` with interval, `rms_magnitude`, `energy`, `variation`, `relative_error`."""
        low, high = self.rms_interval()
        return pd.DataFrame(
            {
                "length": range(self.norms.shape[2]),
                "rms": self.rms,
                "rms_low": low,
                "rms_high": high,
                "rms_magnitude": self.magnitude,
                "energy": self.energy,
                "variation": self.variation,
                "relative_error": self.relative_error,
            }
        )

    def summary(self) -> str:
        """How many signs were drawn, how strong a path is, and which lengths carry the magnitude."""
        more = [held(self.effective(MASS), "count × root mean square")] if self.magnitude.sum() > 0 else []
        more.append(said(self.error))
        opening = f"{plural(self.draws, 'sweep')} of random signs"
        return self._sentence(opening, self.rms, "the root mean square norm of a single path", *more)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the root mean square norm of a single path of every length, with its interval; returns the axes."""
        from resect.figures import paths

        return paths.norms_log(self.table.rename(columns=lambda name: name.replace("rms", "path_norm_rms")), ax=ax)


def path_squares(
    net: Unraveled,
    data: Batches,
    settings: PathSettings | None = None,
    *,
    task: AnyTask = None,
    sweeps: int = 8,
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> PathSquares:
    """Estimate the root mean square norm of single paths, over all paths of every length at once.

    Args:
        net, data, task, progress, engine: as for `path_spectrum`.
        settings: also the seed; every batch has signs of its own, drawn by the seed and the batch's number; and the
            precision, for which up to 8 times as many are drawn, after the same first ones.
        sweeps: random signs a batch; each costs what `path_spectrum` does.

    Raises:
        InputError, DataError: as for `path_spectrum`.
    """
    require_whole("sweeps", sweeps)
    traces = Traces(net, settings, task)
    precision = traces.settings.precision
    own = {"sweeps": sweeps, "seed": traces.settings.seed, "precision": precision}
    work = PathWork("random signs", _sweep, traces.settings, own, sweeps)
    runs = engine.run(net, ((work, batch) for batch in batches_of(data, net, task)), progress)
    return PathSquares.of_batches(runs, traces.routes.counts, traces.at)


def _sweep(traces: Traces, batch: Batch, progress: Progress, sweeps: int, seed: int, precision: float | None) -> Arrays:
    """Norms (rows, sweeps, n+1); the signs are drawn for the whole batch, in however many parts it runs."""
    generator, counts = np.random.default_rng(seed + batch.number), traces.routes.counts
    blocks, longest = len(traces.net.blocks), longest_path(counts)

    def draw(many: int) -> Arrays:
        drawn, parts = [Signs.drawn(traces.routes, generator) for _ in range(many)], []
        for trace, advance in traces.of(batch, longest + 1, progress, truth=False):
            rows = np.zeros((trace.rows, many, blocks + 1))
            for sweep, signs in enumerate(drawn):
                rows[:, sweep, : longest + 1] = _norms(trace, longest, signs, advance).T
            parts.append((rows,))
        return concatenated(parts, "norms")

    def error(arrays: Arrays) -> float:
        means = np.square(arrays["norms"]).mean(0)
        return worst_error(relative_errors([means], [1]), means.mean(0), counts)

    return drawn_until(draw, sweeps, precision, error)


def _norms(trace: Trace, longest: int, signs: Signs, progress: Progress) -> np.ndarray:
    """(lengths, rows) float64 norms of the coefficients under some signs."""
    degrees = decompose(trace, longest, rest=False, signs=signs, progress=progress)
    arriving = at_target(trace, degrees.lanes, longest + 1)
    return np.concatenate([row_norms(lanes, degrees.exponents[some]) for some, lanes in arriving])
