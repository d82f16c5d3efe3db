"""Claims about the gradient along paths."""

from __future__ import annotations

from math import comb

import numpy as np
import pandas as pd
from scipy.stats import linregress

from resect.jobs.claims.check import FAILS, HOLDS, NOT_RUN, PARTLY, Runs, check, judged, lesions_of, median_of
from resect.jobs.findings import Study
from resect.words import decimal, part, percent, two_to


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
    """Holds if the fitted rate, with its interval over lengths, is below 1 a block, and the line explains 90 % of the
    variance of the logarithm; in part if the rate alone is.
    """
    table = _paths(runs).dropna(subset=["path_norm"])
    table = table[table["path_norm"] > 0]
    line = linregress(table["length"], np.log(table["path_norm"]))
    low, high = np.exp(line.slope - 2 * line.stderr), np.exp(line.slope + 2 * line.stderr)
    here = (
        f"times {decimal(float(np.exp(line.slope)))} a block ({decimal(float(low))} to {decimal(float(high))}); the "
        f"line explains {percent(line.rvalue**2)} of the variance"
    )
    return here, (HOLDS if line.rvalue**2 > 0.9 else PARTLY) if high < 1 else FAILS


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
        f"{percent(depth.missed)} of its norm"
    )
    short = magnitude.high <= depth.longest / 3 and magnitude.path_fraction < 0.05
    return here, HOLDS if short else PARTLY if magnitude.high <= depth.longest / 2 else FAILS


@check("8b", "study", theirs="almost none")
def _longest(runs: Runs) -> tuple[str, str]:
    """Holds if paths longer than half of the depth carry less than 1 % of the gradient by exact share."""
    table = _paths(runs)
    long = table["share"][table["length"] > (len(table) - 1) / 2].abs().sum()
    return f"{percent(float(long), 2)} over paths of more than half of the blocks", judged([bool(long < 0.01)])


@check("11", "highway", "highway-lesions", theirs="gates biased towards the skip (Srivastava et al. 2015)")
def _highway(runs: Runs) -> tuple[str, str]:
    """Holds if 95 % of the gradient, by exact share, lie on paths of less than half of the blocks; in part if the mean
    length does.
    """
    found, size = runs["highway"].found, runs["highway"].found["multiplicity"]
    half, ends = found["longest"] / 2, found["effective"] or {"low": 0, "high": found["longest"]}
    here = (
        f"{ends['low']} to {ends['high']} of {found['longest']} blocks hold 95 % of the gradient, mean length "
        f"{decimal(size['effective_depth'], 1)}; at most {two_to(size['log2_effective_paths'])} of "
        f"{two_to(size['log2_paths'])} paths contribute; a block {median_of(lesions_of(runs['highway-lesions']))} "
        "in the median"
    )
    return here, HOLDS if ends["high"] < half else PARTLY if size["effective_depth"] < half else FAILS


@check("12c", "study", theirs="not measured")
def _untrained(runs: Runs) -> tuple[str, str]:
    """Holds if 95 % of count × magnitude lie on paths of at most a third of the depth, and before training they do not;
    does not if they do then, too.
    """
    study = Study.of(runs["study"])
    twin, depth = study.untrained, study.answers.depth
    if depth is None or twin is None or twin.by_magnitude is None or twin.depth_change is None:
        return "", NOT_RUN
    before, after = twin.by_magnitude, depth.by_magnitude
    change, low, high = (decimal(value, 1) for value in twin.depth_change)
    here = (
        f"{before.low} to {before.high} of {depth.longest} blocks before training, with random weights, {after.low} to "
        f"{after.high} after it, by count × magnitude; the mean length by share changed by {change} blocks ({low} to "
        f"{high})"
    )
    return here, judged([before.high > depth.longest / 3 >= after.high])


def _paths(runs: Runs) -> pd.DataFrame:
    return runs["study"].tables["lengths"]
