"""A trained network beside its untrained twin, by path length.

Both tables have one row a length: `length`, `log2_paths`, `share` with `share_low` and `share_high`, `magnitude`, and
`coherence_median` with `coherence_lower` and `coherence_upper`; `ranges` are the effective ranges of both by share.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.axes import Axes

from resect.figures import by_length
from resect.figures.colours import BLUE, GREY, INK, ORANGE
from resect.figures.marks import reference_line, whole_numbers
from resect.figures.style import Entry, axes_or_new, head
from resect.words import span

if TYPE_CHECKING:
    from resect.paths.measures import Effective

_Both = tuple[pd.DataFrame, pd.DataFrame]
_TWINS = (("trained", BLUE, "o"), ("untrained", ORANGE, "s"))
_MARKS = {"o": "●", "s": "■"}


def shares(both: _Both, ranges: tuple[Effective, Effective], mass: float = 0.95, ax: Axes | None = None) -> Axes:
    """Exact share of the gradient, with its interval, and count x magnitude, of the trained and the untrained one."""
    ax, highest, lowest = axes_or_new(ax, height=4.2), 0.0, 0.0
    for table, colour, marker in _drawn(both):
        x = table["length"]
        if by_length.has_interval(table, "share"):
            by_length.band(ax, x, table["share_low"] * 100, table["share_high"] * 100, colour)
        ax.plot(x, table["magnitude"] * 100, color=colour, linestyle=(0, (4, 2)), linewidth=1.2)
        ax.plot(x, table["share"] * 100, color=colour, marker=marker, markersize=4, linewidth=1.8)
        drawn = table[[name for name in ("share", "share_low", "share_high", "magnitude") if name in table]] * 100
        highest, lowest = max(highest, float(drawn.max().max())), min(lowest, float(drawn.min().min()))
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set(ylabel="share of the gradient (%)", ylim=(lowest - highest * 0.05, highest * 1.35))
    _lengths(ax, both)
    for (_, colour, _), effective, level in zip(_TWINS, ranges, (0.95, 0.86), strict=True):
        left, right = effective.low - 0.5, effective.high + 0.5
        ax.plot([left, left, right, right], [level - 0.025, level, level, level - 0.025], color=colour, linewidth=1.6,
                transform=ax.get_xaxis_transform())  # fmt: skip
        text = f"≥ {100 * mass:g} %: {span(effective.low, effective.high)}"
        by_length.name_range(ax, (left, right), level, text, colour)
    head(ax, "share", [*_key(), ("— exact", INK), ("- - count × norm", INK)])
    return ax


def coherence(both: _Both, ax: Axes | None = None) -> Axes:
    """Coherence of the paths of a length: the median over samples, and their middle half; logarithmic."""
    ax = axes_or_new(ax, height=4.2)
    ax.set_yscale("log")
    sizes = []
    for table, colour, marker in _drawn(both):
        some = table[(table["coherence_median"] > 0) & (table["coherence_lower"] > 0)]
        ax.fill_between(some["length"], some["coherence_lower"], some["coherence_upper"], color=colour, alpha=0.2,
                        linewidth=0)  # fmt: skip
        ax.plot(some["length"], some["coherence_median"], color=colour, marker=marker, markersize=4, linewidth=1.8)
        sizes.append(some[["coherence_lower", "coherence_upper"]])
    known = pd.concat(sizes)
    lowest, highest = (float(known.min().min()), float(known.max().max())) if len(known) else (1.0, 1.0)
    ax.set_ylim(min(lowest, 1.0) / 2, max(highest, 1.0) * 2)
    reference_line(ax, 1, "")
    _lengths(ax, both)
    ax.set_ylabel("coherence of a length (1: no interference)")
    ax.yaxis.set_major_formatter("{x:g}")
    head(ax, "coherence", [*_key(), ("bands: middle half", GREY)])
    return ax


def _drawn(both: _Both) -> Iterator[tuple[pd.DataFrame, str, str]]:
    """Each table up to the last length that can be seen of either, with colour and marker."""
    last = _last(both)
    for table, (_, colour, marker) in zip(both, _TWINS, strict=True):
        some = by_length.with_paths(table)
        yield some[some["length"] <= last], colour, marker


def _last(both: _Both) -> int:
    """A little beyond the last length that either share or count x magnitude of either can be seen of."""
    last = 0
    for table in both:
        seen = (table[["share", "magnitude"]].abs() > by_length.VISIBLE).any(axis=1)
        last = max(last, int(table["length"][seen].max()))
    return min(last + 1, int(by_length.with_paths(both[0])["length"].max()))


def _lengths(ax: Axes, both: _Both) -> None:
    ax.set(xlim=(-0.7, _last(both) + 0.7), xlabel="path length (blocks)")
    whole_numbers(ax)


def _key() -> list[Entry]:
    return [(f"{_MARKS[marker]} {name}", colour) for name, colour, marker in _TWINS]
