"""What each figure shows, and what it means for the network at hand."""

from __future__ import annotations

import numpy as np

from resect.figures.strip import SMALLEST_LOSS
from resect.jobs import authors, paper
from resect.jobs.findings import Study, rise_of
from resect.paths.measures import Effective
from resect.report.study.phrases import at_chance, change, largest, no_correlation, of_all, tied, without_several
from resect.report.study.trend import trend
from resect.report.together import together
from resect.words import decimal, percent, plural, points, power_of_ten, span, two_to

Caption = tuple[str, str]  # what it shows, what it means
_MANY = 8  # numbers of deletions, of which a quarter is more than one
_ENOUGH = 40  # reorderings, of which a rank correlation of 0.3 is no chance
_SAME = 1.05  # a norm that changes by a smaller factor hardly changes


def _tells_nothing(unit: str) -> str:
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
    grown = study.deletions["loss"].fillna(np.inf) - study.intact_loss
    worst, nats = largest(study.deletions, grown), f"{power_of_ten(float(grown.max()))} nats"
    idle = int((grown < SMALLEST_LOSS).sum())
    if count == 1:
        return shows, f"Without {worst} the loss grows by {'less than 0.001 nats, if at all' if idle else nats}."
    if idle == count:
        return shows, f"No single {unit} matters: without any one the loss grows by less than 0.001 nats, if at all."
    which = f"{of_all(idle, count, unit)} can be deleted alone at a cost below 0.001 nats"
    return shows, f"{which[0].upper()}{which[1:]}; the loss grows most, by {nats}, without {worst}."


def deletions_caption(study: Study) -> Caption:
    """Of the single deletions (paper, Figure 3)."""
    ensemble, unit = study.answers.ensemble, study.subject.unit
    shows = f"Error on {plural(study.subject.samples, 'sample')} without each {unit} in turn"
    if study.plain:
        shows += (
            f"; at the right {study.plain.model}, a plain network, without each layer. Mind the scales: the left axis "
            "is drawn for its own errors, the right one for 0 to 100 %; the blue band is the range of the left figure"
        )
    shows += f". {paper.ONE_DELETED.where} of the paper.{_theirs(study, 'delete')}"
    if at_chance(study, ensemble.intact_error):
        return shows, _tells_nothing(unit)
    return shows, _each(study) + _downsampling(study) + _plain(study)


def _theirs(study: Study, operation: str) -> str:
    """What the authors' points behind a figure are, if there are any."""
    table = authors.beside(study.subject.model, study.blocks, operation)
    if table is None:
        return ""
    intact = percent(authors.intact(str(table["network"].iloc[0])))
    return (
        f" Grey: the {len(table):,} that its authors made to their own network of {plural(len(study.blocks), 'block')} "
        f"on CIFAR-10, which errs on {intact} intact."
    )


def _each(study: Study) -> str:
    """How many deletions cost next to nothing, which costs most, and what all of them say together."""
    unit, count, table = study.subject.unit, study.subject.blocks, study.deletions
    damage, most = table["damage"], float(table["damage"].max())
    if count == 1:
        return f"{change(most, f'Deleting {largest(table, damage)}')}."
    harmless = int((damage < 0.01).sum())
    means = f"{of_all(harmless, count, unit)} cost{'s' if harmless == 1 else ''} less than one point"
    means = f"{means[0].upper()}{means[1:]}"
    if most > 0:
        means += f"; the largest cost is {points(most)} ({largest(table, damage)}{tied(study.answers.ensemble)})"
    means += "."
    if study.answers.ensemble.together:
        means += f" {together(study.answers.ensemble.together, list(table['name']), unit)}"
    return means


def _downsampling(study: Study) -> str:
    """How the downsampling blocks stand beside the others, and whether that is as in the paper."""
    table = study.deletions
    down, others = (table["damage"][table["downsampling"] == kind] for kind in (True, False))
    if not len(down) or not len(others):
        return ""
    mean, rest = float(down.mean()), float(others.mean())
    one, other = len(down) == 1, len(others) == 1
    text = change(mean, f" The downsampling block{'' if one else 's'}", several=not one)
    text += (
        f"{'' if one else ' on average'}, {change(rest, 'the other' if other else 'the others', several=not other)}."
    )
    if mean <= rest:
        return f"{text} In the paper's {paper.NETWORK} downsampling blocks stand out; here they do not."
    if others.max() > down.max():
        return f"{text} In the paper's {paper.NETWORK} downsampling blocks cost most; here another block does."
    return text


def _plain(study: Study) -> str:
    """What deletions do to the plain control, beside the network."""
    control, ensemble = study.plain, study.answers.ensemble
    if control is None:
        return ""
    typical = change(control.median_damage, "one layer of the plain network")
    worst = largest(control.deletions, control.deletions["damage"])
    text = f" Deleting {typical} in the median and at most {points(control.largest_damage)} ({worst})."
    if at_chance(study, control.intact_error):
        text += f" As it errs on {percent(control.intact_error)} when intact, this says nothing of plain networks."
    elif control.median_damage <= ensemble.median_damage:
        text += " Unlike in the paper, that is in the median no more than for the network under study."
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
    shows = f"Error when {what} deleted at random, {plural(repeats, 'draw')} for each number; the line is their mean. "
    shows += f"{paper.SEVERAL_DELETED.where} of the paper.{_theirs(study, 'delete several')}"
    if at_chance(study, ensemble.intact_error):
        return shows, _tells_nothing(unit)
    numbers = without_several(ensemble, unit)
    rise = float(means.max()) - ensemble.intact_error
    if len(means) < _MANY:
        return shows, numbers
    beside = unit == "block"  # the paper deletes several blocks of residual networks only
    if rise < 0.02:
        return shows, f"{'Unlike in the paper, the' if beside else 'The'} mean error hardly rises, if at all. {numbers}"
    early, late = rise_of(study.random, ensemble.intact_error)
    if late - early >= most / 4:
        kind, in_paper = "over many numbers of deletions", "as the paper found for an ensemble whose members leave"
    else:
        kind, in_paper = "abruptly", f"unlike in the paper, where it {paper.SEVERAL_DELETED}"
    kind = f"The error rises {kind}{f', {in_paper}' if beside else ''}"
    where = f"a tenth of the rise of the mean is reached at {plural(early, unit)}, nine tenths at {late}"
    return shows, f"{kind}: {where}. {numbers}"


