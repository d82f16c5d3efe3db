"""What lesions do to single samples and to classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from resect.figures.colours import BLUE, INK, ORANGE
from resect.figures.marks import bar_places, block_axis, heat_map, whole_numbers
from resect.figures.style import axes_or_new, head


def flips(table: pd.DataFrame, flipped: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """For every lesion how many samples it breaks (upward) and repairs (downward), in percent.

    Args:
        table: one row a lesion: `samples`, and `block` where each has one.
        flipped: one row a sample that a lesion flips: `lesion` (row of the table) and `flip`, "broken" or "repaired".
    """
    ax = axes_or_new(ax)
    where = bar_places(table)
    for flip, colour, sign in (("broken", ORANGE, 1), ("repaired", BLUE, -1)):
        number = np.bincount(flipped["lesion"][flipped["flip"] == flip], minlength=len(table))
        ax.bar(where, sign * number / table["samples"] * 100, color=colour, width=0.8)
    ax.axhline(0, color=INK, linewidth=0.8)
    block_axis(ax, where.tolist())
    ax.set(xlabel="block (its index)" if "block" in table else "lesion (row of the table)", ylabel="samples (%)")
    ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    words = [("■ broken: right before, wrong now", ORANGE), ("■ repaired: wrong before, right now", BLUE)]
    head(ax, "samples flipped", words)
    return ax


def classes(errors: pd.DataFrame, blocks: Sequence[int] | None = None, ax: Axes | None = None) -> Axes:
    """Error of every class under every lesion, the intact network in the top row apart.

    Args:
        errors: one row a lesion, the intact network last; one column a class. Fractions of 1.
        blocks: the block that each lesion is about; its row by default.
    """
    lesions = len(errors) - 1
    ax = axes_or_new(ax, height=max(3.2, 1.2 + 0.09 * len(errors)))
    heat_map(ax, errors.to_numpy(float) * 100, "error (%)", aspect="auto", vmin=0, vmax=100)
    ax.axhline(lesions - 0.5, color="white", linewidth=2)
    ax.set(xlabel="class", ylabel="lesion (row of the table)" if blocks is None else "block (its index)")
    step = max(1, -(-lesions // 10))
    rows = [row for row in range(0, lesions, step) if lesions - row > step / 2]  # clear of the last label
    names = np.arange(lesions) if blocks is None else np.asarray(blocks)
    ax.set_yticks([*rows, lesions], [*(str(names[row]) for row in rows), "intact"])
    whole_numbers(ax)
    if errors.shape[1] <= 20:
        ax.set_xticks(range(errors.shape[1]), [str(name) for name in errors.columns])
    head(ax, "error by class")
    return ax
