"""One look for all figures: colours that hold in grey and for colour-blind readers, light grids, keys in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from resect.files import whole

# Blue and orange stay apart for all common kinds of colour blindness, and lie 20 % apart in lightness.
BLUE, ORANGE, GREEN, GREY, INK = "#0a4f94", "#d9661a", "#3f9c7f", "#767b83", "#22262b"
PALE_BLUE, PALE_ORANGE, PALE_GREY = "#d3e2f2", "#f8dcc6", "#d9dce0"
SMALL = 8.5  # points, of everything beside titles and labels

SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": "#aeb3ba",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#e8ebee",
    "grid.linewidth": 0.7,
    "xtick.color": "#aeb3ba",
    "ytick.color": "#aeb3ba",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "svg.fonttype": "path",  # the page must look the same where the font is missing
    "svg.hashsalt": "resect",  # the same study gives the same file
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.wspace": 0.05,
}


def panels(count: int = 1, *, height: float = 3.6, widths: Sequence[float] | None = None) -> list[Axes]:
    """Axes side by side on a new figure that no global state knows."""
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(9.2, height), layout="constrained", facecolor="white")
        found = figure.subplots(1, count, squeeze=False, gridspec_kw={"width_ratios": widths} if widths else None)
    return list(found[0])


def save_figure(draw: Callable[[], Figure], file: Path) -> None:
    """Draw a figure in this look and write it as PNG; the file appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(SETTINGS), whole(file) as temporary:
        draw().savefig(temporary, format="png", dpi=150)


def axes_or_new(ax: Axes | None, *, height: float = 3.6) -> Axes:
    """The axes given, or those of a new figure."""
    return panels(height=height)[0] if ax is None else ax


def name_panel(ax: Axes, title: str, *, above: float = 6) -> None:
    """A title at the left end, `above` points over the axes; long ones are shortened in the middle."""
    ax.set_title(shortened(title), loc="left", fontsize=10, color=INK, y=1.0, pad=above)


def shortened(text: str, most: int = 44) -> str:
    """A text of at most `most` characters: a long one keeps its two ends."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2 - 1]} … {text[-(most // 2 - 2) :]}"


def key(ax: Axes, entries: Sequence[tuple[str, str]], *, above: float = 6) -> None:
    """What the marks mean, in their own colours: words at the right end over the axes, where no data can lie."""
    words = [TextArea(text, textprops={"color": colour, "fontsize": SMALL}) for text, colour in entries]
    packed = HPacker(children=list(words), sep=10, pad=0, align="baseline")
    assert ax.figure is not None
    ax.add_artist(
        AnchoredOffsetbox(
            loc="lower right",
            child=packed,
            frameon=False,
            pad=0,
            borderpad=0,
            bbox_to_anchor=(1.0, 1.0),
            bbox_transform=ax.transAxes + ScaledTranslation(0, above / 72, ax.figure.dpi_scale_trans),
        )
    )


def whole_numbers(ax: Axes) -> None:
    """Ticks of the x axis at whole numbers only."""
    ax.xaxis.set_major_locator(MaxNLocator(nbins=9, steps=[1, 2, 5, 10], integer=True))


def reference_line(ax: Axes, value: float, label: str) -> None:
    """A dashed horizontal line with its name at the right end, on a ground that keeps it readable over data."""
    ax.axhline(value, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=2.5)
    if label:
        ax.annotate(
            label,
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 2.5),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=INK,
            fontsize=SMALL,
            bbox={"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.9},
            zorder=4,
        )
