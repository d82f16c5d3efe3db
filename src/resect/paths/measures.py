"""Numbers read off a distribution over path lengths: its effective range, and how many paths it spreads over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log, log2
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import entr

from resect.errors import InputError
from resect.measuring.statistics import bootstrap_interval
from resect.words import decimal, lengths, percent

if TYPE_CHECKING:
    from resect.graph.routes import Counts

MASS = 0.95  # of the effective ranges that summaries and figures name
FEW_SAMPLES = 10  # effective ones: numbers pooled over fewer are those of a handful of samples


@dataclass(frozen=True)
class Effective:
    """The shortest range of path lengths that holds a given mass.

    Attributes:
        low, high: lengths in blocks, inclusive.
        low_layers, high_layers: the mean lengths in weight layers of the paths of those lengths.
        held: the mass that the range holds.
        path_fraction: the fraction of all paths whose length lies in the range.
    """

    low: int
    high: int
    low_layers: float
    high_layers: float
    held: float
    path_fraction: float

    @property
    def lengths(self) -> str:
        """ "2 to 7 blocks (4 to 14 layers)"."""
        return lengths(self.low, self.high, self.low_layers, self.high_layers)


@dataclass(frozen=True)
class Multiplicity:
    """The size of the implicit ensemble.

    Attributes:
        log2_paths: raw multiplicity, the logarithm of the number of paths.
        log2_effective_paths: the entropy, in bits, of the paths' shares, if every path of one length has an equal part
            in that length's share; negative shares count as none.
        effective_depth: mean path length by share, in blocks.
        effective_depth_layers: the same in weight layers.
    """

    log2_paths: float
    log2_effective_paths: float
    effective_depth: float
    effective_depth_layers: float


def held(effective: Effective, what: str) -> str:
    """ "96.2 % of the gradient lies on 2 to 7 blocks (4 to 14 layers), 0.3 % of all paths"."""
    fraction = percent(effective.path_fraction)
    return f"{percent(effective.held)} of {what} lies on {effective.lengths}, {fraction} of all paths"


def longest_path(counts: Counts) -> int:
    """The length of the longest path; 0 if there is none."""
    return max((k for k, count in enumerate(counts.paths) if count), default=0)


def log2_counts(counts: Counts) -> np.ndarray:
    """(n+1,) log2 of the number of paths of each length; -inf where there are none."""
    return np.array([log2(count) if count else -inf for count in counts.paths])


def mean_layers(counts: Counts) -> np.ndarray:
    """(n+1,) mean length in weight layers of the paths of each length; 0 where there are none."""
    pairs = zip(counts.layers, counts.paths, strict=True)
    return np.array([total / count if count else 0.0 for total, count in pairs])


def path_fractions(counts: Counts) -> np.ndarray:
    """(n+1,) the fraction of all paths that has each length."""
    total = sum(counts.paths)
    return np.array([count / total for count in counts.paths])


def shortest_range(weight: np.ndarray, mass: float, total: float | None = None) -> tuple[int, int] | None:
    """The first and the last length of the range of `effective_range`; all lengths, if no range holds so much.

    Args:
        weight: NaN where it is not known.

    Returns:
        None if some lengths are not known and the others do not hold so much.

    Raises:
        InputError: the mass is not between 0 and 1.
    """
    if not 0 < mass < 1:
        raise InputError(f"`mass` must lie between 0 and 1, got {mass}.")
    portion = np.nan_to_num(np.asarray(weight, dtype=np.float64) / (np.nansum(weight) if total is None else total))
    before = np.concatenate([[0.0], np.cumsum(portion)])
    for width in range(1, len(before)):
        held = before[width:] - before[:-width]
        if held.max() >= mass:
            low = int(held.argmax())
            return low, low + width - 1
    return None if np.isnan(weight).any() else (0, len(portion) - 1)


def effective_range(weight: np.ndarray, counts: Counts, mass: float = 0.95, total: float | None = None) -> Effective:
    """The shortest range of lengths whose weights sum to `mass` of the whole; of several, the one that holds most.

    Args:
        weight: (n+1,) weights of the lengths, negative ones allowed; NaN where it is not known.
        mass: 0 to 1, exclusive.
        total: what counts as the whole; the sum of the weights by default.

    Raises:
        InputError: the lengths that are known do not hold so much.
    """
    ends = shortest_range(weight, mass, total)
    if ends is None:
        raise InputError(
            f"`max_length` must be longer for a range that holds {mass:.0%} of the gradient, got "
            f"{int(np.isfinite(weight).sum()) - 1}, up to which {np.nansum(weight):.2%} is held."
        )
    low, high = ends
    portion = np.asarray(weight, dtype=np.float64) / (np.nansum(weight) if total is None else total)
    layers, within = mean_layers(counts), slice(low, high + 1)
    mass_held, fraction = float(portion[within].sum()), float(path_fractions(counts)[within].sum())
    return Effective(low, high, float(layers[low]), float(layers[high]), mass_held, fraction)


def multiplicity(share: np.ndarray, counts: Counts) -> Multiplicity:
    """Raw and effective number of paths, and effective depth, from the shares of all lengths."""
    whole = np.asarray(share) / np.sum(share)
    depth = float(np.sum(whole * np.arange(len(whole))))
    layers = float(np.sum(whole * mean_layers(counts)))
    return Multiplicity(log2(sum(counts.paths)), log2_effective(share, log2_counts(counts)), depth, layers)


def weighted_by_count(norm: np.ndarray, counts: Counts) -> np.ndarray:
    """count x magnitude, normalised to sum to 1 (paper, Figure 6c); worked in logarithms, as counts exceed floats.

    Args:
        norm: (n+1,) mean norm of a single path of each length; NaN or 0 where there is none.
    """
    logs = [
        log2(count) + log2(value) if count and value > 0 else -inf
        for count, value in zip(counts.paths, norm, strict=True)
    ]
    top = max(logs)
    if top == -inf:
        return np.zeros(len(logs))
    weights = np.array([2.0 ** (value - top) for value in logs])
    return np.asarray(weights / weights.sum())


def rms_of(total: np.ndarray, counts: Counts) -> np.ndarray:
    """(n+1,) root mean square norm of a path from the sums of squares over the paths of a length; NaN without paths."""
    logs = [log2(count) / 2 if count else np.nan for count in counts.paths]
    with np.errstate(divide="ignore"):
        return np.asarray(np.exp2(np.log2(total) / 2 - np.array(logs)))


def entropy_within(squares: np.ndarray, counts: Counts) -> np.ndarray:
    """log2 of the effective number of paths of each length, from sampled ones; NaN where none was.

    With weights w over the N paths of a length, the entropy of w / sum(w) is log2 N - E[v log2 v], v = w / mean(w).

    Args:
        squares: (draws, n+1) squared norms of sampled paths.
    """
    entropies = np.full(len(counts.paths), np.nan)
    for k, count in enumerate(counts.paths):
        values = squares[:, k]
        if count and np.isfinite(values).all() and values.mean() > 0:
            relative = values / values.mean()
            lost = np.where(relative > 0, relative * np.log2(np.where(relative > 0, relative, 1.0)), 0.0).mean()
            entropies[k] = max(0.0, log2(count) - lost)
    return entropies


def log2_effective(share: np.ndarray, within: np.ndarray) -> float:
    """log2 of the effective number of paths: the entropy of the shares of all paths, in bits.

    Args:
        share: (n+1,) shares of the lengths; negative ones count as none.
        within: (n+1,) entropies within the lengths: log2 of the number of paths, if those of a length share equally;
            or see `entropy_within`.
    """
    portion = np.clip(np.nan_to_num(share), 0, None)
    portion = portion / portion.sum()
    some = (portion > 0) & np.isfinite(within)
    return float(np.sum(portion[some] * (within[some] - np.log2(portion[some]))))


def effective_samples(weights: np.ndarray) -> float:
    """How many equally weighted samples would average as well as these: (sum w)^2 / sum w^2 (Kish 1965)."""
    return float(weights.sum() ** 2 / np.square(weights).sum())


def own_shares(products: np.ndarray, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every sample's own shares, (rows, K) float64, and its weight <g, g> when pooled, (rows,); without zero gradients.

    Args:
        products: (N, K) inner products with the gradient.
        squares: (N,) <g, g>.
    """
    rows = squares > 0
    return products[rows] / squares[rows][:, None], squares[rows]


