"""What each figure shows, and what it means for the network at hand."""

from __future__ import annotations

import numpy as np

from resect.figures.strip import SMALLEST_LOSS
from resect.jobs import paper
from resect.jobs.findings import Study
from resect.paths.measures import Effective
from resect.report.study.verdicts import near_chance, trend, without_several
from resect.words import decimal, lengths, percent, plural, points, power_of_ten, two_to

Caption = tuple[str, str]  # what it shows, what it means


def _at_chance(unit: str) -> str:
    return f"As the intact network is no better than chance, this says nothing about what its {unit}s do."


def strip_caption(study: Study) -> Caption:
    """Of the block diagram."""
    unit, count = study.subject.unit, study.subject.blocks
    counted = study.blocks["kind"].value_counts()
    kinds = f" ({', '.join(f'{number} {kind}' for kind, number in counted.items())})" if unit == "block" else ""
    shows = (
        f"The network's {plural(count, unit)} in order{kinds}, coloured by how much the mean cross-entropy grows when "
        f"each is deleted. Brackets: spans, within which {unit}s can trade places."
    )
    grown = study.deletions["loss"] - study.intact_loss
    worst, nats = study.deletions["name"][int(grown.argmax())], f"{power_of_ten(float(grown.max()))} nats"
    idle = int((grown < SMALLEST_LOSS).sum())
    if idle == count:
        return shows, f"No single {unit} matters: without any one the loss grows by less than 0.001 nats, if at all."
    if count == 1:
        return shows, f"Without {worst} the loss grows by {nats}."
    which = f"{idle} of {count} could{' each' if idle > 1 else ''}" if idle else "None could"
    return shows, (
        f"{which} be deleted alone at a cost below 0.001 nats; the network depends most on {worst} ({nats})."
    )


def deletions_caption(study: Study) -> Caption:
    """Of the single deletions (paper, Figure 3)."""
    ensemble, unit, damage = study.answers.ensemble, study.subject.unit, study.deletions["damage"]
    shows = f"Error on {plural(study.subject.samples, 'sample')} without each {unit} in turn"
    if study.plain:
        shows += (
            f"; at the right {study.plain.model}, a plain network, without each layer. Mind the scales: the left axis "
            "ends where its data end, the right one at 100 %, with the range of the left figure as a blue band"
        )
    worst, most = ensemble.largest_damage_block, points(ensemble.largest_damage)
    harmless, helped = int((damage < 0.01).sum()), int((damage < 0).sum())
    means = f"{harmless} of {plural(study.subject.blocks, unit)} cost less than one point; "
    means += f"the most costly is {worst} with {most}."
    if study.subject.blocks == 1:
        means = f"Without {worst} the error grows by {most}."
    if helped:
        means += f" Without {'one' if helped == 1 else helped} the error is even lower than intact."
    means += _downsampling(study) + _plain(study)
    if near_chance(ensemble):
        means += f" {_at_chance(unit)}"
    return f"{shows}. {paper.ONE_DELETED.where} of the paper.", means


def _downsampling(study: Study) -> str:
    """How the downsampling blocks stand beside the others, and whether that is as in the paper."""
    table = study.deletions
    down, others = table[table["downsampling"]], table[~table["downsampling"]]
    if not len(down) or not len(others):
        return ""
    mean, rest = float(down["damage"].mean()), float(others["damage"].mean())
    text = f" The downsampling blocks cost {points(mean)} on average, the others {points(rest)}."
    if mean <= rest:
        return f"{text} In the paper's {paper.NETWORK} they stand out; here they do not."
    if study.answers.ensemble.largest_damage_block not in set(down["name"]):
        return f"{text} In the paper's {paper.NETWORK} they cost most; here another block does."
    return text


def _plain(study: Study) -> str:
    """What deletions do to the plain control, beside the network."""
    control = study.plain
    if control is None:
        return ""
    text = f" The plain network loses {points(control.median_damage)} in the median and "
    text += f"{points(control.largest_damage)} at {control.largest_damage_layer}."
    if control.median_damage <= study.answers.ensemble.median_damage:
        text += " Unlike in the paper, that is no worse."
    if control.refused:
        verb = "changes the shape of its input and cannot" if control.refused == 1 else "change the shape and cannot"
        text += f" {plural(control.refused, 'layer')} of it {verb} be deleted."
    return text


def random_caption(study: Study) -> Caption:
    """Of the random deletions (paper, Figure 5a)."""
    ensemble, unit = study.answers.ensemble, study.subject.unit
    groups = study.random.groupby("deleted")["error"]
    most, repeats, means = int(study.random["deleted"].max()), int(groups.size().max()), groups.mean()
    what = f"1 to {plural(most, unit)} are" if most > 1 else f"1 {unit} is"
    shows = f"Error when {what} deleted at random, {repeats} draws for each number. "
    shows += f"{paper.SEVERAL_DELETED.where} of the paper."
    if near_chance(ensemble):
        return shows, _at_chance(unit)
    numbers = without_several(ensemble, str(ensemble.tenth), " on average")
    rise = float(means.max()) - ensemble.intact_error
    if len(means) < 4:
        return shows, numbers
    if rise < 0.02:
        return shows, f"Unlike in the paper, the error hardly rises. {numbers}"
    reached = (means.to_numpy() - ensemble.intact_error) / rise
    early, late = (int(means.index[int(np.argmax(reached >= part))]) for part in (0.1, 0.9))
    if late - early >= most / 4:
        kind = "The error rises over many numbers of deletions, as the paper found for an ensemble whose members leave"
    else:
        kind = f"The error rises abruptly, unlike in the paper, where it {paper.SEVERAL_DELETED}"
    where = f"a tenth of the rise is reached at {plural(early, unit)}, nine tenths at {late}"
    return shows, f"{kind}: {where}. {numbers}"


