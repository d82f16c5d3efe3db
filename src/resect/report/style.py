"""One look for all figures: colours that hold in grey and for colour-blind readers, light grids, direct labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY, INK = "#0a5ea8", "#d4580a", "#0b8a6a", "#7a7f87", "#22262b"
PALE_BLUE, PALE_ORANGE = "#cfe0f1", "#f8dcc6"

SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7ea",
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "path",  # the page must look the same where the font is missing
    "svg.hashsalt": "resect",  # the same study gives the same file
}


def panels(count: int = 1, *, height: float = 3.6, widths: Sequence[float] | None = None) -> list[Axes]:
    """Axes side by side on a new figure that no global state knows."""
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(9.2, height), layout="constrained", facecolor="white")
        found = figure.subplots(1, count, squeeze=False, gridspec_kw={"width_ratios": widths} if widths else None)
    return list(found[0])


def name_panel(ax: Axes, title: str) -> None:
    """A title at the left end; the style's own place is forgotten once a figure is made."""
    ax.set_title(title, loc="left", fontsize=10, color=INK)


def reference_line(ax: Axes, value: float, label: str) -> None:
    """A dashed horizontal line with its name, if any, at the right end."""
    ax.axhline(value, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    ax.annotate(
        label,
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=GREY,
        fontsize=8.5,
    )