def range_intervals(
    shares: np.ndarray, mass: float, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Percentile bootstrap intervals over samples of the two ends of the effective range of mean shares.

    Args:
        shares: (rows, n+1) every sample's own.

    Returns:
        Of the low end and of the high end, (low, high) each, in blocks; None for a single sample, or where not all
        lengths are known.
    """
    if len(shares) < 2 or np.isnan(shares).any():
        return None
    draw = np.random.default_rng(seed)
    ends = []
    for _ in range(resamples):
        counts = np.bincount(draw.integers(0, len(shares), len(shares)), minlength=len(shares))
        ends.append(shortest_range(counts @ shares / len(shares), mass, total=1.0))
    limits = np.quantile(np.array(ends), [(1 - level) / 2, (1 + level) / 2], axis=0, method="nearest").astype(int)
    (low_from, high_from), (low_to, high_to) = limits.tolist()
    return (low_from, low_to), (high_from, high_to)


def binary_entropy(probability: np.ndarray) -> np.ndarray:
    """The entropy of a coin, in bits, elementwise; probabilities beyond 0 and 1 count as certain."""
    p = np.clip(probability, 0, 1)
    return np.asarray((entr(p) + entr(1 - p)) / log(2))


def column_intervals(
    values: np.ndarray, weights: np.ndarray, level: float, resamples: int, seed: int, *, exact: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Studentised bootstrap intervals over rows of the weighted mean of every column.

    Args:
        values: (rows, K); columns that are not finite throughout have no interval, and a single row has none.
        weights: (rows,) positive.
        exact: (K,) booleans; the columns whose mean other rows would not change: both ends are it.

    Returns:
        low, high: (K,) each; NaN where there is none.
    """
    low, high = np.full((2, values.shape[1]), np.nan)
    known = np.isfinite(values).all(0)
    if known.any() and len(values) > 1:
        low[known], high[known] = bootstrap_interval(values[:, known].T, weights, level, resamples, seed)
        low[known & exact] = high[known & exact] = np.average(values[:, known & exact], axis=0, weights=weights)
    return low, high


def interaction_of(pairs: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(n, n) share through both of two blocks less the product of their shares; 0 on the diagonal."""
    values = np.asarray(pairs - np.outer(share, share))
    np.fill_diagonal(values, 0.0)
    return values


def most_tied(names: Sequence[str], interaction: np.ndarray) -> str:
    """The sentence about the pair of blocks whose interaction is the largest."""
    i, j = np.unravel_index(np.abs(interaction).argmax(), interaction.shape)
    largest = float(interaction[i, j]) * 100
    if abs(largest) < 0.005:
        return "No two blocks are tied: through both goes the product of their shares."
    kind = "together" if largest > 0 else "one or the other"
    return f"The pair most tied: {names[i]} and {names[j]} ({kind}, {decimal(largest)} points)."
