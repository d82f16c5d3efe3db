"""Every answer in numbers, beside what the paper reports for its ResNet-110; the tables of page and terminal."""

from __future__ import annotations

from dataclasses import dataclass

from resect.jobs import paper
from resect.jobs.findings import DepthAnswer, GradientAnswer, MultiplicityRow, Study
from resect.report.study.phrases import largest, no_correlation, tied
from resect.report.study.untrained import coherence_of, ends
from resect.report.study.verdicts import verdicts
from resect.words import NOTHING, count, decimal, large, part, percent, plural, points, span, two_to


@dataclass(frozen=True)
class Measure:
    """One number: what it is, its value here, and in the paper ("" where the paper gives none)."""

    what: str
    here: str
    paper: str = ""


@dataclass(frozen=True)
class AnsweredQuestion:
    """One question with its verdict, the one number that says most, and all numbers."""

    number: int
    question: str
    verdict: str
    headline: Measure
    measures: list[Measure]
    paper: str  # what the paper found, in a sentence


def answers(study: Study) -> list[AnsweredQuestion]:
    """The four questions, answered."""
    depth, gradient = study.answers.depth, study.answers.gradient
    measures = (
        _ensemble(study),
        [*_depth(depth), *_untrained(study)] if depth else [],
        _gradient(gradient, depth) if gradient and depth else [],
        _multiplicity(study.answers.multiplicity[0]),
    )
    columns = (range(1, 5), paper.QUESTIONS, verdicts(study), _headlines(study), measures, paper.FOUND)
    return [AnsweredQuestion(*parts) for parts in zip(*columns, strict=True)]


def _headlines(study: Study) -> tuple[Measure, ...]:
    depth, gradient, unit = study.answers.depth, study.answers.gradient, study.subject.unit
    one = Measure(f"of error: the median cost of deleting one {unit}", points(study.answers.ensemble.median_damage))
    if depth is None or gradient is None:
        path = Measure(f"on its only path, through every {unit}", plural(study.subject.blocks, unit))
        return one, path, Measure("of the gradient comes over that path", "100 %"), Measure("path", two_to(0))
    row, low, high = study.answers.multiplicity[0], depth.by_share.low, depth.by_share.high
    held = f"in the paths with {percent(depth.by_share.held)} of the gradient; the longest has {depth.longest}"
    short = f"of the gradient: paths of at most {plural(gradient.tenth, 'block')}"
    if gradient.tenth == 0:
        short = "of the gradient: the path without any branch"
    return (
        one,
        Measure(held, span(low, high, "block")),
        Measure(short, percent(gradient.share_to_tenth)),
        Measure(
            f"effective paths at most, of {large(row.log2_paths)}", two_to(row.log2_effective_paths).split(" = ")[-1]
        ),
    )


def _ensemble(study: Study) -> list[Measure]:
    ensemble, unit = study.answers.ensemble, study.subject.unit

    def residual(claim: paper.Claim) -> str:
        """The paper deletes several blocks, and reorders them, in residual networks only."""
        return claim.said if unit == "block" else ""

    one = paper.ONE_DELETED.said if unit == "block" else f"{paper.PLAIN_DELETED}, {paper.PLAIN_NETWORK}"
    name = largest(study.deletions, study.deletions["damage"]) + tied(ensemble)
    rows = [
        Measure("error, intact", percent(ensemble.intact_error), residual(paper.ERROR)),
        Measure("error of the commonest class (chance)", percent(ensemble.chance_error), paper.CHANCE.said),
        Measure(f"damage of deleting one {unit}, median", points(ensemble.median_damage), one),
        Measure("largest damage", f"{points(ensemble.largest_damage)} ({name})", residual(paper.WORST_DELETED)),
    ]
    if ensemble.plain_median_damage is not None:
        chance = f"{paper.PLAIN_DELETED}, {paper.CHANCE}"
        rows += [
            Measure("plain network: damage of one layer, median", points(ensemble.plain_median_damage), chance),
            Measure("plain network: largest damage", points(ensemble.plain_largest_damage)),
        ]
    without = f"error without {ensemble.tenth} of {plural(study.subject.blocks, unit)}, mean"
    rows.append(Measure(without, percent(ensemble.error_without_tenth), residual(paper.SEVERAL_DELETED)))
    if ensemble.half != ensemble.tenth:
        without = f"error without {ensemble.half} of {plural(study.subject.blocks, unit)}, mean"
        rows.append(Measure(without, percent(ensemble.error_without_half)))
    tau = decimal(ensemble.tau_correlation)
    if ensemble.tau_correlation is None:
        tau = no_correlation(study) if ensemble.reorderings else f"no two {unit}s can trade places"
    return [*rows, Measure("rank correlation of error and Kendall tau", tau, residual(paper.REORDERED))]


