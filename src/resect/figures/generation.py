"""What is left of a language model's writing."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes

from resect.figures.colours import BAR_GREY, BLUE, GREY
from resect.figures.style import axes_or_new, head


def generation(table: pd.DataFrame, names: Mapping[str, str], ax: Axes | None = None) -> Axes:
    """Each check as a line from the intact network to the pruned one, with the 95 % interval of the change.

    Args:
        table: `check`, and as parts of one `intact`, `pruned`, `change_low` and `change_high`.
        names: of the checks, those that are drawn.
    """
    rows = [row for row in table.to_dict("records") if row["check"] in names]
    ax = axes_or_new(ax, height=1.2 + 0.45 * len(rows))
    for place, row in enumerate(rows):
        ends = [min(1.0, max(0.0, row["intact"] + row[f"change_{end}"])) * 100 for end in ("low", "high")]
        ax.plot([row["intact"] * 100, row["pruned"] * 100], [place, place], color=BAR_GREY, linewidth=1)
        ax.plot(ends, [place, place], color=BLUE, linewidth=4, alpha=0.3, solid_capstyle="butt")
        ax.plot(row["intact"] * 100, place, marker="o", markerfacecolor="white", color=GREY, clip_on=False)
        ax.plot(row["pruned"] * 100, place, marker="o", color=BLUE, clip_on=False)
    ax.set_yticks(range(len(rows)), [names[row["check"]] for row in rows])
    ax.set(xlabel="%", xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5))
    head(ax, "", [("○ intact", GREY), ("● pruned", BLUE), ("▬ 95 % interval of the change", BLUE)])
    return ax
