"""Whether anything is lost: a sentence from the change of the error and its interval, on samples that chose nothing."""

from __future__ import annotations

from math import isfinite

from resect.measuring.meaning import Meaning
from resect.words import plural


def verdict(meaning: Meaning, change: tuple[float, float, float], tolerance: float, samples: int, what: str) -> str:
    """One sentence: nothing of account is lost, so much is, or it cannot be said.

    Args:
        change: of the main metric, with both ends of its 95 % interval.
        tolerance: the loss that does not matter, in the metric's own unit.
        samples: it was measured on.
        what: is gone, "10 of 54 blocks".
    """
    value, low, high = change
    name, unit = meaning.name, meaning.points
    said = f"{meaning.change(value)}{unit}"
    if isfinite(low) and isfinite(high):
        said += f" [{meaning.change(low)}, {meaning.change(high)}]"
    on = f"on {plural(samples, 'sample')} that chose nothing"
    if isfinite(high) and high <= 0:
        return f"Without {what} the {name} does not grow, 95 %: {said} {on}."
    if isfinite(high) and high <= tolerance:
        most = f"{meaning.change(high)}{unit} of {name}"
        return f"Without {what} there is no loss of more than {most}, 95 %: {said} {on}."
    if isfinite(low) and low > 0:
        return f"Without {what} the {name} grows by {said} {on}."
    allowed = f"{meaning.change(tolerance)}{unit}"
    return (
        f"Whether {what} are missed by more than {allowed} of {name} cannot be said with so few samples: {said} {on}."
    )


def tolerated(meaning: Meaning, tolerance: float, intact: float) -> float:
    """A tolerance in points of a rate, or else per cent of the intact value, in the unit of the metric."""
    return tolerance / 100 * (1 if meaning.rate and meaning.error else abs(intact))
