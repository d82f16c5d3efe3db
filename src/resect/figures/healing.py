"""What healing gives back of what a cut takes, of several candidates."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from resect.figures.colours import BAR_GREY, BLUE, GREY, ORANGE
from resect.figures.marks import rate_axis, reference_line
from resect.figures.style import axes_or_new, head
from resect.words import percent


def healing(
    table: pd.DataFrame, intact: float, ax: Axes | None = None, *, name: str = "error", rate: bool = True
) -> Axes:
    """Each candidate as a line from the cut network to the healed one, with 95 % intervals of their changes.

    Args:
        table: one row a candidate: `chosen`, `cut` and `healed`, and `cut_change` and `healed_change` with `..._low`
            and `..._high`.
        intact: the intact network's error (loss).
        name: of the error; rate: it is a fraction, drawn in per cent.
    """
    rows, scale = table.to_dict("records"), 100 if rate else 1
    ax, drawn = axes_or_new(ax), [intact * scale]
    for place, row in enumerate(rows):
        for what, colour in (("cut", ORANGE), ("healed", BLUE)):
            ends = [(intact + row[f"{what}_change_{end}"]) * scale for end in ("low", "high")]
            if rate:
                ends = [min(100.0, max(0.0, end)) for end in ends]
            ax.plot([place, place], ends, color=colour, linewidth=4, alpha=0.3, solid_capstyle="butt")
            ax.plot(place, row[what] * scale, marker="o", color=colour, clip_on=False)
            drawn += [*ends, row[what] * scale]
        ax.plot([place, place], [row["cut"] * scale, row["healed"] * scale], color=BAR_GREY, linewidth=1, zorder=1)
    names = [f"{place + 1}{', chosen' if row['chosen'] else ''}" for place, row in enumerate(rows)]
    ax.set_xticks(range(len(rows)), names)
    reference_line(ax, intact * scale, f"intact {percent(intact) if rate else f'{intact:.3g}'}")
    ax.set(xlabel="candidate, by the search", ylabel=f"{name} (%)" if rate else name, xlim=(-0.5, len(rows) - 0.5))
    if rate:
        rate_axis(ax, drawn)
    head(ax, "", [("● cut", ORANGE), ("● healed", BLUE), ("| 95 % interval of the change from intact", GREY)])
    return ax
