"""How far off the mean over random signs may be, and when enough of them are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from resect.paths.measures import rms_of, weighted_by_count
from resect.paths.precision import PRECISION
from resect.words import percent

if TYPE_CHECKING:  # reports import it, and no torch
    from resect.engines.work import Arrays
    from resect.graph.routes import Counts

MOST = 8  # times as many draws as are asked for, where fewer are not precise enough
_FEWEST = 3  # draws that say how much one varies: two can be alike by chance
_COUNTS = 0.01  # of the energy, or of count x rms: lengths with less need not be precise


def drawn_until(
    draw: Callable[[int], Arrays], asked: int, precision: float | None, error: Callable[[Arrays], float]
) -> Arrays:
    """As many draws as are asked for, then twice as many as before until they are precise, up to `MOST` times.

    Args:
        draw: makes so many draws, after those before: arrays (rows, draws, ...).
        precision: per cent of the estimate that one standard error may be; None for no more than is asked for.
        error: that of all draws, as a part of the estimate; NaN if it is not known.
    """
    arrays, made = draw(asked), asked
    while precision is not None and made < asked * MOST and not error(arrays) * 100 <= precision:
        more = draw(made)
        arrays = {name: np.concatenate([values, more[name]], 1) for name, values in arrays.items()}
        made *= 2
    return arrays


def relative_errors(means: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """(K,) one standard error of a mean over samples and draws, as a part of the mean.

    Args:
        means: of every batch, (draws, K), over its samples.
        sizes: how many samples each batch has.

    Returns:
        0 where the mean is; NaN where a batch has fewer than 3 draws, which do not say how much they vary.
    """
    weights = np.array(sizes) / np.sum(sizes)
    whole = sum(weight * each.mean(0) for weight, each in zip(weights, means, strict=True))
    if min(map(len, means)) < _FEWEST:
        return np.full(len(whole), np.nan)
    parts = [weight**2 * each.var(0, ddof=1) / len(each) for weight, each in zip(weights, means, strict=True)]
    return np.asarray(np.divide(np.sqrt(sum(parts)), whole, out=np.zeros(len(whole)), where=whole > 0))


def worst_error(errors: np.ndarray, total: np.ndarray, counts: Counts) -> float:
    """The largest relative error among lengths that hold at least 1 % of the energy or of count x rms.

    Args:
        errors, total: (n+1,) of the sums of squares over paths.
    """
    if not total.sum() > 0:
        return 0.0
    counted = np.maximum(total / total.sum(), weighted_by_count(rms_of(total, counts), counts)) >= _COUNTS
    return float(errors[counted].max())


def said(error: float) -> str:
    """A clause on how precise an estimate from random signs is."""
    if not np.isfinite(error):
        return f"fewer than {_FEWEST} draws do not say how far off that is"
    enough = "" if error * 100 <= PRECISION else ", too much to go by"
    return f"one standard error of the sums of squares is up to {percent(error)} of them{enough}"
