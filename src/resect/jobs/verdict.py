"""What the contrasts of an experiment come to, by the rules of its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from resect.measuring.contrasts import crossed_contrast
from resect.measuring.many import holm
from resect.words import decimal

DIFFERS, SMALL, NONE, UNKNOWN, EARLY = "differs", "differs, but little", "no effect", "cannot be told", "not yet told"
_SURE = 0.05
_VARIED = "multiplicity, set by how often the towers merge,"


@dataclass(frozen=True)
class Verdict:
    """One contrast. Errors are fractions, of the arm with fewer paths minus that with more, in 95 % intervals.

    Attributes:
        low_90, high_90: the interval of 90 %, which of a single contrast lies within the bound where two one-sided
            tests at 5 % show no effect beyond it.
        seed_error, standard_error: of the difference, over seeds alone and over test images, too; NaN with one seed.
        p_value, p_equivalent: of no difference, and of one that is not within the bound.
        p_holm, p_equivalent_holm: the same with Holm's correction over all contrasts.
        verdict: one of the words above; EARLY until all seeds are trained.
    """

    fewer: str
    more: str
    seeds: int
    difference: float
    low: float
    high: float
    low_90: float
    high_90: float
    standard_error: float
    seed_error: float
    freedom: float
    p_value: float
    p_holm: float
    p_equivalent: float
    p_equivalent_holm: float
    verdict: str


def verdicts(differences: Mapping[tuple[str, str], np.ndarray], bound: float, *, over: bool) -> list[Verdict]:
    """Judge all contrasts.

    Args:
        differences: (R, N) of every seed and image, by the arm with fewer paths and that with more.
        bound: a fraction, within which a difference counts as none.
        over: all seeds are trained.
    """
    contrasts = [crossed_contrast(values) for values in differences.values()]
    p_values = [contrast.p_value for contrast in contrasts]
    equivalent = [contrast.p_equivalent(bound) for contrast in contrasts]
    rows = zip(differences, contrasts, holm(p_values), holm(equivalent), strict=True)
    return [
        Verdict(
            *names,
            own.seeds,
            own.mean,
            *own.interval(),
            *own.interval(1 - 2 * _SURE),
            own.error,
            own.seed_error,
            own.freedom,
            own.p_value,
            float(p_holm),
            own.p_equivalent(bound),
            float(p_bound),
            _word(float(p_holm), float(p_bound)) if over else EARLY,
        )
        for names, own, p_holm, p_bound in rows
    ]


def _word(p_holm: float, p_equivalent: float) -> str:
    differs, within = p_holm < _SURE, p_equivalent < _SURE
    return (SMALL if within else DIFFERS) if differs else NONE if within else UNKNOWN


def answer_of(primary: Verdict | None, seeds: int, planned: int, bound: float) -> str:
    """The answer of an experiment in a sentence or two.

    Args:
        primary: None if no seed is trained in all arms.
        seeds: that are trained in all arms, of so many `planned`.
        bound: in points.
    """
    if primary is None:
        return f"Nothing can be said yet: 0 of {planned} seeds are trained in all arms."
    change = f"{decimal(primary.difference * 100)} points of error from {primary.more} to {primary.fewer}"
    if seeds > 1:
        corrected = "" if primary.p_holm == primary.p_value else f", p {primary.p_holm:.2g} by Holm's correction"
        inner = f", 90 % {_ends(primary.low_90, primary.high_90)}" if primary.verdict in (SMALL, NONE) else ""
        change += f" (95 % {_ends(primary.low, primary.high)}{inner}{corrected})"
    if primary.verdict == EARLY:
        return f"The data cannot tell yet: {seeds} of {planned} seeds are trained, so far {change}."
    said = {
        DIFFERS: f"{_VARIED.capitalize()} changes the error: {change}.",
        SMALL: f"{_VARIED.capitalize()} changes the error, by less than {bound:g} points: {change}.",
        NONE: f"{_VARIED.capitalize()} has no effect beyond {bound:g} points: {change}.",
        UNKNOWN: f"The data cannot tell whether {_VARIED} changes the error: {change}, which shows neither a "
        f"difference nor that it lies within {bound:g} points.",
    }
    return said[primary.verdict]


def _ends(low: float, high: float) -> str:
    return f"{decimal(low * 100)} to {decimal(high * 100)}"
