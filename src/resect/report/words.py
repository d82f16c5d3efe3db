"""Numbers in words, and the verdict on each of the four questions; shared by page, figures and console."""

from __future__ import annotations

from math import floor, log10

from resect.paths.measures import Effective
from resect.studies.results import Answers, MultiplicityRow, Study


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as percent: 0.1234 is "12.3 %"; tiny ones keep two significant digits."""
    if value is None:
        return "-"
    shown = value * 100
    if shown and abs(shown) < 10**-digits:
        return f"{power_of_ten(shown)} %"
    return f"{shown:.{digits}f} %"


def points(value: float | None) -> str:
    """A difference of fractions in percentage points."""
    return "-" if value is None else f"{value * 100:.1f} points"


def power_of_ten(value: float) -> str:
    """Two significant digits: 1.8e-07 is "1.8 × 10⁻⁷"."""
    exponent = floor(log10(abs(value)))
    if -3 <= exponent <= 4:
        return f"{value:.2g}"
    return f"{value / 10**exponent:.1f} × 10{superscript(exponent)}" if exponent > -300 else "0"


def superscript(number: float) -> str:
    """A number set high: -6 is "⁻⁶"."""
    return f"{number:g}".translate(str.maketrans("-.0123456789", "⁻·⁰¹²³⁴⁵⁶⁷⁸⁹"))


def two_to(exponent: float) -> str:
    """A number given by its binary logarithm: 54 is "2⁵⁴ = 1.8 × 10¹⁶"."""
    if exponent < 14:
        return f"{2**exponent:,.0f}"
    decimal = exponent * log10(2)
    high = superscript(round(exponent, 1))
    return f"2{high} = {10 ** (decimal - floor(decimal)):.1f} × 10{superscript(floor(decimal))}"


def plural(count: int, unit: str) -> str:
    """ "1 block", "54 blocks"."""
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def lengths(found: Effective) -> str:
    """ "2 to 7 blocks (4 to 14 layers)"."""
    return (
        f"{found.low} to {found.high} blocks ({found.low_layers:g} to {found.high_layers:g} layers)"
        if found.low != found.high
        else f"{plural(found.low, 'block')} ({found.low_layers:g} layers)"
    )


QUESTIONS = (
    "Does it behave like an ensemble at test time, and of what kind?",
    "How deep are its effective members?",
    "How much of the gradient comes from very short members?",
    "What does multiplicity do, beside depth and width?",
)


def verdicts(study: Study) -> tuple[str, str, str, str]:
    """One sentence on each question, from the numbers at hand."""
    return ensemble_verdict(study), depth_verdict(study), gradient_verdict(study), multiplicity_verdict(study)


def ensemble_verdict(study: Study) -> str:
    """Question 1."""
    found, unit = study.answers.ensemble, study.subject.unit
    robust = found.median_damage < 0.02
    start = (
        f"In the median, deleting one {unit} costs {points(found.median_damage)} of error; the worst, "
        f"{found.largest_damage_block}, costs {points(found.largest_damage)}."
    )
    plain = ""
    if found.plain_median_damage is not None:
        plain = f" The plain network loses {points(found.plain_median_damage)} in the median."
    if found.chance_error is not None and found.intact_error > 0.9 * found.chance_error:
        return f"That cannot be told: the intact network errs on {percent(found.intact_error)}, as chance does. {start}"
    if unit == "layer":
        kind = "This is no ensemble: a plain network is one path." if not robust else "Its layers are redundant."
        return f"{kind} {start}"
    if not robust:
        return f"Not by this test. {start}{plain}"
    gradual = found.error_without_tenth < (found.intact_error + (found.chance_error or 1.0)) / 2
    costly = int((study.deletions["damage"] > 0.1).sum())
    if not gradual:
        kind = "In part: single deletions do little, several at once destroy it"
    elif costly:
        kind = f"For the most part: all but {plural(costly, 'block')} can be deleted at a cost of at most 10 points"
    else:
        kind = "Yes: its paths do not depend strongly on each other"
    return (
        f"{kind}. {start}{plain} Without {plural(found.tenth, unit)} it errs on {percent(found.error_without_tenth)}, "
        f"without {found.half} on {percent(found.error_without_half)}."
    )


def depth_verdict(study: Study) -> str:
    """Question 2."""
    found = study.answers.depth
    if found is None:
        return f"It has one path, through all {study.subject.blocks} {study.subject.unit}s."
    share = found.by_share
    relation = "shallow against" if share.high <= found.longest / 2 else "not shallow against"
    return (
        f"{percent(found.mass, 0)} of the gradient runs through paths of {lengths(share)}, {relation} the full "
        f"{found.longest} blocks; they are {percent(share.path_fraction)} of all paths. By the paper's count × "
        f"magnitude it is {lengths(found.by_magnitude)}."
    )


def gradient_verdict(study: Study) -> str:
    """Question 3."""
    found = study.answers.gradient
    if found is None:
        return "All of it comes over the one path there is."
    return (
        f"Paths of up to {plural(found.tenth, 'block')}, a tenth of the depth, carry {percent(found.share_to_tenth)}; "
        f"up to {plural(found.quarter, 'block')}, a quarter, {percent(found.share_to_quarter)}; the longest "
        f"path {percent(found.share_full)}."
    )


def multiplicity_verdict(study: Study) -> str:
    """Question 4."""
    row, *others = study.answers.multiplicity
    if not row.log2_paths:
        return "It has a single path; a plain network has depth and width, and no multiplicity."
    start = (
        f"Of {two_to(row.log2_paths)} paths, some {two_to(row.log2_effective_paths)} effectively contribute, "
        f"{row.effective_depth:.1f} blocks deep on average."
    )
    if not others:
        return start + " Name networks with --beside to compare."
    return start + " " + " ".join(_comparison(row, other) for other in others)


def _comparison(row: MultiplicityRow, other: MultiplicityRow) -> str:
    more = row.log2_effective_paths - other.log2_effective_paths
    times = f"{two_to(abs(more))} times {'fewer' if more > 0 else 'more'}" if abs(more) >= 1 else "about as many"
    return (
        f"{other.model} ({plural(other.blocks, 'block')}, {other.parameters:,} parameters) has {times} effective paths "
        f"and errs on {percent(other.error)}, against {percent(row.error)}."
    )


def measures(study: Study) -> list[tuple[int, str, str, str]]:
    """(question, measure, this network, the paper's ResNet-110): every answer in numbers."""
    rows = _ensemble_rows(study)
    rows += _depth_rows(study.answers)
    rows += _gradient_rows(study.answers)
    for row in study.answers.multiplicity:
        own = row is study.answers.multiplicity[0]
        name = "" if own else f"{row.model}: "
        rows += [
            (4, f"{name}paths", two_to(row.log2_paths), "2⁵⁴" if own else ""),
            (4, f"{name}effective number of paths", two_to(row.log2_effective_paths), ""),
            (
                4,
                f"{name}effective depth",
                f"{row.effective_depth:.1f} blocks ({row.effective_depth_layers:.1f} layers)",
                "",
            ),
        ]
        if len(study.answers.multiplicity) > 1:
            rows.append(
                (4, f"{name}blocks, parameters", f"{row.blocks}, {row.parameters:,}", "54, 1.7 M" if own else "")
            )
            rows.append((4, f"{name}error, intact", percent(row.error), ""))
    return rows


def _ensemble_rows(study: Study) -> list[tuple[int, str, str, str]]:
    found, unit = study.answers.ensemble, study.subject.unit
    rows = [
        (1, "error, intact", percent(found.intact_error), "6.1 % (CIFAR-10)"),
        (1, f"damage of deleting one {unit}, median", points(found.median_damage), "near 0"),
        (
            1,
            "the same, largest",
            f"{points(found.largest_damage)} ({found.largest_damage_block})",
            "at downsampling blocks",
        ),
    ]
    if found.plain_median_damage is not None:
        both = f"{points(found.plain_median_damage)}, {points(found.plain_largest_damage)}"
        rows.append((1, "plain network: median, largest", both, "to chance, 90 %"))
    rows += [
        (
            1,
            f"error without {plural(found.tenth, unit)} (a tenth)",
            percent(found.error_without_tenth),
            "rises smoothly",
        ),
        (1, f"error without {plural(found.half, unit)} (half)", percent(found.error_without_half), ""),
        (
            1,
            "rank correlation of error and Kendall tau",
            "no two can trade places" if found.tau_correlation is None else f"{found.tau_correlation:.2f}",
            "strongly negative",
        ),
    ]
    return rows


def _depth_rows(answers: Answers) -> list[tuple[int, str, str, str]]:
    found = answers.depth
    if found is None:
        return []
    mass = percent(found.mass, 0)
    return [
        (2, f"effective lengths, exact share ({mass})", lengths(found.by_share), ""),
        (2, "fraction of all paths that they are", percent(found.by_share.path_fraction), ""),
        (2, "effective lengths, count × magnitude", lengths(found.by_magnitude), "5 to 17 blocks (10 to 34 layers)"),
        (2, "fraction of all paths that they are", percent(found.by_magnitude.path_fraction), "0.45 %"),
    ]


def _gradient_rows(answers: Answers) -> list[tuple[int, str, str, str]]:
    found = answers.gradient
    if found is None:
        return []
    return [
        (3, f"share of lengths up to {found.tenth} (a tenth)", percent(found.share_to_tenth), ""),
        (3, f"share of lengths up to {found.quarter} (a quarter)", percent(found.share_to_quarter), "most of it"),
        (3, "share of the full-depth path", percent(found.share_full), "almost none"),
    ]
