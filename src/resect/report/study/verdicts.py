"""The verdict on each of the four questions, in one or two sentences written from the numbers at hand."""

from __future__ import annotations

import numpy as np

from resect.jobs import paper
from resect.jobs.findings import EnsembleAnswer, MultiplicityRow, Study
from resect.words import decimal, large, lengths, percent, plural, points, two_to

# Where a number turns into a word. A reader who draws the lines elsewhere has the numbers beside every verdict.
_CHEAP = 0.02  # a deletion that costs less error than this barely changes the network
_COSTLY = 0.1
_FEW_PATHS = 0.1  # of all paths: effective paths that are more are no shallow minority


def verdicts(study: Study) -> tuple[str, str, str, str]:
    """One answer to each question."""
    return _ensemble(study), _depth(study), _gradient(study), _multiplicity(study)


def near_chance(ensemble: EnsembleAnswer) -> bool:
    """Whether the intact network does not do better than chance, so that no deletion can tell anything."""
    return ensemble.chance_error is not None and ensemble.intact_error > 0.9 * ensemble.chance_error


def without_several(ensemble: EnsembleAnswer, tenth: str, measured: str = "") -> str:
    """The error without a tenth of the blocks, which is so many, and without half of them."""
    text = f"Without {tenth} the error is {percent(ensemble.error_without_tenth)}{measured}"
    if ensemble.half == ensemble.tenth:
        return f"{text}."
    return f"{text}, without {ensemble.half} it is {percent(ensemble.error_without_half)}."


def _ensemble(study: Study) -> str:
    ensemble, unit = study.answers.ensemble, study.subject.unit
    if near_chance(ensemble):
        return (
            f"This cannot be told: the intact network errs on {percent(ensemble.intact_error)} of the samples, where "
            f"always naming the commonest class errs on {percent(ensemble.chance_error)}."
        )
    worst = points(ensemble.largest_damage)
    if study.subject.blocks == 1:
        return (
            f"It has a single {unit}; without it the error is {percent(ensemble.error_without_tenth)}, {worst} more. "
            "One deletion cannot show an ensemble."
        )
    cost = f"deleting one {unit} costs {points(ensemble.median_damage)} of error in the median, at most {worst}"
    cost += f" ({ensemble.largest_damage_block})."
    robust = ensemble.median_damage < _CHEAP
    if unit == "layer":
        kind = "It is one path, yet a redundant one" if robust else "Hardly: as a plain network it is one path"
        return f"{kind}; {cost}"
    kind = _kind_of_ensemble(study) if robust else f"Not by this test, unlike the {paper.NETWORK} of the paper"
    return f"{kind}: {cost} {without_several(ensemble, plural(ensemble.tenth, unit))}"


def _kind_of_ensemble(study: Study) -> str:
    """What deletions say of a network of which most single blocks can go."""
    ensemble = study.answers.ensemble
    chance = 1.0 if ensemble.chance_error is None else ensemble.chance_error
    if ensemble.error_without_tenth > (ensemble.intact_error + chance) / 2:
        return "In part; it survives single deletions, but not several at once"
    costly = int((study.deletions["damage"] > _COSTLY).sum())
    if costly:
        few = "one costs" if costly == 1 else f"{costly} cost"
        return f"For the most part; most blocks can go, one at a time, but {few} more than 10 points"
    return "Yes; its paths do not depend strongly on each other"


def _depth(study: Study) -> str:
    depth = study.answers.depth
    if depth is None:
        return f"A plain network has one path, through all {plural(study.subject.blocks, study.subject.unit)}."
    share, longest = depth.by_share, depth.longest
    if longest < 4:
        relation = f"So few blocks ({longest}) leave no room between short and long paths"
    elif share.high <= longest / 2 and share.path_fraction < _FEW_PATHS:
        relation = f"Shallow, where the longest path has {longest} blocks"
    elif share.high < longest:
        relation = f"Of middling depth, not shallow as in the paper, where the longest path has {longest} blocks"
    else:
        relation = f"Up to the full depth of {longest} blocks, unlike in the paper"
    return (
        f"{relation}: {percent(depth.mass, 0)} of the gradient runs through paths of {lengths(share)}, "
        f"{percent(share.path_fraction)} of all paths; by the paper's count × magnitude, of "
        f"{lengths(depth.by_magnitude)}."
    )


def _gradient(study: Study) -> str:
    gradient, depth = study.answers.gradient, study.answers.depth
    if gradient is None or depth is None:
        return "None: all of it comes over the one path there is."
    text = f"Paths of at most {plural(gradient.tenth, 'block')}, a tenth of the depth, carry"
    if gradient.tenth == 0:
        text = "The path that takes no branch at all carries"
    text += f" {percent(gradient.share_to_tenth)}"
    if gradient.quarter > gradient.tenth:
        quarter = percent(gradient.share_to_quarter)
        text += f", those of at most {plural(gradient.quarter, 'block')}, a quarter, {quarter}"
    text += f"; the longest, of {plural(depth.longest, 'block')}, {percent(gradient.share_full)}."
    if gradient.share_to_quarter <= 0.5:
        text += " Most of it comes from longer paths, unlike in the paper."
    if max(gradient.share_to_quarter, gradient.share_to_tenth) > 1.0005:
        text += " More than 100 % means that longer paths pull against the whole."
    return text


def _multiplicity(study: Study) -> str:
    row, *others = study.answers.multiplicity
    if not row.log2_paths and not others:
        return "It has a single path: a plain network has depth and width, but no multiplicity."
    paths = (
        f"Of its {two_to(row.log2_paths)} paths about {two_to(row.log2_effective_paths)} effectively contribute; by "
        f"share they are {decimal(row.effective_depth, 1)} blocks deep on average."
    )
    compared = "What multiplicity does takes networks to compare: name some with --beside."
    if others:
        compared = trend(study.answers.multiplicity)
    return f"{paths if row.log2_paths else 'It has a single path.'} {compared}"


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
    steps, sizes = np.diff([row.error for row in ordered]), np.diff([row.parameters for row in ordered])
    among = f"Among these {len(rows)} networks the error"
    if not steps.any() or (steps.min() < 0 < steps.max()):
        return f"{among} does not follow the effective number of paths."
    kind = f"{among} {'falls' if steps.min() < 0 else 'rises'} as the effective number of paths grows"
    if (sizes >= 0).all():
        return f"{kind}; the parameters grow along with it, so that this alone does not tell the two apart."
    return f"{kind}, though the parameters do not grow in the same order."
