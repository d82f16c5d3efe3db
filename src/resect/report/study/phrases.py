"""Phrases that verdicts and captions share, each with the condition under which it is true."""

from __future__ import annotations

import pandas as pd

from resect.jobs.findings import EnsembleAnswer, Study
from resect.measuring.chance import no_better_than_chance
from resect.words import named, percent, plural, points


def at_chance(study: Study, error: float) -> bool:
    """Whether an intact network does no better than chance, so that no deletion can tell anything."""
    ensemble = study.answers.ensemble
    return no_better_than_chance(error, ensemble.chance_error, ensemble.targets or study.subject.samples)


def largest(table: pd.DataFrame, values: pd.Series) -> str:
    """Which block has the largest value, and how many more have it, too."""
    top = table[values >= values.max() - 1e-12]
    first = named(str(top["name"].iloc[0]), int(top["block"].iloc[0]))
    return first if len(top) == 1 else f"{first}, and {len(top) - 1} more"


def tied(ensemble: EnsembleAnswer) -> str:
    """That others may be the worst, where paired tests do not tell the block with the largest damage from them."""
    together = ensemble.together
    if not together or not together["needed"] or len(together["worst"]) < 2:
        return ""
    return f"; one of {len(together['worst'])} that may be the worst"


def of_all(count: int, whole: int, unit: str) -> str:
    """ "none of 54 blocks", "all 54 blocks", "both blocks", "3 of 54 blocks"."""
    if count == whole:
        return f"all {plural(whole, unit)}" if whole > 2 else f"both {unit}s"
    return f"{count or 'none'} of {plural(whole, unit)}"


def change(value: float, subject: str, several: bool = False) -> str:
    """What deletions do to the error: "its deletion costs 3.0 points", or "saves" them."""
    verb = "save" if points(value).startswith("−") else "cost"
    return f"{subject} {verb}{'' if several else 's'} {points(abs(value))}"


def without_several(ensemble: EnsembleAnswer, unit: str) -> str:
    """The error without a tenth of the blocks, rounded down, and without half of them."""
    text = (
        f"Without {plural(ensemble.tenth, unit)} drawn at random the error is {percent(ensemble.error_without_tenth)}"
    )
    if ensemble.half == ensemble.tenth:
        return f"{text} on average."
    return f"{text} on average, without {ensemble.half} it is {percent(ensemble.error_without_half)}."


def single_deletions(study: Study) -> str:
    """What deleting one block does in the median and at worst."""
    ensemble, unit = study.answers.ensemble, study.subject.unit
    median, saves = ensemble.median_damage, points(ensemble.median_damage).startswith("−")
    if ensemble.largest_damage <= 0:
        text = f"no {unit} raises the error when it alone is deleted"
        return f"{text}, and {change(median, 'the median')}" if saves else text
    worst = largest(study.deletions, study.deletions["damage"]) + tied(ensemble)
    most = f"at most {points(ensemble.largest_damage)} ({worst})"
    return f"{change(median, f'deleting one {unit}')} of error in the median, {'and costs ' if saves else ''}{most}"


def no_correlation(study: Study) -> str:
    """Why the error of the reorderings and their order have no rank correlation."""
    if len(study.reorderings) == 1:
        return "there is one reordering only"
    same = "errors are equal" if study.reorderings["error"].nunique() < 2 else "are equally disordered"
    return f"all {same}"
