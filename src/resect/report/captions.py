"""What each figure shows, and what it means for the network at hand."""

from __future__ import annotations

import numpy as np

from resect.report.words import lengths, multiplicity_verdict, percent, plural, points, power_of_ten, two_to
from resect.studies.results import Study

Caption = tuple[str, str]  # what it shows, what it means


def strip_caption(study: Study) -> Caption:
    """Of the block diagram."""
    unit = study.subject.unit
    grown = study.deletions["loss"] - study.intact_loss
    idle = int((grown < 1e-3).sum())
    worst = study.deletions["name"][int(grown.argmax())]
    return (
        f"The network's {plural(study.subject.blocks, unit)} in order, coloured by how much the mean cross-entropy "
        f"grows when each is deleted. Grey: by less than 0.001 nats. Orange frames: a projection changes the shape.",
        f"{idle} of {study.subject.blocks} could each be deleted alone at a cost below 0.001 nats; the network depends "
        f"most on {worst} ({grown.max():.2g} nats).",
    )


def deletions_caption(study: Study) -> Caption:
    """Of the single deletions (paper, Figure 3)."""
    found, unit = study.answers.ensemble, study.subject.unit
    beside = f", and beside it {study.plain.model}, a plain network, without each layer" if study.plain else ""
    shows = f"Error on {study.subject.samples} samples without each {unit} in turn{beside}. Figure 3 of the paper."
    harmless = int((study.deletions["damage"] < 0.01).sum())
    means = (
        f"{harmless} of {plural(study.subject.blocks, unit)} cost less than one point each; the most costly is "
        f"{found.largest_damage_block} with {points(found.largest_damage)}."
    )
    down = study.deletions[study.deletions["downsampling"]]
    if len(down):
        means += f" The downsampling blocks cost {points(float(down['damage'].mean()))} on average, the others " + (
            points(float(study.deletions[~study.deletions["downsampling"]]["damage"].mean())) + "."
            if len(down) < len(study.deletions)
            else "do not exist."
        )
        if found.largest_damage_block not in set(down["name"]):
            means += " In the paper's ResNet-110 the downsampling blocks stand out; here another block costs more."
    if study.plain:
        means += (
            f" The plain network loses {points(study.plain.median_damage)} in the median, "
            f"{points(study.plain.largest_damage)} at {study.plain.largest_damage_layer}; {study.plain.refused} of its "
            "layers change the shape and cannot be deleted."
        )
    return shows, means


def random_caption(study: Study) -> Caption:
    """Of the random deletions (paper, Figure 5a)."""
    found, unit = study.answers.ensemble, study.subject.unit
    repeats = study.random.groupby("deleted").size().max()
    means = study.random.groupby("deleted")["error"].mean().to_numpy()
    steps = np.diff(np.concatenate([[found.intact_error], means]))
    jump = float(steps.max()) if len(steps) else 0.0
    kind = (
        "The error rises gradually, as an ensemble's does when members leave"
        if jump < 0.25
        else "The error rises in a jump, unlike an ensemble's when members leave"
    )
    return (
        f"Error when 1 to {found.half} {unit}s are deleted at random, {repeats} times for each number; the band holds "
        "the middle half. Figure 5a of the paper.",
        f"{kind}: the mean grows by at most {points(jump)} from one number to the next. Without {found.tenth} it is "
        f"{percent(found.error_without_tenth)}, without {found.half} {percent(found.error_without_half)}.",
    )


def reordering_caption(study: Study) -> Caption:
    """Of the reorderings (paper, Figure 5b)."""
    found = study.answers.ensemble
    shows = (
        f"Error of {found.reorderings} networks in which random pairs of blocks of equal shapes have traded places, by "
        "how much of the order is left. Figure 5b of the paper."
    )
    if found.tau_correlation is None:
        return shows, "All have the same error, so that there is no correlation to speak of."
    relation = "the more disorder, the more error" if found.tau_correlation < -0.3 else "order matters little here"
    return shows, f"Rank correlation of error and Kendall tau: {found.tau_correlation:.2f}; {relation}."


def counts_caption(study: Study) -> Caption:
    """Of the path counts (paper, Figure 6a)."""
    depth, row = study.answers.depth, study.answers.multiplicity[0]
    assert depth is not None and study.lengths is not None
    commonest = int(study.lengths["log2_paths"].argmax())
    return (
        f"How many of the {two_to(row.log2_paths)} paths have each length, counted exactly; shaded, the lengths that "
        f"hold {percent(depth.mass, 0)} of the gradient. Figure 6a of the paper.",
        f"Most paths are about {commonest} blocks long, but those that carry the gradient are "
        f"{lengths(depth.by_share)} by exact share: {percent(depth.by_share.path_fraction)} of all paths.",
    )


def share_caption(study: Study) -> Caption:
    """Of the shares (paper, Figure 6c)."""
    depth, gradient = study.answers.depth, study.answers.gradient
    assert depth is not None and gradient is not None and study.lengths is not None
    low = float(study.lengths["share"].min())
    cancel = (
        f" Shares can be negative, where the paths of a length pull against the whole: the lowest is {percent(low)}."
        if low < -1e-4
        else ""
    )
    gap = depth.by_magnitude.high - depth.by_share.high
    reading = (
        "The exact shares end earlier: longer paths are many, but they cancel."
        if gap > 0
        else "Both measures agree on where the effective paths end."
        if gap == 0
        else "The exact shares reach further than the sampled magnitudes."
    )
    return (
        "Exact part of the gradient that all paths of one length carry together (blue), and the paper's measure, the "
        "number of paths times the norm of sampled single ones, scaled to sum to 1 (orange, green). Shaded: "
        f"{percent(depth.mass, 0)} of each. Figure 6c of the paper.",
        f"By exact share the effective paths have {lengths(depth.by_share)}, by count × magnitude "
        f"{lengths(depth.by_magnitude)}. {reading}{cancel} All shares sum to the gradient of autograd with a relative "
        f"error of {power_of_ten(gradient.sum_error) if gradient.sum_error else '0'}.",
    )


def norm_caption(study: Study) -> Caption:
    """Of the norms (paper, Figure 6b)."""
    assert study.lengths is not None
    table = study.lengths.dropna(subset=["path_norm"])
    first, last = table.iloc[0], table.iloc[-1]
    fall = first["path_norm"] / last["path_norm"] if last["path_norm"] > 0 else float("inf")
    span = f"a factor of {power_of_ten(fall)}" if np.isfinite(fall) else "more than float64 can hold"
    direction = "falls" if fall > 1 else "does not fall"
    return (
        "Norm of the gradient that all paths of one length bring to the input together, and of single sampled paths, "
        "mean over samples. Figure 6b of the paper.",
        f"The norm of a single path {direction} from length {int(first['length'])} to {int(last['length'])}, by "
        f"{span}. Sampled norms are heavy-tailed: where mean and root mean square lie apart, few draws decide "
        f"({int(table['sampled'].max())} a length).",
    )


def multiplicity_caption(study: Study) -> Caption:
    """Of the comparison with other networks."""
    return (
        "All paths and those that effectively contribute (2 to the power of the entropy, in bits, of the paths' "
        "shares), and the error of the intact networks.",
        multiplicity_verdict(study),
    )
