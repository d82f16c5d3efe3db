"""What each figure shows, and what it means for the network at hand."""

from __future__ import annotations

import numpy as np

from resect.figures.strip import SMALLEST_LOSS
from resect.jobs.findings import Study
from resect.paths.measures import Effective
from resect.report.study.verdicts import near_chance, trend
from resect.words import decimal, lengths, percent, plural, points, power_of_ten, two_to

Caption = tuple[str, str]  # what it shows, what it means

_AT_CHANCE = " As the intact network is no better than chance, this says nothing about what its {unit}s do."


def strip_caption(study: Study) -> Caption:
    """Of the block diagram."""
    unit, count = study.subject.unit, study.subject.blocks
    grown = study.deletions["loss"] - study.intact_loss
    idle = int((grown < SMALLEST_LOSS).sum())
    worst = study.deletions["name"][int(grown.argmax())]
    counted = study.blocks["kind"].value_counts()
    kinds = f" ({', '.join(f'{number} {kind}' for kind, number in counted.items())})" if unit == "block" else ""
    shows = (
        f"The network's {plural(count, unit)} in order{kinds}, "
        "coloured by how much the mean cross-entropy grows when each is deleted. Brackets: spans, within which "
        f"{unit}s can trade places."
    )
    if idle == count:
        return shows, f"No single {unit} matters: without any one the loss grows by less than 0.001 nats, if at all."
    if count == 1:
        return shows, f"Without {worst} the loss grows by {power_of_ten(float(grown.max()))} nats."
    which = "None could" if not idle else f"{idle} of {count} could{' each' if idle > 1 else ''}"
    return shows, (
        f"{which} be deleted alone at a cost below 0.001 nats; the network depends most on {worst} "
        f"({power_of_ten(float(grown.max()))} nats)."
    )


def deletions_caption(study: Study) -> Caption:
    """Of the single deletions (paper, Figure 3)."""
    found, unit, table = study.answers.ensemble, study.subject.unit, study.deletions
    shows = f"Error on {plural(study.subject.samples, 'sample')} without each {unit} in turn"
    if study.plain:
        shows += (
            f"; at the right {study.plain.model}, a plain network, without each layer. Mind the scales: the left axis "
            "ends where its data end, the right one at 100 %, with the range of the left figure as a blue band"
        )
    harmless = int((table["damage"] < 0.01).sum())
    means = (
        f"{harmless} of {plural(study.subject.blocks, unit)} cost less than one point; the most costly is "
        f"{found.largest_damage_block} with {points(found.largest_damage)}."
    )
    if study.subject.blocks == 1:
        means = f"Without {found.largest_damage_block} the error grows by {points(found.largest_damage)}."
    helped = int((table["damage"] < 0).sum())
    if helped:
        means += f" Without {'one' if helped == 1 else helped} the error is even lower than intact."
    means += _downsampling(study) + _plain(study)
    return f"{shows}. Figure 3 of the paper.", means + (_AT_CHANCE.format(unit=unit) if near_chance(found) else "")


def _downsampling(study: Study) -> str:
    """How the downsampling blocks stand beside the others, and whether that is as in the paper."""
    table = study.deletions
    down, others = table[table["downsampling"]], table[~table["downsampling"]]
    if not len(down) or not len(others):
        return ""
    mean, rest = float(down["damage"].mean()), float(others["damage"].mean())
    text = f" The downsampling blocks cost {points(mean)} on average, the others {points(rest)}."
    if mean <= rest:
        return f"{text} In the paper's ResNet-110 they stand out; here they do not."
    if study.answers.ensemble.largest_damage_block not in set(down["name"]):
        return f"{text} In the paper's ResNet-110 they cost most; here another block does."
    return text


def _plain(study: Study) -> str:
    """What deletions do to the plain control, beside the network."""
    control, found = study.plain, study.answers.ensemble
    if control is None:
        return ""
    refused = ""
    if control.refused:
        verb = "changes the shape of its input and cannot" if control.refused == 1 else "change the shape and cannot"
        refused = f" {plural(control.refused, 'layer')} of it {verb} be deleted."
    contrast = "" if control.median_damage > found.median_damage else " Unlike in the paper, that is no worse."
    return (
        f" The plain network loses {points(control.median_damage)} in the median and "
        f"{points(control.largest_damage)} at {control.largest_damage_layer}.{contrast}{refused}"
    )


def random_caption(study: Study) -> Caption:
    """Of the random deletions (paper, Figure 5a)."""
    found, unit = study.answers.ensemble, study.subject.unit
    groups = study.random.groupby("deleted")["error"]
    most, repeats, means = int(study.random["deleted"].max()), int(groups.size().max()), groups.mean()
    shows = (
        f"Error when {f'1 to {plural(most, unit)}' if most > 1 else f'1 {unit}'} "
        f"{'are' if most > 1 else 'is'} deleted at random, {repeats} draws for each number. Figure 5a of the paper."
    )
    if near_chance(found):
        return shows, _AT_CHANCE.format(unit=unit).strip()
    numbers = f"Without {found.tenth} the error is {percent(found.error_without_tenth)} on average"
    numbers += (
        f", without {found.half} it is {percent(found.error_without_half)}." if found.half != found.tenth else "."
    )
    rise = float(means.max()) - found.intact_error
    if len(means) < 4:
        return shows, numbers
    if rise < 0.02:
        return shows, f"Unlike in the paper, the error hardly rises. {numbers}"
    reached = (means.to_numpy() - found.intact_error) / rise
    early, late = (int(means.index[int(np.argmax(reached >= part))]) for part in (0.1, 0.9))
    if late - early >= most / 4:
        kind = "The error rises over many numbers of deletions, as the paper found for an ensemble whose members leave"
    else:
        kind = "The error rises abruptly, unlike in the paper, where it rises smoothly"
    where = f"a tenth of the rise is reached at {plural(early, unit)}, nine tenths at {late}"
    return shows, f"{kind}: {where}. {numbers}"


