"""The magnitude of single paths, by the paper's own protocol (Veit et al., section 5.2, Figure 6b).

Sample a path of length k; let the backward pass go only through the branches of its k blocks and only through the
skips elsewhere; take the norm of what arrives. Sampled paths are lanes, so one backward sweep serves many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from resect.calculus.linear import Lanes
from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine, Progress
from resect.errors import InputError, require_whole
from resect.graph.routes import Routes
from resect.measuring.batches import AnyTask, Batch, Batches, batches_of
from resect.network.unraveled import Unraveled
from resect.paths.draws import Draws
from resect.paths.lanes import per_row, widened
from resect.paths.measures import MASS, Effective, effective_range, entropy_within, held, weighted_by_count
from resect.paths.polynomial import at_target
from resect.paths.sampler import PathDraw, Route
from resect.paths.settings import PathSettings, PathWork, Traces, concatenated
from resect.paths.trace import Trace
from resect.paths.tree import path_lanes
from resect.words import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class PathDraws(Draws):
    """Norms of the gradients of sampled single paths: `norms` (N, R, n+1), R paths of each of the n+1 lengths."""

    @property
    def mean(self) -> np.ndarray:
        """(n+1,) mean norm of a single path; NaN where there is none."""
        return np.asarray(self.norms.mean((0, 1)))

    @property
    def rms(self) -> np.ndarray:
        """(n+1,) root mean square of the norms of single paths; NaN where there is none."""
        return np.asarray(np.sqrt(np.square(self.norms).mean((0, 1))))

    def mean_interval(self, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), (n+1,) each: studentised bootstrap intervals of the mean norm over draws of paths."""
        return self.interval(self.norms, level, resamples, seed)

    @property
    def magnitude(self) -> np.ndarray:
        """(n+1,) count x mean norm, normalised to sum to 1 (paper, Figure 6c)."""
        return weighted_by_count(self.mean, self.counts)

    @property
    def magnitude_rms(self) -> np.ndarray:
        """(n+1,) count x root mean square norm, normalised to sum to 1."""
        return weighted_by_count(self.rms, self.counts)

    def effective(self, mass: float = 0.95, *, rms: bool = False) -> Effective:
        """The shortest range of lengths that holds `mass` of count x magnitude: the paper's effective paths."""
        return effective_range(self.magnitude_rms if rms else self.magnitude, self.counts, mass)

    @property
    def log2_paths_within(self) -> np.ndarray:
        """(n+1,) log2 of how many paths of each length effectively contribute: 2 to the entropy of their squared norms.

        Estimated from the spread of the sampled paths, for which it is too high as long as the strongest paths have
        not been drawn; equal to log2 of the count where all are equally strong.
        """
        return entropy_within(self.by_draw(np.square(self.norms))[0], self.counts)

    @property
    def table(self) -> pd.DataFrame:
        """One row a length: `length`, `path_norm` with its interval, `sampled` (how many norms), and the properties."""
        low, high = self.mean_interval()
        return pd.DataFrame(
            {
                "length": range(self.norms.shape[2]),
                "path_norm": self.mean,
                "path_norm_low": low,
                "path_norm_high": high,
                "path_norm_rms": self.rms,
                "sampled": np.isfinite(self.norms).sum((0, 1)),
                "magnitude": self.magnitude,
                "magnitude_rms": self.magnitude_rms,
                "log2_paths_within": self.log2_paths_within,
            }
        )

    def summary(self) -> str:
        """How many paths were sampled, how strong one is, and which lengths carry the magnitude."""
        known = np.isfinite(self.norms).any((0, 1))
        if not known.any():
            return "No path was sampled."
        every = all(known[k] for k, count in enumerate(self.counts.paths) if count)
        whole = f"count × mean norm{'' if every else ' of these lengths'}"
        more = [held(self.effective(MASS), whole)] if self.magnitude.sum() > 0 else []
        sampled = f"{plural(self.draws, 'sampled path')} of each of {plural(int(known.sum()), 'length')}"
        return self._sentence(sampled, self.mean, "the mean norm of a single path", *more)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the mean norm of a single path of every length, with its interval; returns the axes."""
        from resect.figures import paths

        return paths.norms_log(self.table, ax=ax)


def sample_paths(
    net: Unraveled,
    data: Batches,
    settings: PathSettings | None = None,
    *,
    task: AnyTask = None,
    draws: int = 20,
    lengths: Sequence[int] | None = None,
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> PathDraws:
    """Sample single paths of every length and measure the norm of the gradient along each.

    Args:
        net, data, task, progress, engine: as for `path_spectrum`.
        settings: also the seed; every batch has paths of its own, drawn by the seed and the batch's number.
        draws: sampled paths of each length and batch.
        lengths: the lengths to sample, all by default; the norms of others are NaN.

    Raises:
        InputError: a length does not exist; else as for `path_spectrum`, and so DataError.

    Source: Veit et al. 2016, section 5.2.
    """
    require_whole("draws", draws)
    traces = Traces(net, settings, task)
    counts = traces.routes.counts
    existing = [k for k, count in enumerate(counts.paths) if count]
    if lengths is not None and set(lengths) - set(existing):
        missing = sorted(set(lengths) - set(existing))
        raise InputError(f"`lengths` must have paths, got {missing}, of which there is none.")
    wanted = [k for k in existing if lengths is None or k in lengths]
    own = {"draws": draws, "lengths": wanted, "seed": traces.settings.seed}
    work = PathWork("sampled paths", _sample, traces.settings, own)
    runs = engine.run(net, ((work, batch) for batch in batches_of(data, net, task)), progress)
    return PathDraws.of_batches(runs, counts, traces.at)


def _sample(traces: Traces, batch: Batch, progress: Progress, draws: int, lengths: Sequence[int], seed: int) -> Arrays:
    """Norms (rows, draws, n+1); the paths are drawn for the whole batch, in however many parts it runs."""
    routes = traces.routes
    draw, random = PathDraw(routes), np.random.default_rng(seed + batch.number)
    drawn = [route for _ in range(draws) for route in draw(lengths, random)]
    parts = []
    for trace, advance in traces.of(batch, 2, progress, truth=False):
        norms = path_norms(trace, routes, drawn, traces.lanes_for(trace), advance)
        rows = np.full((trace.rows, draws, len(routes.counts.paths)), np.nan)
        rows[:, :, lengths] = norms.T.reshape(trace.rows, draws, len(lengths))
        parts.append((rows,))
    return concatenated(parts, "norms")


def path_norms(
    trace: Trace, routes: Routes, drawn: Sequence[Route], most: int = 1024, progress: Progress | None = None
) -> np.ndarray:
    """Norm of the gradient of every route and row, (routes, rows) float64; equal routes are run once.

    Args:
        most: lanes at one time.
    """
    place: dict[tuple[Any, ...], int] = {}
    which = [place.setdefault(tuple(sorted(route.items())), len(place)) for route in drawn]
    distinct = [dict(key) for key in place]
    norms = np.zeros((len(distinct), trace.rows))
    for members, lanes, exponents in path_lanes(trace, routes, distinct, most, progress):
        for some, arrived in at_target(trace, lanes, len(members)):
            if arrived:
                norms[members[some]] = row_norms(arrived, exponents[some])
    return norms[which]


def row_norms(lanes: Lanes, exponents: np.ndarray) -> np.ndarray:
    """(L, rows) float64 norms over all of a target's values (L, rows, ...), times 2**exponents (L,)."""
    squares = [widened(per_row(value)).square().sum(2) for value in lanes.values()]
    powers = np.clip(exponents, -5000, 5000).astype(np.int32)[:, None]
    return np.asarray(np.ldexp(np.sqrt(sum(each.cpu().double().numpy() for each in squares)), powers))
