"""The verdict on each of the four questions, in one or two sentences written from the numbers at hand."""

from __future__ import annotations

from resect.jobs import paper
from resect.jobs.findings import Study
from resect.report.study.phrases import at_chance, single_deletions, without_several
from resect.report.study.trend import trend
from resect.report.study.untrained import untrained
from resect.words import contribute, decimal, percent, plural, two_to

# Where a number turns into a word. A reader who draws the lines elsewhere has the numbers beside every verdict.
_CHEAP = 0.02  # a deletion that costs less error than this barely changes the network
_COSTLY = 0.1
_FEW_PATHS = 0.1  # of all paths: effective paths that are more are no shallow minority


def verdicts(study: Study) -> tuple[str, str, str, str]:
    """One answer to each question."""
    return _ensemble(study), _depth(study), _gradient(study), _multiplicity(study)


def _ensemble(study: Study) -> str:
    ensemble, unit = study.answers.ensemble, study.subject.unit
    intact, without_one = percent(ensemble.intact_error), percent(ensemble.error_without_tenth)
    if at_chance(study, ensemble.intact_error):
        return (
            f"This cannot be told: the intact network errs on {intact} of the samples, where always naming the "
            f"commonest class errs on {percent(ensemble.chance_error)}."
        )
    if study.subject.blocks == 1:
        return (
            f"It has a single {unit}; without it the error is {without_one}, with it {intact}. One deletion cannot "
            "show an ensemble."
        )
    robust = float((study.deletions["damage"] < _CHEAP).mean()) > 0.5
    if unit == "layer":
        kind = "It is one path, yet most layers can go, one at a time" if robust else "Hardly; it is one path"
        return f"{kind}: {single_deletions(study)}."
    kind = _kind_of_ensemble(study) if robust else f"Not by this test, unlike the {paper.NETWORK} of the paper"
    several = f" {without_several(ensemble, unit)}" if ensemble.half > 1 else ""
    return f"{kind}: {single_deletions(study)}.{several}"


def _kind_of_ensemble(study: Study) -> str:
    """What deletions say of a network of which most single blocks can go."""
    ensemble = study.answers.ensemble
    chance = 1.0 if ensemble.chance_error is None else ensemble.chance_error
    several, error = ensemble.tenth, ensemble.error_without_tenth
    if several == 1:
        several, error = ensemble.half, ensemble.error_without_half
    if several > 1 and error > (ensemble.intact_error + chance) / 2:
        return f"In part; most blocks can go, one at a time, but not {several} at once"
    costly = int((study.deletions["damage"] > _COSTLY).sum())
    if costly:
        few = "one costs" if costly == 1 else f"{costly} cost"
        return f"For the most part; most blocks can go, one at a time, but {few} more than 10 points"
    if several == 1:
        return "As far as single deletions can tell, yes"
    return "Yes; its paths do not depend strongly on each other"


def _depth(study: Study) -> str:
    depth = study.answers.depth
    if depth is None:
        blocks = study.subject.blocks
        through = f"its {study.subject.unit}" if blocks == 1 else f"all {plural(blocks, study.subject.unit)}"
        return f"A plain network has one path, through {through}."
    share, longest = depth.by_share, depth.longest
    if longest < 4:
        relation = "So few blocks leave no room between short and long paths"
    elif share.high <= longest / 2:
        few = share.path_fraction < _FEW_PATHS
        relation = "Shallow" if few else "At most half as deep as the longest path, but no small part of all paths"
    elif share.low > longest / 2:
        relation = "Deep, unlike in the paper"
    elif share.high < longest:
        relation = "Of middling depth, not shallow as in the paper"
    else:
        relation = "Up to the full depth, unlike in the paper"
    text = (
        f"{relation}: the longest path has {plural(longest, 'block')}, and {percent(share.held)} of the gradient runs "
        f"through paths of {share.lengths}, {percent(share.path_fraction)} of all paths; by the paper's "
        f"count × magnitude, {percent(depth.by_magnitude.held)} through paths of {depth.by_magnitude.lengths}."
    )
    return f"{text} {untrained(study)}".rstrip()


def _gradient(study: Study) -> str:
    gradient, depth = study.answers.gradient, study.answers.depth
    if gradient is None or depth is None:
        return "None: all of it comes over the one path there is."
    parts = [gradient.share_to_tenth, gradient.share_to_quarter, gradient.share_full]
    tenth, quarter = plural(gradient.tenth, "block"), plural(gradient.quarter, "block")
    short, more = f"Paths of at most a tenth of the depth, {tenth}, carry", f"of at most a quarter, {quarter}"
    if gradient.tenth == 0:
        short = "The path that takes no branch at all carries"
        more = f"paths of at most a quarter of the depth, {quarter}"
    text = f"{short} {percent(gradient.share_to_tenth)} of it"
    if gradient.quarter > gradient.tenth:
        text += f", {more}, {percent(gradient.share_to_quarter)}"
    text += f"; the longest, of {plural(depth.longest, 'block')}, {percent(gradient.share_full)}."
    if depth.longest >= 4 and gradient.share_to_quarter < 0.5:
        text += " Most of it comes from longer paths, unlike in the paper."
    if max(parts) > 1.0005:
        text += " More than 100 % means that the other paths pull against the whole."
    if min(parts) <= -1e-4:
        text += " What is negative pulls against the whole."
    return text


def _multiplicity(study: Study) -> str:
    row, *others = study.answers.multiplicity
    if not row.log2_paths and not others:
        return "It has a single path: a plain network has depth and width, but no multiplicity."
    paths = (
        f"Of its {two_to(row.log2_paths)} paths {contribute(row.log2_effective_paths)}; by share they are "
        f"{decimal(row.effective_depth, 1)} blocks deep on average."
    )
    compared = "What multiplicity does takes networks to compare: name some with --beside."
    if others:
        compared = trend(study.answers)
    return f"{paths if row.log2_paths else 'It has a single path.'} {compared}"