def reordering_caption(study: Study) -> Caption:
    """Of the reorderings (paper, Figure 5b)."""
    found, unit = study.answers.ensemble, study.subject.unit
    shows = (
        f"Error of {plural(found.reorderings, 'network')} in which random pairs of {unit}s of one span have traded "
        "places, by how much of the order is left. Figure 5b of the paper."
    )
    if found.tau_correlation is None:
        return shows, "All have the same error, so that there is no correlation to speak of."
    if near_chance(found):
        return shows, _AT_CHANCE.format(unit=unit).strip()
    if found.tau_correlation < -0.3:
        relation = "the more disorder, the more error, as in the paper"
    elif found.tau_correlation > 0.3:
        relation = "unlike in the paper, the error falls with disorder"
    else:
        relation = "unlike in the paper, the error does not follow the disorder"
    most = percent(float(study.reorderings["error"].max()))
    return shows, f"The rank correlation of error and Kendall tau is {decimal(found.tau_correlation)}: {relation}. " + (
        f"The worst order errs on {most}, the intact one on {percent(found.intact_error)}."
    )


def counts_caption(study: Study) -> Caption:
    """Of the path counts (paper, Figure 6a)."""
    depth, row = study.answers.depth, study.answers.multiplicity[0]
    assert depth is not None and study.lengths is not None
    fractions = study.lengths["path_fraction"].to_numpy(float)
    low, high = _middle(fractions)
    share = depth.by_share
    shows = (
        f"How many of the {two_to(row.log2_paths)} paths have each length, counted exactly. Brackets: the lengths that "
        f"hold {percent(depth.mass, 0)} of the gradient by either measure. Figure 6a of the paper."
    )
    most = f"95 % of the paths have {low} to {high} blocks" if low != high else f"Most paths have {low} blocks"
    contrast = "but those that carry the gradient have" if share.high < (low + high) / 2 else "and the gradient runs in"
    return shows, f"{most}, {contrast} {lengths(share)}: {percent(share.path_fraction)} of all paths."


def _middle(fractions: np.ndarray) -> tuple[int, int]:
    """The lengths between which 95 % of the paths lie, with as many shorter as longer ones."""
    reached = np.cumsum(fractions)
    return int(np.searchsorted(reached, 0.025)), int(np.searchsorted(reached, 0.975 - 1e-9))


def share_caption(study: Study) -> Caption:
    """Of the shares (paper, Figure 6c)."""
    depth, gradient = study.answers.depth, study.answers.gradient
    assert depth is not None and gradient is not None and study.lengths is not None
    shows = (
        "Blue: the exact part of the gradient that all paths of one length carry together; the parts sum to 100 %. "
        "Orange and green: the paper's measure, the number of paths times the norm of sampled single ones (mean, root "
        f"mean square), scaled to the same sum. Brackets: {percent(depth.mass, 0)} of each. Figure 6c of the paper."
    )
    share = study.lengths["share"]
    cancel = ""
    if float(share.min()) < -1e-4:
        where = int(study.lengths["length"].iloc[int(share.argmin())])
        cancel = (
            f" Shares are negative where the paths of a length pull against the whole, most at length {where} "
            f"({percent(float(share.min()))})."
        )
    sum_error = power_of_ten(gradient.sum_error)
    return shows, (
        f"By exact share the effective paths have {lengths(depth.by_share)}, by count × magnitude "
        f"{lengths(depth.by_magnitude)}. {_gap(depth.by_share, depth.by_magnitude)}{cancel} The sum over all lengths "
        f"differs from the gradient of autograd by {sum_error} of its norm."
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
        "samples. Left: each curve as a part of its largest value. Right: absolute. Figure 6b of the paper."
    )
    table = study.lengths.dropna(subset=["path_norm"])
    table = table[table["path_norm"] > 0]
    if len(table) < 2:
        return shows, "Too few lengths have paths with a gradient to speak of a trend."
    first, last = table.iloc[0], table.iloc[-1]
    ratio = float(first["path_norm"] / last["path_norm"])
    direction = "falls" if ratio > 1 else "grows, unlike in the paper,"
    spread = float((table["path_norm_rms"] / table["path_norm"]).max())
    heavy = (
        f" The root mean square over all paths is up to {power_of_ten(spread)} times the sampled mean: few paths, and "
        "few samples, are strong."
        if spread > 1.5
        else ""
    )
    return shows, (
        f"The norm of a single path {direction} by a factor of {power_of_ten(max(ratio, 1 / ratio))} from length "
        f"{int(first['length'])} to {int(last['length'])}.{heavy}"
    )


def multiplicity_caption(study: Study) -> Caption:
    """Of the comparison with other networks."""
    return (
        "All paths, and those that effectively contribute: 2 to the power of the entropy, in bits, of the paths' "
        "shares. At the right the error of the intact networks.",
        trend(study.answers.multiplicity),
    )
