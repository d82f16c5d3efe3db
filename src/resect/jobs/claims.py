"""The paper's claims against what was measured: for each what its authors found, what is found here, and a verdict.

Every function reads finished runs and nothing else. The first line of its docstring is the rule of its verdict, which
stands beside it; numbers become words at the thresholds that it names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import comb

import numpy as np
import pandas as pd
from scipy.stats import binom, linregress, spearmanr

from resect.jobs import authors
from resect.jobs.findings import Study, rise_of
from resect.measuring.chance import no_better_than_chance
from resect.runs.record import Record
from resect.words import decimal, part, percent, plural, points, two_to

HOLDS, PARTLY, FAILS, UNKNOWN, NOT_RUN = "holds", "holds in part", "does not", "cannot be said", "not run here"
_AUTHORS = "preresnet110"
_CHEAP = 0.02  # of error, below which a lesion hardly changes the network
Runs = Mapping[str, Record]


@dataclass(frozen=True)
class Finding:
    """What a claim comes to.

    Attributes:
        theirs: what the paper's authors found, in numbers.
        here: the same from the runs, with 95 % intervals; "" if it was not measured.
        verdict: HOLDS, PARTLY, FAILS, UNKNOWN or NOT_RUN.
    """

    theirs: str
    here: str = ""
    verdict: str = NOT_RUN


@dataclass(frozen=True)
class Check:
    """How a claim is tested: on which runs, by which rule."""

    runs: tuple[str, ...]
    theirs: str
    find: Callable[[Runs], tuple[str, str]]

    @property
    def rule(self) -> str:
        """When it holds, in a sentence or two."""
        return " ".join((self.find.__doc__ or "").split())


CHECKS: dict[str, Check] = {}


def _check(number: str, *runs: str, theirs: str) -> Callable[[Callable[[Runs], tuple[str, str]]], None]:
    def add(find: Callable[[Runs], tuple[str, str]]) -> None:
        CHECKS[number] = Check(runs, theirs, find)

    return add


def finding(number: str, runs: Runs) -> Finding:
    """What a claim comes to, given the runs that there are."""
    check = CHECKS[number]
    if any(name not in runs for name in check.runs):
        return Finding(check.theirs)
    here, verdict = check.find({name: runs[name] for name in check.runs})
    doubtful = verdict != NOT_RUN and any(map(_at_chance, runs.values()))
    return Finding(check.theirs, here, UNKNOWN if doubtful else verdict)


def _at_chance(record: Record) -> bool:
    """Whether a run's network, intact, does no better than chance, so that no lesion can tell anything."""
    ensemble = record.found.get("answers", {}).get("ensemble", {})
    error, chance = ensemble.get("intact_error"), ensemble.get("chance_error")
    counted = ensemble.get("targets") or record.found.get("subject", {}).get("samples")
    return error is not None and no_better_than_chance(error, chance, counted)


def median_interval(values: pd.Series, level: float = 0.95) -> tuple[float, float]:
    """The interval of a median from order statistics, for any distribution; it covers at least `level`."""
    ordered = np.sort(values.to_numpy(float))
    below = max(int(binom.ppf((1 - level) / 2, len(ordered), 0.5)) - 1, 0)
    return float(ordered[below]), float(ordered[-1 - below])


def correlation_interval(value: float, count: int, quantile: float = 1.96) -> tuple[float, float]:
    """The interval of Spearman's rank correlation of so many pairs.

    Source: D. Bonett and T. Wright, Sample size requirements for estimating Pearson, Kendall and Spearman correlations,
    Psychometrika 65 (2000), 23-28.
    """
    middle, width = np.arctanh(value), quantile * np.sqrt((1 + value**2 / 2) / max(count - 3, 1))
    return float(np.tanh(middle - width)), float(np.tanh(middle + width))


def _damages(network: str) -> pd.Series:
    return authors.measured(network, "delete")["error"] - authors.intact(network)


