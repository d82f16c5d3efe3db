"""Every answer in numbers, beside what the paper reports for its ResNet-110; the tables of page and terminal."""

from __future__ import annotations

from dataclasses import dataclass

from resect.jobs.findings import Answers, Study
from resect.report.study.verdicts import QUESTIONS, verdicts
from resect.words import NOTHING, count, decimal, large, lengths, percent, plural, points, two_to


@dataclass(frozen=True)
class Measure:
    """One number: what it is, its value here, and in the paper ("" where the paper gives none)."""

    what: str
    here: str
    paper: str = ""


@dataclass(frozen=True)
class Answer:
    """One question with its verdict, the one number that says most, and all numbers."""

    number: int
    question: str
    verdict: str
    headline: Measure
    measures: tuple[Measure, ...]
    paper: str  # what the paper found, in a sentence


_PAPER = (
    "deleting one block of ResNet-110 barely changes the error, downsampling blocks excepted, while deleting any layer "
    "of VGG-15 leaves it at chance; the error rises smoothly with the number of deleted blocks and with disorder.",
    "the effective paths of ResNet-110 have 5 to 17 of 54 blocks (10 to 34 layers): 0.45 % of all paths, of which 95 % "
    "have 19 to 35 blocks.",
    "most of the gradient comes from short paths; the full depth contributes almost none.",
    "a residual network owes its strength to multiplicity, the number of its paths, beside depth and width.",
)


def answers(study: Study) -> tuple[Answer, ...]:
    """The four questions, answered."""
    tables = (_ensemble(study), _depth(study.answers), _gradient(study.answers), _multiplicity(study.answers))
    headlines = _headlines(study)
    return tuple(
        Answer(number, *parts)
        for number, parts in enumerate(zip(QUESTIONS, verdicts(study), headlines, tables, _PAPER, strict=True), start=1)
    )


def _headlines(study: Study) -> tuple[Measure, ...]:
    found, unit = study.answers, study.subject.unit
    row = found.multiplicity[0]
    one = Measure(f"of error: the median cost of deleting one {unit}", points(found.ensemble.median_damage))
    if found.depth is None or found.gradient is None:
        path = Measure(f"on its only path, through every {unit}", plural(study.subject.blocks, unit))
        return one, path, Measure("of the gradient comes over that path", "100 %"), Measure("path", two_to(0))
    share = found.depth.by_share
    reach = f"{share.low} to {share.high}" if share.low != share.high else str(share.low)
    return (
        one,
        Measure(
            f"in the paths with {percent(found.depth.mass, 0)} of the gradient; the longest has {found.depth.longest}",
            "1 block" if reach == "1" else f"{reach} blocks",
        ),
        Measure(
            f"of the gradient: paths of at most {plural(found.gradient.tenth, 'block')}",
            percent(found.gradient.share_to_tenth),
        ),
        Measure(f"effective paths, of {large(row.log2_paths)}", two_to(row.log2_effective_paths).split(" = ")[-1]),
    )


def _ensemble(study: Study) -> tuple[Measure, ...]:
    found, unit = study.answers.ensemble, study.subject.unit
    residual = unit == "block"  # the paper deletes several blocks, and reorders them, in residual networks only
    rows = [
        Measure("error, intact", percent(found.intact_error), "6.1 % (CIFAR-10)" if residual else ""),
        Measure("error of the commonest class (chance)", percent(found.chance_error), "90 %"),
        Measure(
            f"damage of deleting one {unit}, median",
            points(found.median_damage),
            "near 0" if residual else "to chance, VGG-15",
        ),
        Measure(
            "largest damage",
            f"{points(found.largest_damage)} ({found.largest_damage_block})",
            "at downsampling" if residual else "",
        ),
    ]
    if found.plain_median_damage is not None:
        rows += [
            Measure("plain network: damage of one layer, median", points(found.plain_median_damage), "to chance, 90 %"),
            Measure("plain network: largest damage", points(found.plain_largest_damage)),
        ]
    rows.append(
        Measure(
            f"error without {plural(found.tenth, unit)}{' (a tenth)' if study.subject.blocks > 5 else ''}",
            percent(found.error_without_tenth),
            "rises smoothly" if residual else "",
        )
    )
    if found.half != found.tenth:
        rows.append(Measure(f"error without {plural(found.half, unit)} (half)", percent(found.error_without_half)))
    tau = decimal(found.tau_correlation)
    if found.tau_correlation is None:
        tau = "all errors are equal" if found.reorderings else f"no two {unit}s can trade places"
    return (*rows, Measure("rank correlation of error and Kendall tau", tau, "error rises" if residual else ""))


def _depth(answers: Answers) -> tuple[Measure, ...]:
    found = answers.depth
    if found is None:
        return ()
    mass = percent(found.mass, 0)
    return (
        Measure(f"lengths with {mass} of the exact share", lengths(found.by_share)),
        Measure("  their part of all paths", percent(found.by_share.path_fraction)),
        Measure(f"lengths with {mass} of count × magnitude", lengths(found.by_magnitude), "5 to 17"),
        Measure("  their part of all paths", percent(found.by_magnitude.path_fraction), "0.45 %"),
        Measure("  the same with root mean square norms", lengths(found.by_rms)),
        Measure("longest path", f"{plural(found.longest, 'block')} ({found.longest_layers:g} layers)", "54"),
    )


def _gradient(answers: Answers) -> tuple[Measure, ...]:
    found = answers.gradient
    if found is None:
        return ()
    full = Measure("longest paths, exact share", percent(found.share_full), "almost none")
    tenth, quarter = f"lengths up to {found.tenth} (a tenth)", f"lengths up to {found.quarter} (a quarter)"
    if found.tenth == 0:
        tenth = "length 0 (no branch)"
    if found.quarter == found.tenth:
        rows: tuple[Measure, ...] = (
            Measure(f"{tenth}, exact share", percent(found.share_to_tenth)),
            Measure(f"{tenth}, count × magnitude", percent(found.magnitude_to_tenth)),
        )
        return (*rows, full)
    return (
        Measure(f"{tenth}, exact share", percent(found.share_to_tenth)),
        Measure(f"{quarter}, exact share", percent(found.share_to_quarter), "most of it"),
        Measure(f"{tenth}, count × magnitude", percent(found.magnitude_to_tenth)),
        Measure(f"{quarter}, count × magnitude", percent(found.magnitude_to_quarter)),
        full,
    )


def _multiplicity(answers: Answers) -> tuple[Measure, ...]:
    row = answers.multiplicity[0]
    if not row.log2_paths:
        return (Measure("paths", two_to(0)),)
    depth = f"{decimal(row.effective_depth, 1)} blocks ({decimal(row.effective_depth_layers, 1)} layers)"
    return (
        Measure("paths", two_to(row.log2_paths), "2⁵⁴"),
        Measure("effective number of paths", two_to(row.log2_effective_paths)),
        Measure("mean length by share", depth),
    )


COMPARED = ("network", "blocks", "parameters", "paths", "effective paths", "mean length", "error")


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
