"""Claims about lesions, and about networks that are trained or averaged in other ways."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import numpy as np
import pandas as pd
from scipy.stats import binomtest, spearmanr

from resect.jobs import authors
from resect.jobs.claims.check import (
    CHEAP,
    DEPTHS,
    FAILS,
    HOLDS,
    PARTLY,
    UNKNOWN,
    Runs,
    above,
    below,
    check,
    judged,
    lesions_of,
    median_of,
)
from resect.jobs.findings import Study, rise_of, tau_correlation
from resect.measuring.ranks import correlation_interval, median_interval
from resect.models.names import WEIGHTS
from resect.runs.record import Record
from resect.words import decimal, percent, plural, points, span

_AUTHORS = "preresnet110"
_EPOCHS = 164


def _damages(network: str) -> pd.Series:
    return authors.measured(network, "delete").sort_values("block")["error"] - authors.intact(network)


def _by_share(paths: Record) -> str:
    """On which paths the gradient lies."""
    mean, effective = decimal(paths.found["multiplicity"]["effective_depth"], 1), paths.found["effective"]
    return f"paths of {span(effective['low'], effective['high'], 'block')}, {mean} in the mean"


def _several(errors: pd.Series, counts: pd.Series) -> str:
    by_count = errors.groupby(counts).median()
    some = [k for k in (1, 5, 10, 15, 20) if k in by_count.index]
    blocks = "block" if some == [1] else "blocks"
    return f"{', '.join(percent(by_count[k]) for k in some)} without {', '.join(map(str, some))} {blocks}, medians"


def _single(network: str) -> str:
    return _singles(authors.intact(network), _damages(network))


def _singles(intact: float, damage: pd.Series) -> str:
    cheap = int((damage < 0.016).sum())
    return (
        f"intact {percent(intact)}; {median_of(damage)} in the median, {cheap} of {len(damage)} below 1.6 points, "
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
    table, intact = authors.measured(_AUTHORS, "repeat several"), authors.intact(_AUTHORS)
    one, ten = (table["error"][table["count"] == count] for count in (1, 10))
    return (
        f"one block twice: {median_of(one - intact)} in the median, {plural(len(one), 'run')}; intact "
        f"{percent(intact)}, with 10 random blocks twice, never the first of a stage, {percent(float(ten.median()))}, "
        f"{plural(len(ten), 'run')}"
    )


def _apart(ours: pd.Series, theirs: pd.Series) -> str:
    """What deletions cost with stochastic depth and without."""
    all_ours, down_ours, all_theirs, down_theirs = map(points, (*_means(ours), *_means(theirs)))
    return (
        f"{all_ours} on average, {down_ours} at downsampling blocks; with ordinary training {all_theirs} and "
        f"{down_theirs}; {median_of(theirs - ours)} less for a block in the median"
    )


def _means(damage: pd.Series) -> tuple[float, float]:
    """Mean damages of a ResNet's blocks, all in their order: of all, and of those that begin its second and third
    stage.
    """
    stage = len(damage) // 3
    return float(damage.mean()), float(damage.iloc[[stage, 2 * stage]].mean())


@check("1", "study", theirs=f"{_single(_AUTHORS)}; VGG to chance", alone=("deletions", "control"))
def _deletions(runs: Runs) -> tuple[str, str]:
    """Holds if nine in ten of the blocks that do not downsample cost less than 2 points, and a layer of the plain
    network more than half of the way to chance in the median, interval included; in part if one of both.
    """
    table, intact, chance, plain = _of_sweeps(runs) if "control" in runs else _of_study(Study.of(runs["study"]))
    others = table["damage"][~table["downsampling"].to_numpy(bool)]
    largest = str(table["name"].iloc[int(table["damage"].argmax())])
    cheap = int((others < CHEAP).sum())
    here = f"{_singles(intact, table['damage'])} ({largest})"
    here += f"; {cheap} of {len(others)} that do not downsample below 2 points"
    true: list[bool | None] = [cheap >= 0.9 * len(others)]
    if plain:
        here += f"; {plain.name} {median_of(plain.damage)}"
        true.append(above(median_interval(plain.damage), ((chance or 1.0) - plain.intact) / 2))
    return here, judged(true)


@dataclass(frozen=True)
class _Plain:
    """What deletions cost the plain network."""

    name: str
    intact: float
    damage: pd.Series


_Deleted = tuple[pd.DataFrame, float, float | None, _Plain | None]  # deletions, intact error, chance, plain network


def _of_study(study: Study) -> _Deleted:
    ensemble, plain = study.answers.ensemble, None
    if own := study.plain:
        plain = _Plain(own.model.partition(":")[2], own.intact_error, own.deletions["damage"])
    return study.deletions, ensemble.intact_error, ensemble.chance_error, plain


def _of_sweeps(runs: Runs) -> _Deleted:
    own, control = runs["deletions"], runs["control"]
    table = own.tables["lesions"]
    table = table.assign(downsampling=table["block"].isin(own.found.get("downsampling", [])))
    name = control.asked["model"].partition(":")[2]
    plain = _Plain(name, control.found["intact"]["error"], lesions_of(control))
    return table, own.found["intact"]["error"], own.found["chance_error"], plain


@check("1b", *DEPTHS, "deletions", theirs=_by_depth())
def _depths(runs: Runs) -> tuple[str, str]:
    """Holds if the median damage falls with every step of depth, from the shallowest to the deepest beyond their
    intervals; in part if it falls so from the shallowest to the deepest, but not at every step; does not if it rises so
    from any to the deepest; else it cannot be said.
    """
    damages = [lesions_of(runs[name]) for name in (*DEPTHS, "deletions")]
    here = f"{', '.join(map(median_of, damages))} in the median at depth 20, 32, 44, 56 and 110"
    *others, (low, high) = map(median_interval, damages)
    if any(end < low for _, end in others):
        return here, FAILS
    if others[0][0] <= high:
        return here, UNKNOWN
    return here, HOLDS if (np.diff([damage.median() for damage in damages]) < 0).all() else PARTLY


@check("2", "imagenet", theirs=f"ResNet-200: {_single('resnet200')}")
def _imagenet(runs: Runs) -> tuple[str, str]:
    """Holds if the median damage of a block is below 2 points, interval included; does not if it is above; else it
    cannot be said.
    """
    record = runs["imagenet"]
    damage = lesions_of(record)
    here = _singles(record.found["intact"]["error"], damage)
    return here, judged([below(median_interval(damage), CHEAP)])


@check(
    "3",
    "study",
    theirs=_several(*(authors.measured(_AUTHORS, "delete several")[c] for c in ("error", "count"))),
    alone=("random",),
)
def _random(runs: Runs) -> tuple[str, str]:
    """Holds if the mean error goes from a tenth to nine tenths of its whole rise over at least a quarter of the numbers
    of blocks that were deleted, and of the draws of these numbers more than half, interval included, lie between a
    tenth and nine tenths themselves, as they would not if one block decided; in part if one of both; does not if it
    rises by less than 2 points.
    """
    if run := runs.get("random"):
        table, intact = run.tables["lesions"], run.found["intact"]["error"]
    else:
        study = Study.of(runs["study"])
        table, intact = study.random, study.answers.ensemble.intact_error
    here = _several(table["error"], table["deleted"])
    if table.groupby("deleted")["error"].mean().max() - intact < CHEAP:
        return f"{here}: it hardly rises", FAILS
    early, late = rise_of(table, intact)
    inside = _partly(table, intact, early, late)
    low, high = binomtest(int(inside.sum()), len(inside)).proportion_ci(method="wilson")
    here += (
        f"; a tenth of the rise is reached at {plural(early, 'block')}, nine tenths at {late}; of the draws there "
        f"{percent(inside.mean())} ({percent(low)} to {percent(high)}) lie between"
    )
    return here, judged([bool(late - early >= table["deleted"].max() / 4), above((low, high), 0.5)])


def _partly(table: pd.DataFrame, intact: float, early: int, late: int) -> pd.Series:
    """Of every draw of so many blocks: does its error lie between a tenth and nine tenths of the whole rise?"""
    rise = float(table.groupby("deleted")["error"].mean().max()) - intact
    errors = table["error"][table["deleted"].between(early, late)]
    return ((errors - intact) / rise).between(0.1, 0.9)


@check("4", "study", theirs=_swapped(), alone=("shuffled",))
def _reordered(runs: Runs) -> tuple[str, str]:
    """Holds if the rank correlation of error and Kendall tau is below -0.5, interval included; in part if it is below
    0; does not if it is above; else it cannot be said.
    """
    if run := runs.get("shuffled"):
        count, value = len(run.tables["lesions"]), tau_correlation(run.tables["lesions"])
    else:
        study = Study.of(runs["study"])
        count, value = len(study.reorderings), study.answers.ensemble.tau_correlation
    if value is None:
        return "no correlation, as all errors are equal", UNKNOWN
    here = f"rank correlation of error and Kendall tau {_correlation(value, count)}, {plural(count, 'reordering')}"
    interval = correlation_interval(value, count)
    if below(interval, -0.5):
        return here, HOLDS
    return here, PARTLY if below(interval, 0) else judged([below(interval, 0)])


@check("5", "twice", "several-twice", theirs=_repeated())
def _twice(runs: Runs) -> tuple[str, str]:
    """Holds if running a block twice costs less than 2 points in the median, interval included; does not if it costs
    more; else it cannot be said.
    """
    damage, several = lesions_of(runs["twice"]), runs["several-twice"]
    here = f"one block twice: {median_of(damage)} in the median, {points(damage.max())} at most"
    table = several.tables["lesions"]
    if (most := int(table["repeated"].max())) > 1:
        errors = table["error"][table["repeated"] == most]
        here += (
            f"; intact {percent(several.found['intact']['error'])}, with {most} random blocks twice "
            f"{percent(float(errors.median()))}, {plural(len(errors), 'run')}"
        )
    return here, judged([below(median_interval(damage), CHEAP)])


@check("9", "effective", theirs="5.96 % on 23 of 54 blocks, 6.10 % in full, 164 epochs each")
def _trained(runs: Runs) -> tuple[str, str]:
    """Holds if the difference of the test errors, with its interval, is below half a point; does not if it is above 0
    after the 164 epochs of the paper; else it cannot be said.
    """
    full, short = (runs["effective"].tables["networks"].iloc[i] for i in (0, 1))
    low, high, epochs = float(short["difference_low"]), float(short["difference_high"]), _epochs(short["model"])
    here = (
        f"{percent(short['error'], 2)} on 23 of 54 blocks, {percent(full['error'], 2)} in full, by the weights "
        f"shipped, {plural(epochs, 'epoch')} and one seed each: {points(short['difference'])} ({points(low)} to "
        f"{points(high)}, over images)"
    )
    if high < 0.005:
        return here, HOLDS
    return here, FAILS if low > 0 and epochs >= _EPOCHS else UNKNOWN


def _epochs(shipped: str) -> int:
    """For how many epochs a network was trained, by its card."""
    with resources.as_file(WEIGHTS / f"{shipped.removeprefix('resect:')}.json") as card:
        return int(Record.read(card).asked["recipe"]["epochs"])


@check(
    "10",
    *("deletions", "stochastic", "paths", "stochastic-paths"),
    theirs=_apart(_damages("stochdepth110"), _damages(_AUTHORS)),
)
def _stochastic(runs: Runs) -> tuple[str, str]:
    """Holds if a block costs less than with ordinary training in the median, interval included, and downsampling blocks
    do on average; in part if one of both.
    """
    ours, theirs = lesions_of(runs["stochastic"]), lesions_of(runs["deletions"])
    (_, with_it), (_, without) = map(_means, (ours, theirs))
    shares, beside = (_by_share(runs[name]) for name in ("stochastic-paths", "paths"))
    here = (
        f"{_apart(ours, theirs)}; of the gradient, by exact share, 95 % on {shares}; with ordinary training {beside} "
        f"({plural(runs['paths'].found['samples'], 'sample')})"
    )
    return here, judged([above(median_interval(theirs - ours), 0), with_it < without])


@check("12a", "ensemble", theirs="not measured")
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


@check("12b", "deletions", "skips", theirs="not measured")
def _skips(runs: Runs) -> tuple[str, str]:
    """Holds if deleting a skip costs more than ten points in the median, and a branch less than 2, intervals included;
    in part if one of both.
    """
    branches, skips = lesions_of(runs["deletions"]), lesions_of(runs["skips"])
    here = f"a skip {median_of(skips)} in the median, a branch {median_of(branches)}"
    return here, judged([above(median_interval(skips), 0.1), below(median_interval(branches), CHEAP)])
