"""One look for all figures: light grids, panels beside each other, titles, and keys in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker
from matplotlib.textpath import TextPath
from matplotlib.transforms import ScaledTranslation

from resect.errors import InputError
from resect.figures.colours import FRAME, INK
from resect.words import shortened

SMALL = 8.5  # points, of everything beside titles and labels
_TITLE = 10  # points
_GAP = 10  # points between the words of a key
_LINE = 14  # points, of a line over the axes

SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": FRAME,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#e8ebee",
    "grid.linewidth": 0.7,
    "xtick.color": FRAME,
    "ytick.color": FRAME,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "svg.fonttype": "path",  # the page must look the same where the font is missing
    "svg.hashsalt": "resect",  # the same study gives the same file
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.wspace": 0.05,
}

Panel = Callable[..., Axes]  # draws into the axes that it is given as `ax`
Entry = tuple[str, str]  # of a key: the words, with their mark, and their colour


def panels(
    count: int = 1, *, height: float = 3.6, widths: Sequence[float] | None = None, width: float = 9.2
) -> list[Axes]:
    """Axes side by side on a new figure that no global state knows.

    Args:
        widths: of the panels, relative to each other.
        width, height: of the figure, in inches.
    """
    # About where the layout will put them: `head` has to know before that what fits over an axes.
    places = {"width_ratios": widths or [1] * count, "left": 0.08, "right": 0.99}
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        axes = figure.subplots(1, count, squeeze=False, gridspec_kw=places)
    return list(axes[0])


def side_by_side(drawn: Sequence[Panel], *, height: float = 3.6, widths: Sequence[float] | None = None) -> Figure:
    """One new figure with every panel drawn into axes of its own."""
    axes = panels(len(drawn), height=height, widths=widths)
    for draw, ax in zip(drawn, axes, strict=True):
        draw(ax=ax)
    return figure_of(axes[0])


def axes_or_new(ax: Axes | None, *, height: float = 3.6, width: float = 9.2) -> Axes:
    """The axes given, or those of a new figure; InputError for what is no axes."""
    if ax is not None and not isinstance(ax, Axes):
        raise InputError(
            f"`ax` must be matplotlib axes, got {ax!r:.60}. To save a figure: result.plot().figure.savefig(file)."
        )
    return panels(height=height, width=width)[0] if ax is None else ax


def figure_of(ax: Axes) -> Figure:
    """The figure that axes lie on."""
    figure = ax.figure
    assert isinstance(figure, Figure)
    return figure


def head(ax: Axes, title: str = "", entries: Sequence[Entry] = (), *, above: float = 6) -> None:
    """A title at the left over the axes, and at the right what the marks mean, in their own colours.

    No data can lie there. Where both do not fit on one line, the key stands below the title; a long title is shortened.

    Args:
        above: points between the axes and the lowest line.
    """
    title, room = shortened([title], 44)[0], points_across(ax)
    rows = _rows(entries, room)
    if rows:
        _key(ax, rows, above)
    beside = not rows or _width(rows[0]) + _GAP + _text_width(title, _TITLE) <= room
    lines = len(rows) - 1 if rows and beside else len(rows)
    if title:
        ax.set_title(title, loc="left", fontsize=_TITLE, color=INK, y=1.0, pad=above + lines * _LINE, parse_math=False)


def points_across(ax: Axes) -> float:
    """The width of axes in points, about: the layout of the figure may still change it."""
    return float(ax.get_position().width * figure_of(ax).get_figwidth() * 72)


def _rows(entries: Sequence[Entry], room: float) -> list[list[Entry]]:
    """A key in as few lines as it fits on."""
    rows: list[list[Entry]] = []
    for entry in entries:
        if rows and _width([*rows[-1], entry]) <= room:
            rows[-1].append(entry)
        else:
            rows.append([entry])
    return rows


def _width(row: Sequence[Entry]) -> float:
    """Of one line of a key, in points."""
    return sum(_text_width(text, SMALL) + _GAP for text, _ in row)


def _text_width(text: str, size: float) -> float:
    return float(TextPath((0, 0), text.replace("$", "S"), size=size).get_extents().width) if text.strip() else 0.0


def _key(ax: Axes, rows: Sequence[Sequence[Entry]], above: float) -> None:
    lines = []
    for row in rows:
        words = [TextArea(text, textprops={"color": colour, "fontsize": SMALL}) for text, colour in row]
        lines.append(HPacker(children=list(words), sep=_GAP, pad=0, align="baseline"))
    key = VPacker(children=list(lines), sep=3, pad=0, align="right")
    place = ax.transAxes + ScaledTranslation(0, above / 72, figure_of(ax).dpi_scale_trans)
    ax.add_artist(AnchoredOffsetbox("lower right", child=key, frameon=False, pad=0, borderpad=0,
                                    bbox_to_anchor=(1.0, 1.0), bbox_transform=place))  # fmt: skip
