"""What removing units costs: the front of error against what is removed; how far scores agree."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from resect.figures.colours import BAR_GREY, BLUE, GREY
from resect.figures.marks import reference_line, whole_numbers
from resect.figures.style import axes_or_new, head
from resect.words import percent


def front(
    table: pd.DataFrame, intact: float, ax: Axes | None = None, *, name: str = "error", rate: bool = True,
    budget: str = "remove", unit: str = "unit",
) -> Axes:  # fmt: skip
    """The error by how much is removed, with the 95 % interval of its change.

    Args:
        table: one row a choice: `removed`, the parts that stay of `params`, `flops` and `latency`, `error` with
            `damage_low` and `damage_high`, or `loss` with those of `loss_change`.
        intact: the intact network's error (loss).
        name: of the error; rate: it is a fraction, drawn in per cent.
        budget: what is drawn to the right: remove, params, flops or latency.
    """
    ax, scale = axes_or_new(ax), 100 if rate else 1
    metric, change = ("error", "damage") if "damage" in table else ("loss", "loss_change")
    where = table["removed"] if budget == "remove" else (1 - table[budget]) * 100
    low, high = ((intact + table[f"{change}_{end}"]).clip(lower=0) * scale for end in ("low", "high"))
    if np.isfinite(low).any():
        ax.vlines(where, low, high, color=BAR_GREY, linewidth=1.6)
    ax.plot(where, table[metric] * scale, color=BLUE, linewidth=1.6, marker="o", markersize=4.5)
    top = float(np.nanmax([high.max(), (table[metric] * scale).max()]))
    ax.set_ylim(0 if rate else None, top * 1.08 if top > 0 else 1.0)
    reference_line(ax, intact * scale, f"intact {percent(intact) if rate else f'{intact:.3g}'}")
    words = {"params": "parameters", "flops": "FLOPs"}
    gone = f"{unit}s removed" if budget == "remove" else f"{words.get(budget, budget)} saved (%)"
    ax.set(xlabel=gone, ylabel=f"{name} (%)" if rate else name, xlim=(0, float(where.max()) * 1.04 or 1))
    if budget == "remove":
        whole_numbers(ax)
    head(ax, "", [("● on samples that chose nothing", BLUE), ("| 95 % interval of the change", GREY)])
    return ax