def reordering_caption(study: Study) -> Caption:
    """Of the reorderings (paper, Figure 5b)."""
    ensemble, unit = study.answers.ensemble, study.subject.unit
    shows = (
        f"Error of {plural(ensemble.reorderings, 'network')} in which random pairs of {unit}s of one span have traded "
        f"places, by how much of the order is left. {paper.REORDERED.where} of the paper."
    )
    correlation = ensemble.tau_correlation
    if correlation is None:
        return shows, "All have the same error, so that there is no correlation to speak of."
    if near_chance(ensemble):
        return shows, _at_chance(unit)
    if correlation < -0.3:
        relation = "the more disorder, the more error, as in the paper"
    elif correlation > 0.3:
        relation = "unlike in the paper, the error falls with disorder"
    else:
        relation = "unlike in the paper, the error does not follow the disorder"
    return shows, (
        f"The rank correlation of error and Kendall tau is {decimal(correlation)}: {relation}. The worst order errs "
        f"on {percent(float(study.reorderings['error'].max()))}, the intact one on {percent(ensemble.intact_error)}."
    )


def counts_caption(study: Study) -> Caption:
    """Of the path counts (paper, Figure 6a)."""
    depth, row = study.answers.depth, study.answers.multiplicity[0]
    assert depth is not None and study.lengths is not None
    reached = study.lengths["path_fraction"].cumsum()
    low, high = (int(reached.searchsorted(part)) for part in (0.025, 0.975 - 1e-9))  # the middle 95 % of the paths
    share = depth.by_share
    shows = (
        f"How many of the {two_to(row.log2_paths)} paths have each length, counted exactly. Brackets: the lengths that "
        f"hold {percent(depth.mass, 0)} of the gradient by either measure. {paper.PATHS.where} of the paper."
    )
    most = f"95 % of the paths have {low} to {high} blocks" if low != high else f"Most paths have {low} blocks"
    contrast = "but those that carry the gradient have" if share.high < (low + high) / 2 else "and the gradient runs in"
    return shows, f"{most}, {contrast} {lengths(share)}: {percent(share.path_fraction)} of all paths."


def share_caption(study: Study) -> Caption:
    """Of the shares (paper, Figure 6c)."""
    depth, gradient = study.answers.depth, study.answers.gradient
    assert depth is not None and gradient is not None and study.lengths is not None
    shows = (
        "Blue: the exact part of the gradient that all paths of one length carry together; the parts sum to 100 %. "
        "Orange and green: the paper's measure, the number of paths times the norm of sampled single ones (mean, root "
        f"mean square), scaled to the same sum. Brackets: {percent(depth.mass, 0)} of each. "
        f"{paper.EFFECTIVE.where} of the paper."
    )
    share, cancel = study.lengths["share"], ""
    if share.min() < -1e-4:
        where = int(study.lengths["length"].iloc[int(share.argmin())])
        cancel = (
            f" Shares are negative where the paths of a length pull against the whole, most at length {where} "
            f"({percent(float(share.min()))})."
        )
    return shows, (
        f"By exact share the effective paths have {lengths(depth.by_share)}, by count × magnitude "
        f"{lengths(depth.by_magnitude)}. {_gap(depth.by_share, depth.by_magnitude)}{cancel} The sum over all lengths "
        f"differs from the gradient of autograd by {power_of_ten(gradient.sum_error)} of its norm."
    )


def _gap(share: Effective, magnitude: Effective) -> str:
    """What it means where the ranges of the two measures end."""
    if magnitude.high > share.high:
        return "The exact range ends earlier: much of what the longer paths carry cancels in their sum."
    if magnitude.high == share.high:
        return "Both ranges end at the same length."
    return "The exact range reaches further than count × magnitude: long paths pull in one direction."


def norm_caption(study: Study) -> Caption:
    """Of the norms (paper, Figure 6b)."""
    assert study.lengths is not None
    shows = (
        "Norm of the gradient that all paths of one length carry together, and of single sampled paths, averaged over "
        f"samples. Left: each curve as a part of its largest value. Right: absolute. {paper.SINGLE_PATH.where} of the "
        "paper."
    )
    table = study.lengths.dropna(subset=["path_norm"])
    table = table[table["path_norm"] > 0]
    if len(table) < 2:
        return shows, "Too few lengths have paths with a gradient to speak of a trend."
    first, last = table.iloc[0], table.iloc[-1]
    ratio = float(first["path_norm"] / last["path_norm"])
    verb = paper.SINGLE_PATH.said if ratio > 1 else "grows, unlike in the paper,"
    means = f"The norm of a single path {verb} by a factor of {power_of_ten(max(ratio, 1 / ratio))} from length "
    means += f"{int(first['length'])} to {int(last['length'])}."
    spread = float((table["path_norm_rms"] / table["path_norm"]).max())
    if spread > 1.5:
        means += (
            f" The root mean square over all paths is up to {power_of_ten(spread)} times the sampled mean: few paths, "
            "and few samples, are strong."
        )
    return shows, means


def multiplicity_caption(study: Study) -> Caption:
    """Of the comparison with other networks."""
    return (
        "All paths, and those that effectively contribute: 2 to the power of the entropy, in bits, of the paths' "
        "shares. At the right the error of the intact networks.",
        trend(study.answers.multiplicity),
    )
