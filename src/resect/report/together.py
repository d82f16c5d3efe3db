"""What all lesions of a sweep say together, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resect.words import plural, points

_SHOWN = 6  # lesions that a sentence names


def together(found: Mapping[str, Any], names: Sequence[str], unit: str = "block") -> str:
    """Sentences from `Together.as_dict`: what is needed, which is the worst, and what could not have been seen.

    Args:
        names: of the lesions.
        unit: what each deletes.
    """
    many, needed, harmful, worst = found["of"], found["needed"], found["harmful"], found["worst"]
    percent = f"{100 * (1 - found['level']):g} %"
    how = f"Holm, {percent}" if found["least"] is not None else f"simultaneous intervals, {percent}"
    which = f"{len(needed)} of {plural(many, unit)} {'is' if len(needed) == 1 else 'are'} needed"
    said = [f"All {many} tests together: {which} ({how}){_named(needed, names)}."]
    if needed and len(worst) > 1:
        said.append(f"The worst is one of {len(worst)}{_named(worst, names)}.")
    elif needed:
        said.append(f"The worst is {names[worst[0]]}.")
    if needed and found["held_out"] is not None:
        lesion, damage, low, high = found["held_out"]
        said.append(
            f"Chosen on one half of the samples and measured on the other, the largest damage is {points(damage)} "
            f"({points(low)} to {points(high)}; {names[lesion]})."
        )
    if len(needed) < many and found["least"] is not None:
        said.append(
            f"For {many - len(needed)} no damage could be shown; damages below {points(found['least'])} could not have "
            "been."
        )
    helps = f"Deleting lowers the error detectably{_named(harmful, names)}."
    said.append(helps if harmful else "No deletion helps detectably.")
    return " ".join(said)


def _named(lesions: Sequence[int], names: Sequence[str]) -> str:
    """ ": blocks.0, blocks.3", or nothing for none; the first few of many."""
    if not lesions:
        return ""
    more = f" and {len(lesions) - _SHOWN} more" if len(lesions) > _SHOWN else ""
    return f": {', '.join(names[i] for i in lesions[:_SHOWN])}{more}"
