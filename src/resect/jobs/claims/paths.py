"""Claims about the gradient along paths."""

from __future__ import annotations

from math import comb

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from scipy.stats import linregress

from resect.jobs.claims.check import (
    FAILS,
    HOLDS,
    NOT_RUN,
    PARTLY,
    UNKNOWN,
    Runs,
    below,
    check,
    judged,
    lesions_of,
    median_of,
)
from resect.jobs.findings import Study
from resect.words import contribute, decimal, part, percent, plural, span, two_to


@check("6", "study", theirs="(54 choose k) paths of k blocks, by arithmetic")
def _lengths(runs: Runs) -> tuple[str, str]:
    """Holds if the counted paths of the captured graph are the binomial coefficients."""
    table = _paths(runs)
    n = len(table) - 1
    expected = [np.log2(float(comb(n, k))) for k in range(n + 1)]
    middle = float(table["path_fraction"][(table["length"] > n * 0.34) & (table["length"] < n * 0.66)].sum())
    same = bool(np.allclose(table["log2_paths"], expected, atol=1e-9))
    low, high = int(n * 0.34) + 1, -(-n * 66 // 100) - 1
    return f"counted from the graph: {percent(middle)} of all have {low} to {high} of {n} blocks", judged([same])


@check("7", "study", theirs="falls, on a logarithmic scale nearly along a line")
def _decay(runs: Runs) -> tuple[str, str]:
    """Holds if the fitted rate is below 1 a block, its interval over lengths included, and the line explains 90 % of
    the variance of the logarithm; in part if the rate alone is; does not if it is above 1; else it cannot be said.
    """
    table = _paths(runs).dropna(subset=["path_norm"])
    table = table[table["path_norm"] > 0]
    if len(table) < 3:
        return f"{plural(len(table), 'length')} of paths, to which no line can be fitted", UNKNOWN
    line = linregress(table["length"], np.log(table["path_norm"]))
    reach = float(stdtrit(len(table) - 2, 0.975)) * line.stderr
    low, high = np.exp(line.slope - reach), np.exp(line.slope + reach)
    here = (
        f"times {decimal(float(np.exp(line.slope)))} a block ({decimal(float(low))} to {decimal(float(high))}); the "
        f"line explains {percent(line.rvalue**2)} of the variance"
    )
    falls = below((float(low), float(high)), 1)
    return here, (HOLDS if line.rvalue**2 > 0.9 else PARTLY) if falls else judged([falls])


@check("8", "study", theirs="5 to 17 of 54 blocks, 0.45 % of all paths, by count × magnitude")
def _effective(runs: Runs) -> tuple[str, str]:
    """Holds if 95 % of count × magnitude lie on at most 5 % of all paths, none longer than a third of the depth; in
    part if on paths of at most half of the depth.
    """
    depth = Study.of(runs["study"]).answers.depth
    assert depth is not None
    magnitude, share = depth.by_magnitude, depth.by_share
    here = (
        f"{magnitude.low} to {magnitude.high} of {depth.longest} blocks, {part(magnitude.path_fraction)} of all paths, "
        f"by count × magnitude; {share.low} to {share.high} by exact share of the gradient, which misses "
        f"{_part_of(depth.missed)} its norm{_interference(_paths(runs), share.low, share.high)}"
    )
    short = magnitude.high <= depth.longest / 3 and magnitude.path_fraction < 0.05
    return here, HOLDS if short else PARTLY if magnitude.high <= depth.longest / 2 else FAILS


@check("8b", "study", theirs="almost none")
def _longest(runs: Runs) -> tuple[str, str]:
    """Holds if paths longer than half of the depth carry less than 1 % of the gradient by exact share."""
    table = _paths(runs)
    long = table["share"][table["length"] > (len(table) - 1) / 2].abs().sum()
    return f"{percent(float(long), 2)} over paths of more than half of the blocks", judged([bool(long < 0.01)])


@check("11", "highway-paths", "highway-lesions", theirs="gates biased towards the skip (Srivastava et al. 2015)")
def _highway(runs: Runs) -> tuple[str, str]:
    """Holds if 95 % of count × magnitude lie on paths of at most half of the blocks; in part if 95 % of the gradient by
    exact share do, and miss less than a quarter of its norm.
    """
    found = runs["highway-paths"].found
    if not all(found[name] for name in ("effective_by_magnitude", "effective", "residual")):
        return "its gradient is zero, so that no paths carry any", UNKNOWN
    half, size, missed = found["longest"] / 2, found["multiplicity"], found["residual"]["missed"]
    magnitude, share = found["effective_by_magnitude"], found["effective"]
    gates = runs["highway-paths"].tables["blocks"]["carry"]
    here = (
        f"carry gates are open to {percent(gates.mean())} on average, {percent(gates.min())} to "
        f"{percent(gates.max())} by block; {magnitude['low']} to {magnitude['high']} of {found['longest']} blocks hold "
        f"95 % by count × magnitude, {percent(magnitude['path_fraction'])} of all paths; {share['low']} to "
        f"{share['high']} by exact share of the gradient, which misses {_part_of(missed)} its norm, mean length "
        f"{decimal(size['effective_depth'], 1)}; of {two_to(size['log2_paths'])} paths "
        f"{contribute(size['log2_effective_paths'])} ({plural(found['samples'], 'sample')}); a block "
        f"{median_of(lesions_of(runs['highway-lesions']))} in the median"
    )
    return here, HOLDS if magnitude["high"] <= half else PARTLY if share["high"] <= half and missed < 0.25 else FAILS


@check("12c", "study", theirs="not measured")
def _untrained(runs: Runs) -> tuple[str, str]:
    """Holds if 95 % of count × magnitude lie on paths of at most a third of the depth, and before training, with none
    of several draws of random weights, they do; does not if with all they do then, too, or if they do not after it;
    else it cannot be said.
    """
    study = Study.of(runs["study"])
    twin, depth = study.untrained, study.answers.depth
    if depth is None or twin is None:
        return "", NOT_RUN
    if twin.by_magnitude is None or twin.depth_change is None:
        return f"there is no untrained twin: {twin.why_not}", UNKNOWN
    after, longest = depth.by_magnitude, twin.longest or (twin.by_magnitude.high,)
    change, low, high = (decimal(value, 1) for value in twin.depth_change)
    here = (
        f"at most {span(min(longest), max(longest))} of {depth.longest} blocks before training, with "
        f"{plural(len(longest), 'draw')} of random weights, {after.high} after it, by count × magnitude; the mean "
        f"length by share changed by {change} blocks ({low} to {high})"
    )
    short = {end <= depth.longest / 3 for end in longest}
    if after.high > depth.longest / 3 or short == {True}:
        return here, FAILS
    return here, HOLDS if short == {False} else UNKNOWN


def _part_of(missed: float | None) -> str:
    """ "14.1 % of", or "14.8 times"."""
    return f"{decimal(missed, 1)} times" if missed and missed > 1 else f"{percent(missed)} of"


def _interference(table: pd.DataFrame, low: int, high: int) -> str:
    """What parts the two ranges: that paths of one length add up to more, or less, than if each went its own way."""
    several = table[table["length"].between(low, high) & (table["log2_paths"] > 0)]
    if "coherence_median" not in several or not (coherence := several["coherence_median"].dropna()).size:
        return ""
    return (
        f"; there the paths of a length add up to {decimal(coherence.min(), 1)} to {decimal(coherence.max(), 1)} times "
        "the squared norm that they would have without interference"
    )


def _paths(runs: Runs) -> pd.DataFrame:
    return runs["study"].tables["lengths"]