def reordering_caption(study: Study) -> Caption:
    """Of the reorderings (paper, Figure 5b)."""
    ensemble, unit = study.answers.ensemble, study.subject.unit
    intact = int((study.reorderings["kendall_tau"] == 1).sum())
    traded_back = f" ({intact} of them back to the intact order)" if intact else ""
    shows = (
        f"Error of {plural(ensemble.reorderings, 'network')} in which random pairs of {unit}s of one span have traded "
        f"places{traded_back}, by how much of the order is left. {paper.REORDERED.where} of the paper."
        f"{_theirs(study, 'swap several')}"
    )
    correlation = ensemble.tau_correlation
    if correlation is None:
        why = no_correlation(study)
        return shows, f"{why[0].upper()}{why[1:]}, so that there is no correlation to speak of."
    if at_chance(study, ensemble.intact_error):
        return shows, _tells_nothing(unit)
    if abs(correlation) <= max(0.3, 2 / ensemble.reorderings**0.5):  # what chance alone reaches once in 20 times
        relation, in_paper = "no clear relation", ""
        if ensemble.reorderings >= _ENOUGH:
            relation, in_paper = "the error does not follow the disorder", ", unlike in the paper"
    elif correlation < 0:
        relation, in_paper = "the more disorder, the more error", ", as in the paper"
    else:
        relation, in_paper = "the error falls with disorder", ", unlike in the paper"
    relation += in_paper if unit == "block" else ""  # the paper reorders residual networks only
    return shows, (
        f"The rank correlation of error and Kendall tau is {decimal(correlation)}: {relation}. The worst of them errs "
        f"on {percent(float(study.reorderings['error'].max()))}, the intact network on "
        f"{percent(ensemble.intact_error)}."
    )


def counts_caption(study: Study) -> Caption:
    """Of the path counts (paper, Figure 6a)."""
    depth, row = study.answers.depth, study.answers.multiplicity[0]
    assert depth is not None and study.lengths is not None
    reached = study.lengths["path_fraction"].cumsum()
    low, high = (int(reached.searchsorted(part)) for part in (0.025, 0.975 - 1e-9))  # the middle 95 % of the paths
    inside, share = float(study.lengths["path_fraction"][low : high + 1].sum()), depth.by_share
    shows = (
        f"How many of the {two_to(row.log2_paths)} paths have each length, counted exactly. Brackets: the shortest "
        f"ranges of lengths that hold {percent(depth.mass, 0)} of the gradient, or more, by either measure. "
        f"{paper.PATHS.where} of the paper."
    )
    return shows, (
        f"{percent(inside)} of the paths have {span(low, high, 'block')}; {percent(share.held)} of the gradient runs "
        f"in those of {share.lengths}, {percent(share.path_fraction)} of all paths."
    )


def share_caption(study: Study) -> Caption:
    """Of the shares (paper, Figure 6c)."""
    depth, gradient = study.answers.depth, study.answers.gradient
    assert depth is not None and gradient is not None and study.lengths is not None
    shows = (
        "Blue: the exact part of the gradient that all paths of one length carry together; the parts sum to 100 %. "
        "Orange and green: the paper's measure, the number of paths times the norm of sampled single ones (mean, root "
        f"mean square), scaled to the same sum. Brackets: {percent(depth.mass, 0)} of each, or more. "
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
        f"By exact share the effective paths have {depth.by_share.lengths}, by count × magnitude "
        f"{depth.by_magnitude.lengths}. {_gap(depth.by_share, depth.by_magnitude)}{cancel} The sum over all lengths "
        f"differs from the gradient of autograd by {power_of_ten(gradient.sum_error)} of its norm."
    )


def _gap(share: Effective, magnitude: Effective) -> str:
    """What it means where the ranges of the two measures end."""
    if magnitude.high > share.high:
        return (
            "Count × magnitude, a bound, is what would arrive if all paths were parallel; the exact range ends earlier."
        )
    if magnitude.high == share.high:
        return "Both ranges end at the same length."
    return "The exact range reaches further than count × magnitude: there paths add up rather than cancel."


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
    verb += f" by a factor of {power_of_ten(max(ratio, 1 / ratio))}"
    if 1 / _SAME < ratio < _SAME:
        verb = "hardly changes, unlike in the paper,"
    means = f"The norm of a single path {verb} from length {int(first['length'])} to {int(last['length'])}."
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
        "All paths, and at most how many of them effectively contribute: 2 to the power of the entropy, in bits, of "
        "the paths' shares, if those of one length share equally. At the right the error of the intact networks.",
        trend(study.answers),
    )
