"""The verdict on each of the four questions, in one or two sentences written from the numbers at hand."""

from __future__ import annotations

import numpy as np

from resect.jobs.findings import EnsembleAnswer, MultiplicityRow, Study
from resect.words import decimal, large, lengths, percent, plural, points, two_to

QUESTIONS = (
    "Does it behave like an ensemble at test time, and of what kind?",
    "How deep are its effective members?",
    "How much of the gradient comes from very short members?",
    "What does multiplicity do, beside depth and width?",
)
# Where a number turns into a word. A reader who draws the lines elsewhere has the numbers beside every verdict.
_CHEAP = 0.02  # a deletion that costs less error than this barely changes the network
_COSTLY = 0.1
_FEW_PATHS = 0.1  # of all paths: effective paths that are more are no shallow minority


def verdicts(study: Study) -> tuple[str, str, str, str]:
    """One answer to each question."""
    return ensemble_verdict(study), depth_verdict(study), gradient_verdict(study), multiplicity_verdict(study)


def near_chance(found: EnsembleAnswer) -> bool:
    """Whether the intact network does not do better than chance, so that no deletion can tell anything."""
    return found.chance_error is not None and found.intact_error > 0.9 * found.chance_error


def ensemble_verdict(study: Study) -> str:
    """Question 1."""
    found, unit = study.answers.ensemble, study.subject.unit
    if near_chance(found):
        return (
            f"This cannot be told: the intact network errs on {percent(found.intact_error)} of the samples, where "
            f"always naming the commonest class errs on {percent(found.chance_error)}."
        )
    if study.subject.blocks == 1:
        return f"It has a single {unit}; without it the error is {percent(found.error_without_tenth)}, " + (
            f"{points(found.largest_damage)} more. One deletion cannot show an ensemble."
        )
    cost = f"deleting one {unit} costs {points(found.median_damage)} of error in the median"
    worst = f"at most {points(found.largest_damage)} ({found.largest_damage_block})"
    robust = found.median_damage < _CHEAP
    if unit == "layer":
        kind = "Hardly: as a plain network it is one path" if not robust else "It is one path, yet a redundant one"
        return f"{kind}; {cost}, {worst}."
    several = f" Without {plural(found.tenth, unit)} the error is {percent(found.error_without_tenth)}"
    several += (
        f", without {found.half} it is {percent(found.error_without_half)}." if found.half != found.tenth else "."
    )
    return f"{_kind_of_ensemble(study, robust)}: {cost}, {worst}.{several}"


def _kind_of_ensemble(study: Study, robust: bool) -> str:
    found = study.answers.ensemble
    if not robust:
        return "Not by this test, unlike the ResNet-110 of the paper"
    middle = (found.intact_error + (found.chance_error if found.chance_error is not None else 1.0)) / 2
    if found.error_without_tenth > middle:
        return "In part; it survives single deletions, but not several at once"
    costly = int((study.deletions["damage"] > _COSTLY).sum())
    if costly:
        few = "one costs" if costly == 1 else f"{costly} cost"
        return f"For the most part; most blocks can go, one at a time, but {few} more than 10 points"
    return "Yes; its paths do not depend strongly on each other"


def depth_verdict(study: Study) -> str:
    """Question 2."""
    found = study.answers.depth
    if found is None:
        return f"A plain network has one path, through all {plural(study.subject.blocks, study.subject.unit)}."
    share = found.by_share
    if share.high <= found.longest / 2 and share.path_fraction < _FEW_PATHS:
        relation = f"Shallow, where the longest path has {found.longest} blocks"
    elif share.high < found.longest:
        relation = f"Of middling depth, not shallow as in the paper, where the longest path has {found.longest} blocks"
    else:
        relation = f"Up to the full depth of {found.longest} blocks, unlike in the paper"
    if found.longest < 4:
        relation = f"So few blocks ({found.longest}) leave no room between short and long paths"
    return (
        f"{relation}: {percent(found.mass, 0)} of the gradient runs through paths of {lengths(share)}, "
        f"{percent(share.path_fraction)} of all paths; by the paper's count × magnitude, of "
        f"{lengths(found.by_magnitude)}."
    )


def gradient_verdict(study: Study) -> str:
    """Question 3."""
    found, depth = study.answers.gradient, study.answers.depth
    if found is None or depth is None:
        return "None: all of it comes over the one path there is."
    tenth = f"Paths of at most {plural(found.tenth, 'block')}, a tenth of the depth, carry"
    if found.tenth == 0:
        tenth = "The path that takes no branch at all carries"
    most = "" if found.share_to_quarter > 0.5 else " Most of it comes from longer paths, unlike in the paper."
    beyond = ""
    if found.share_to_quarter > 1.0005 or found.share_to_tenth > 1.0005:
        beyond = " More than 100 % means that longer paths pull against the whole."
    quarter = ""
    if found.quarter > found.tenth:
        quarter = f", those of at most {plural(found.quarter, 'block')}, a quarter, {percent(found.share_to_quarter)}"
    full = f"the longest, of {plural(depth.longest, 'block')}, {percent(found.share_full)}"
    return f"{tenth} {percent(found.share_to_tenth)}{quarter}; {full}.{most}{beyond}"


def multiplicity_verdict(study: Study) -> str:
    """Question 4."""
    row, *others = study.answers.multiplicity
    if not row.log2_paths and not others:
        return "It has a single path: a plain network has depth and width, but no multiplicity."
    start = (
        f"Of its {two_to(row.log2_paths)} paths about {two_to(row.log2_effective_paths)} effectively contribute; by "
        f"share they are {decimal(row.effective_depth, 1)} blocks deep on average."
    )
    if not row.log2_paths:
        start = "It has a single path."
    if not others:
        return f"{start} What multiplicity does takes networks to compare: name some with --beside."
    return f"{start} {trend(study.answers.multiplicity)}"


def trend(rows: tuple[MultiplicityRow, ...]) -> str:
    """Whether the error falls as multiplicity grows, and whether size grows along with it."""
    if len(rows) == 2:
        more, fewer = sorted(rows, key=lambda row: -row.log2_effective_paths)
        times = large(more.log2_effective_paths - fewer.log2_effective_paths)
        return (
            f"{more.model} has {times} times the effective paths of {fewer.model} and errs on {percent(more.error)} "
            f"against {percent(fewer.error)}; two networks show no trend."
        )
    ordered = sorted(rows, key=lambda row: row.log2_effective_paths)
    steps = np.diff([row.error for row in ordered])
    sizes = np.diff([row.parameters for row in ordered])
    if (steps <= 0).all() and (steps < 0).any():
        kind = f"Among these {len(rows)} networks the error falls as the effective number of paths grows"
    elif (steps >= 0).all() and (steps > 0).any():
        kind = f"Among these {len(rows)} networks the error rises as the effective number of paths grows"
    else:
        return f"Among these {len(rows)} networks the error does not follow the effective number of paths."
    if (sizes >= 0).all():
        return f"{kind}; the parameters grow along with it, so that this alone does not tell the two apart."
    return f"{kind}, though the parameters do not grow in the same order."