def _median_damage(damage: pd.Series) -> str:
    low, high = (points(end).partition(" ")[0] for end in median_interval(damage))
    return f"{points(float(damage.median()))} ({low} to {high})"


def _several(errors: pd.Series, counts: pd.Series) -> str:
    by_count = errors.groupby(counts).median()
    some = [k for k in (1, 5, 10, 15, 20) if k in by_count.index]
    return f"{', '.join(percent(by_count[k]) for k in some)} without {', '.join(map(str, some))} blocks, medians"


def _single(network: str) -> str:
    return _singles(authors.intact(network), _damages(network))


def _singles(intact: float, damage: pd.Series) -> str:
    cheap = int((damage < 0.016).sum())
    return (
        f"intact {percent(intact)}; {_median_damage(damage)} in the median, {cheap} of {len(damage)} below 1.6 points, "
        f"{points(damage.max())} at most"
    )


def _swapped() -> str:
    table = authors.measured(_AUTHORS, "swap several")
    value = float(spearmanr(table["kendall_tau"], table["error"]).statistic)
    return f"rank correlation of error and Kendall tau {_correlation(value, len(table))}, {len(table):,} reorderings"


def _correlation(value: float, count: int) -> str:
    low, high = correlation_interval(value, count)
    return f"{decimal(value)} ({decimal(low)} to {decimal(high)})"


def _by_depth() -> str:
    found = [points(float(_damages(f"preresnet{depth}").median())) for depth in (20, 32, 44, 56, 110)]
    return f"{', '.join(found)} in the median at depth 20, 32, 44, 56 and 110"


def _repeated() -> str:
    table = authors.measured(_AUTHORS, "repeat several")
    ten = table["error"][table["count"] == 10]
    return f"{percent(float(ten.median()))} with 10 blocks twice, {plural(len(ten), 'run')}"


@_check("1", "study", theirs=f"{_single(_AUTHORS)}; VGG to chance")
def _deletions(runs: Runs) -> tuple[str, str]:
    """Holds if nine in ten of the blocks that do not downsample cost less than 2 points, and a layer of the plain
    network at least half of the way to chance in the median; in part if one of both.
    """
    study = Study.of(runs["study"])
    ensemble, damage = study.answers.ensemble, study.deletions["damage"]
    others = damage[~study.deletions["downsampling"].to_numpy(bool)]
    here = f"{_singles(ensemble.intact_error, damage)} ({ensemble.largest_damage_block})"
    true = [bool((others < _CHEAP).mean() >= 0.9)]
    if plain := study.plain:
        room = (ensemble.chance_error or 1.0) - plain.intact_error
        here += f"; {plain.model.partition(':')[2]} {_median_damage(plain.deletions['damage'])}"
        true.append(plain.median_damage > room / 2)
    return here, _of(true)


@_check("1b", "depths", theirs=_by_depth())
def _depths(runs: Runs) -> tuple[str, str]:
    """Holds if the median damage falls with every step of depth; in part if the deepest network has the least."""
    medians = runs["depths"].tables["depths"]["median_damage"]
    here = f"{', '.join(map(points, medians))} in the median"
    return here, _of([bool((medians.diff().dropna() < 0).all()), bool(medians.idxmin() == medians.index[-1])])


@_check("2", "imagenet", theirs=_single("resnet152"))
def _imagenet(runs: Runs) -> tuple[str, str]:
    """Holds if the median damage of a block, with its interval, is below 2 points."""
    record = runs["imagenet"]
    damage = _lesions(record)
    here = f"intact {percent(record.found['intact']['error'])}; {_median_damage(damage)} in the median"
    return here, _of([median_interval(damage)[1] < _CHEAP])


@_check("3", "study", theirs=_several(*(authors.measured(_AUTHORS, "delete several")[c] for c in ("error", "count"))))
def _random(runs: Runs) -> tuple[str, str]:
    """Holds if the mean error goes from a tenth to nine tenths of its whole rise over at least a quarter of the numbers
    of blocks that were deleted.
    """
    study = Study.of(runs["study"])
    early, late = rise_of(study.random, study.answers.ensemble.intact_error)
    here = _several(study.random["error"], study.random["deleted"])
    smooth = late - early >= study.random["deleted"].max() / 4
    return f"{here}; a tenth of the rise is reached at {plural(early, 'block')}, nine tenths at {late}", _of([smooth])