def _depth(depth: DepthAnswer) -> list[Measure]:
    longest = f"{plural(depth.longest, 'block')} ({depth.longest_layers:g} layers)"
    share, magnitude, fraction = depth.by_share, depth.by_magnitude, "  their part of all paths"
    return [
        Measure(f"lengths with {percent(share.held)} of the exact share", share.lengths),
        Measure(fraction, part(share.path_fraction)),
        *_beside_share(depth),
        Measure(
            f"lengths with {percent(magnitude.held)} of count × magnitude", magnitude.lengths, paper.EFFECTIVE.said
        ),
        Measure(fraction, part(magnitude.path_fraction), paper.EFFECTIVE_PART.said),
        Measure("  the same with root mean square norms", depth.by_rms.lengths),
        Measure("longest path", longest, paper.BLOCKS.said),
    ]


def _untrained(study: Study) -> list[Measure]:
    """What the untrained twin has in their places."""
    twin = study.untrained
    if twin is None or twin.by_share is None or twin.by_magnitude is None:
        return []
    row, depth = study.answers.multiplicity[0], f"{decimal(twin.effective_depth, 1)} blocks"
    rows = [
        Measure(f"untrained: lengths with {percent(twin.by_share.held)} of the exact share", twin.by_share.lengths),
        Measure(f"  with {percent(twin.by_magnitude.held)} of count × magnitude", twin.by_magnitude.lengths),
        Measure("  mean length by share", f"{depth} (trained {decimal(row.effective_depth, 1)})"),
    ]
    if known := coherence_of(study):
        here, there, _ = known
        rows.append(Measure("  coherence (1: no interference)", f"{ends(there)} (trained {ends(here)})"))
    return rows


def _beside_share(depth: DepthAnswer) -> list[Measure]:
    """What the exact share leaves out: what is orthogonal to the gradient, and the weight of single samples."""
    rows = []
    if depth.missed is not None:
        rows.append(Measure("  they miss, of the norm of a sample's gradient", percent(depth.missed)))
    if depth.pooled is not None and depth.effective_samples is not None:
        what = f"  pooled over samples, which rests on {decimal(depth.effective_samples)} of them"
        rows.append(Measure(what, depth.pooled.lengths))
    if depth.by_energy is not None:
        rows.append(Measure("  without interference (energy of single paths)", depth.by_energy.lengths))
    return rows


def _gradient(gradient: GradientAnswer, depth: DepthAnswer) -> list[Measure]:
    of = f" of {plural(depth.longest, 'block')}"
    tenth = f"lengths up to {gradient.tenth}{of}" if gradient.tenth else "length 0 (no branch)"
    quarter = f"lengths up to {gradient.quarter}{of}"
    rows = []
    for by, to_tenth, to_quarter, said in (
        ("exact share", gradient.share_to_tenth, gradient.share_to_quarter, paper.SHORT_PATHS.said),
        ("count × magnitude", gradient.magnitude_to_tenth, gradient.magnitude_to_quarter, ""),
    ):
        rows.append(Measure(f"{tenth}, {by}", percent(to_tenth)))
        if gradient.quarter != gradient.tenth:
            rows.append(Measure(f"{quarter}, {by}", percent(to_quarter), said))
    for which, missed in {tenth: gradient.missed_to_tenth, quarter: gradient.missed_to_quarter}.items():
        if missed is not None:
            rows.append(Measure(f"{which}: they miss, of the norm of a sample's gradient", percent(missed)))
    return [*rows, Measure("longest paths, exact share", percent(gradient.share_full), paper.LONGEST_PATH.said)]


def _multiplicity(row: MultiplicityRow) -> list[Measure]:
    if not row.log2_paths:
        return [Measure("paths", two_to(0))]
    depth = f"{decimal(row.effective_depth, 1)} blocks ({decimal(row.effective_depth_layers, 1)} layers)"
    return [
        Measure("paths", two_to(row.log2_paths), paper.PATHS.said),
        Measure("effective number of paths, at most", two_to(row.log2_effective_paths)),
        Measure("mean length by share", depth),
    ]


COMPARED = ("network", "blocks", "parameters", "paths", "effective, at most", "mean length", "error")


def comparison(study: Study) -> list[tuple[str, ...]]:
    """One row a network, in the columns of COMPARED; empty where there is nothing to compare."""
    rows = study.answers.multiplicity
    if len(rows) < 2:
        return []
    return [
        (
            row.model,
            f"{row.blocks}",
            count(row.parameters),
            two_to(row.log2_paths).split(" = ")[0],
            two_to(row.log2_effective_paths).split(" = ")[-1],
            decimal(row.effective_depth, 1) if row.log2_paths else NOTHING,
            percent(row.error),
        )
        for row in rows
    ]
