"""An experiment on multiplicity: the errors of all arms, and the differences between them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from resect.figures.colours import BLUE, GREY, INK, ORANGE, PALE_BLUE
from resect.figures.style import SMALL, axes_or_new, head
from resect.words import pair

_ROOM = 0.6  # beside the first and the last arm


def errors(design: pd.DataFrame, trainings: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The test error of every training, a line a seed, and the mean of every arm with its interval.

    Args:
        design: one row an arm: `arm`, `log2_paths`, `error`, `error_low`, `error_high` (NaN where not known).
        trainings: one row a training: `arm`, `seed`, `error`.
    """
    ax = axes_or_new(ax, height=3.8)
    places = {arm: i for i, arm in enumerate(design["arm"])}
    for _, own in trainings.groupby("seed"):
        x = own["arm"].map(places)
        ax.plot(x, own["error"] * 100, color=GREY, marker="o", markersize=3.5, linewidth=0.6, alpha=0.8)
    known = design[design["error"].notna()]
    reach = np.abs(known[["error_low", "error_high"]].sub(known["error"], axis=0).to_numpy().T) * 100
    ax.errorbar(known["arm"].map(places), known["error"] * 100, yerr=reach, fmt="D", color=BLUE, capsize=4, zorder=3)
    names = [f"{arm}\n{bits:.1f} bits" for arm, bits in zip(design["arm"], design["log2_paths"], strict=True)]
    ax.set_xticks(range(len(names)), names, fontsize=SMALL)
    if len(names) > 4:
        ax.tick_params(axis="x", labelrotation=20)
    ax.set(ylabel="test error (%)", xlim=(-_ROOM, len(names) - 1 + _ROOM))
    head(ax, "errors", [("◆ mean, 95 %", BLUE), ("● one training, lines join a seed", GREY)])
    return ax


def differences(contrasts: pd.DataFrame, bound: float, ax: Axes | None = None) -> Axes:
    """The difference that fewer paths make, with its interval, beside the bound within which it counts as none.

    Args:
        contrasts: one row each, the primary one first: `fewer`, `more`, `difference`, `low`, `high`, `high_90`,
            fractions. No effect is said where the 90 % interval lies within the bound (of several, also by Holm).
        bound: in points.
    """
    ax = axes_or_new(ax, height=3.8)
    ax.axvspan(-bound, bound, color=PALE_BLUE, zorder=0)
    ax.axvline(0, color=INK, linewidth=0.8)
    places = range(len(contrasts))
    middle, reach = contrasts["difference"] * 100, (contrasts["high"] - contrasts["difference"]) * 100
    ends = contrasts.get("high_90", contrasts["difference"])  # records of before have none
    inner = (ends - contrasts["difference"]) * 100
    ax.errorbar(middle, places, xerr=reach, fmt="D", color=ORANGE, capsize=4)
    ax.errorbar(middle, places, xerr=inner, fmt="none", color=ORANGE, elinewidth=4)
    names = [
        pair(fewer, more).replace(": ", "\n") for fewer, more in zip(contrasts["fewer"], contrasts["more"], strict=True)
    ]
    ax.set_yticks(places, names, fontsize=SMALL)
    ax.set(xlabel="test error, fewer paths minus more (points)", ylim=(len(contrasts) - 0.4, -0.6))
    head(ax, "differences", [("◆ mean, 95 % (thick: 90 %)", ORANGE), (f"■ within {bound:g} points", "#7f9dbf")])
    return ax