@_check("4", "study", theirs=_swapped())
def _reordered(runs: Runs) -> tuple[str, str]:
    """Holds if the rank correlation of error and Kendall tau, with its interval, is below -0.5; in part if below 0."""
    study = Study.of(runs["study"])
    value, count = study.answers.ensemble.tau_correlation, len(study.reorderings)
    if value is None:
        return "no correlation, as all errors are equal", UNKNOWN
    high = correlation_interval(value, count)[1]
    verdict = HOLDS if high < -0.5 else PARTLY if high < 0 else FAILS
    return (
        f"rank correlation of error and Kendall tau {_correlation(value, count)}, {plural(count, 'reordering')}",
        verdict,
    )


@_check("5", "study", "twice", theirs=f"{_repeated()}, {percent(authors.intact(_AUTHORS))} intact")
def _twice(runs: Runs) -> tuple[str, str]:
    """Holds if running a block twice costs less than 2 points in the median, interval included."""
    damage = _lesions(runs["twice"])
    here = f"one block twice: {_median_damage(damage)} in the median, {points(damage.max())} at most"
    return here, _of([median_interval(damage)[1] < _CHEAP])


@_check("6", "study", theirs="(54 choose k) paths of k blocks, by arithmetic")
def _lengths(runs: Runs) -> tuple[str, str]:
    """Holds if the counted paths of the captured graph are the binomial coefficients."""
    table = _paths(runs)
    n = len(table) - 1
    expected = [np.log2(float(comb(n, k))) for k in range(n + 1)]
    middle = float(table["path_fraction"][(table["length"] > n * 0.34) & (table["length"] < n * 0.66)].sum())
    same = bool(np.allclose(table["log2_paths"], expected, atol=1e-9))
    low, high = int(n * 0.34) + 1, -(-n * 66 // 100) - 1
    return f"counted from the graph: {percent(middle)} of all have {low} to {high} of {n} blocks", _of([same])


@_check("7", "study", theirs="falls, on a logarithmic scale nearly along a line")
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


@_check("8", "study", theirs="5 to 17 of 54 blocks, 0.45 % of all paths, by count × magnitude")
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


@_check("8b", "study", theirs="almost none")
def _longest(runs: Runs) -> tuple[str, str]:
    """Holds if paths longer than half of the depth carry less than 1 % of the gradient by exact share."""
    table = _paths(runs)
    long = table["share"][table["length"] > (len(table) - 1) / 2].abs().sum()
    return f"{percent(float(long), 2)} over paths of more than half of the blocks", _of([bool(long < 0.01)])


@_check("9", "effective", theirs="5.96 % on 23 of 54 blocks, 6.10 % in full, 164 epochs each")
def _trained(runs: Runs) -> tuple[str, str]:
    """Holds if the difference of the test errors, with its interval, is below half a point; does not if it is above 0;
    else it cannot be said.
    """
    full, short = (runs["effective"].tables["networks"].iloc[i] for i in (0, 1))
    low, high = float(short["difference_low"]), float(short["difference_high"])
    here = (
        f"{percent(short['error'], 2)} on 23 of 54 blocks, {percent(full['error'], 2)} in full: "
        f"{points(short['difference'])} ({points(low)} to {points(high)}), by the weights shipped, 13 epochs each"
    )
    return here, HOLDS if high < 0.005 else FAILS if low > 0 else UNKNOWN


@_check("10", "study", "stochastic", theirs=_single("stochdepth110"))
def _stochastic(runs: Runs) -> tuple[str, str]:
    """Holds if deletions cost less on average than with ordinary training, at downsampling blocks, too; in part if one
    of both.
    """
    ours, theirs = runs["stochastic"].tables["lesions"], runs["study"].tables["deletions"]
    down = theirs["downsampling"].to_numpy(bool)
    means = [(float(t["damage"].mean()), float(t["damage"][down].mean())) for t in (ours, theirs)]
    (all_ours, down_ours), (all_theirs, down_theirs) = means
    here = (
        f"{points(all_ours)} on average, {points(down_ours)} at downsampling blocks; with ordinary training "
        f"{points(all_theirs)} and {points(down_theirs)}"
    )
    return here, _of([all_ours < all_theirs, down_ours < down_theirs])


@_check("11", "highway", "highway-lesions", theirs="gates biased towards the skip (Srivastava et al. 2015)")
def _highway(runs: Runs) -> tuple[str, str]:
    """Holds if 95 % of the gradient, by exact share, lie on paths of less than half of the blocks; in part if the mean
    length does.
    """
    found, size = runs["highway"].found, runs["highway"].found["multiplicity"]
    half, ends = found["longest"] / 2, found["effective"] or {"low": 0, "high": found["longest"]}
    here = (
        f"{ends['low']} to {ends['high']} of {found['longest']} blocks hold 95 % of the gradient, mean length "
        f"{decimal(size['effective_depth'], 1)}; at most {two_to(size['log2_effective_paths'])} of "
        f"{two_to(size['log2_paths'])} paths contribute; a block {_median_damage(_lesions(runs['highway-lesions']))} "
        "in the median"
    )
    return here, HOLDS if ends["high"] < half else PARTLY if size["effective_depth"] < half else FAILS


@_check("12a", "ensemble", theirs="not measured")
def _ensemble(runs: Runs) -> tuple[str, str]:
    """Holds if averaging brings nine tenths of what as many independent voters would gain, interval included; in part
    if half of it; does not if less than half, interval included; else it cannot be said.
    """
    table, removed = runs["ensemble"].tables["ensembles"], runs["ensemble"].found["removed"]
    last = table.iloc[-1]
    here = (
        f"without {plural(removed, 'random block')} a member errs on {percent(last['member_error'])}, "
        f"{last['members']:.0f} averaged on {percent(last['error'])} ({percent(last['error_low'])} to "
        f"{percent(last['error_high'])}); independent ones would on {percent(last['independent_error'])}"
    )
    possible = last["member_error"] - last["independent_error"]
    low, high = ((last["member_error"] - last[end]) / possible for end in ("error_high", "error_low"))
    if low >= 0.5:
        return here, HOLDS if low >= 0.9 else PARTLY
    return here, FAILS if high < 0.5 else UNKNOWN


@_check("12b", "study", "skips", theirs="not measured")
def _skips(runs: Runs) -> tuple[str, str]:
    """Holds if deleting a skip costs at least ten points in the median, interval included, and a branch less than 2."""
    branches, skips = runs["study"].tables["deletions"]["damage"], _lesions(runs["skips"])
    here = f"a skip {_median_damage(skips)} in the median, a branch {_median_damage(branches)}"
    return here, _of([median_interval(skips)[0] > 0.1, median_interval(branches)[1] < _CHEAP])


@_check("12c", "study", theirs="not measured")
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
        f"{after.high} after it, by count × magnitude; mean length by share {change} blocks ({low} to {high}) above "
        "that before"
    )
    return here, _of([before.high > depth.longest / 3 >= after.high])


@_check("13", "layers", theirs="not of residual networks for images")
def _layers(runs: Runs) -> tuple[str, str]:
    """Holds if skipping, swapping or repeating one layer costs less than 2 points in the median."""
    damage = _lesions(runs["layers"])
    return f"{_median_damage(damage)} in the median", _of([median_interval(damage)[1] < _CHEAP])


def _lesions(record: Record) -> pd.Series:
    return record.tables["lesions"]["damage"]


def _paths(runs: Runs) -> pd.DataFrame:
    return runs["study"].tables["lengths"]


def _of(true: list[bool]) -> str:
    return HOLDS if all(true) else PARTLY if any(true) else FAILS
