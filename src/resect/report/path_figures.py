"""Figures of the unravelled view (paper, Figure 6) and of multiplicity."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from resect.report.style import BLUE, GREEN, GREY, INK, ORANGE, PALE_BLUE, PALE_ORANGE, name_panel, panels
from resect.report.words import percent
from resect.studies.results import DepthAnswer, Study

_DEEPEST = 1e-12  # the lowest value on a log axis, as a part of the highest


def _lengths(study: Study) -> tuple[pd.DataFrame, DepthAnswer]:
    assert study.lengths is not None and study.answers.depth is not None, "a plain network has no path lengths"
    return study.lengths, study.answers.depth


def counts_figure(study: Study) -> Axes:
    """How many paths have each length, with the effective ranges."""
    table, depth = _lengths(study)
    left, right = panels(2)
    for ax in (left, right):
        _shade(ax, depth)
        ax.set_xlabel("path length (blocks)")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.bar(table["length"], table["path_fraction"] * 100, color=GREY, width=0.8)
    left.set_ylabel("paths of this length (% of all)")
    name_panel(left, "linear")
    right.plot(table["length"], table["log2_paths"] * np.log10(2), color=INK, marker=".", markersize=4)
    right.set_ylabel("number of paths (power of ten)")
    name_panel(right, "logarithmic")
    right.set_ylim(bottom=0)
    _name_ranges(left, depth)
    return left


def share_figure(study: Study) -> Axes:
    """Share of the gradient by path length: exact, and by the paper's count x magnitude."""
    table, depth = _lengths(study)
    left, right = panels(2, height=3.9)
    for ax in (left, right):
        _shade(ax, depth)
        ax.set_xlabel("path length (blocks)")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    shown = _visible(table)
    share, magnitude, rms = (shown[name] * 100 for name in ("share", "magnitude", "magnitude_rms"))
    left.plot(shown["length"], share, color=BLUE, marker="o", markersize=4, label="exact share")
    left.plot(shown["length"], magnitude, color=ORANGE, marker="s", markersize=3.5, label="count × mean norm")
    left.plot(shown["length"], rms, color=GREEN, linestyle="--", linewidth=1.2, label="count × root mean square")
    left.axhline(0, color=INK, linewidth=0.8)
    left.set_ylabel("share of the gradient (%)")
    name_panel(left, "linear")
    left.legend(fontsize=8.5)
    _log_share(right, table)
    name_panel(right, "logarithmic")
    _layers_axis(left, table)
    _layers_axis(right, table)
    return left


def _log_share(ax: Axes, table: pd.DataFrame) -> None:
    ax.set_yscale("log")
    positive, negative = table[table["share"] > 0], table[table["share"] < 0]
    ax.plot(table["length"], table["share"].abs(), color=BLUE, linewidth=1)
    ax.plot(positive["length"], positive["share"], "o", color=BLUE, markersize=4, label="exact share")
    if len(negative):
        ax.plot(negative["length"], -negative["share"], "o", markerfacecolor="white", markeredgecolor=BLUE,
                markersize=4.5, label="exact share, negative")  # fmt: skip
    measured = table[table["magnitude"] > 0]
    ax.plot(
        measured["length"], measured["magnitude"], color=ORANGE, marker="s", markersize=3.5, label="count × mean norm"
    )
    ax.set_ylim(_DEEPEST, 2)
    deep = table[(table["share"].abs() > _DEEPEST) | (table["magnitude"] > _DEEPEST)]
    ax.set_xlim(-0.5, float(deep["length"].max()) + 0.5)
    ax.set_ylabel("share of the gradient (fraction)")
    ax.legend(fontsize=8.5, loc="lower left")


def norm_figure(study: Study) -> Axes:
    """Norm of the gradient by path length: of all paths of a length together, and of single paths."""
    table, _ = _lengths(study)
    left, right = panels(2)
    shown = _visible(table)
    left.plot(shown["length"], shown["norm"], color=BLUE, marker="o", markersize=4)
    left.set(xlabel="path length (blocks)", ylabel="norm, all paths of this length")
    name_panel(left, "linear")
    left.set_ylim(bottom=0)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_yscale("log")
    right.plot(table["length"], table["norm"], color=BLUE, marker="o", markersize=3.5, label="all paths of a length")
    right.plot(table["length"], table["path_norm"], color=ORANGE, marker="s", markersize=3, label="one path, mean")
    right.plot(
        table["length"], table["path_norm_rms"], color=GREEN, linestyle="--", linewidth=1.2, label="one path, rms"
    )
    right.set(xlabel="path length (blocks)", ylabel="norm of the gradient")
    name_panel(right, "logarithmic")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(fontsize=8.5)
    return left


def multiplicity_figure(study: Study) -> Axes:
    """Raw and effective number of paths of several networks, and their error."""
    rows = study.answers.multiplicity
    left, right = panels(2, height=1.3 + 0.55 * len(rows))
    places = np.arange(len(rows))[::-1]
    left.barh(places + 0.19, [row.log2_paths for row in rows], height=0.36, color="#d5d9de")
    left.barh(places - 0.19, [row.log2_effective_paths for row in rows], height=0.36, color=BLUE)
    left.annotate("all paths", (rows[0].log2_paths, places[0] + 0.19), xytext=(-4, 0), textcoords="offset points",
                  ha="right", va="center", fontsize=8.5)  # fmt: skip
    left.annotate("effective", (rows[0].log2_effective_paths, places[0] - 0.19), xytext=(4, 0),
                  textcoords="offset points", va="center", fontsize=8.5, color=BLUE)  # fmt: skip
    left.set_yticks(places, [f"{row.model}\n{row.blocks} blocks, {row.parameters / 1e6:.2g} M" for row in rows])
    left.set_xlabel("number of paths (power of two)")
    right.barh(places, [row.error * 100 for row in rows], height=0.5, color=GREY)
    for place, row in zip(places, rows, strict=True):
        right.annotate(percent(row.error), (row.error * 100, place), xytext=(4, 0), textcoords="offset points",
                       va="center", fontsize=8.5)  # fmt: skip
    right.set_yticks(places, [""] * len(rows))
    right.set_xlabel("error, intact (%)")
    right.margins(x=0.15)
    for ax in (left, right):
        ax.grid(visible=False, axis="y")
    return left


def _visible(table: pd.DataFrame) -> pd.DataFrame:
    """The lengths up to a little beyond the last that can be seen on a linear axis."""
    seen = table[(table["share"].abs() > 2e-3) | (table["magnitude"] > 2e-3)]
    return table[table["length"] <= int(seen["length"].max()) + 3]


def _shade(ax: Axes, depth: DepthAnswer) -> None:
    share, magnitude = depth.by_share, depth.by_magnitude
    ax.axvspan(magnitude.low - 0.5, magnitude.high + 0.5, 0, 0.5, color=PALE_ORANGE, linewidth=0, alpha=0.6)
    ax.axvspan(share.low - 0.5, share.high + 0.5, 0.5, 1, color=PALE_BLUE, linewidth=0, alpha=0.7)


def _name_ranges(ax: Axes, depth: DepthAnswer) -> None:
    """A legend of the shaded ranges."""
    mass = percent(depth.mass, 0)
    share = Patch(color=PALE_BLUE, label=f"{mass} of the exact shares")
    magnitude = Patch(color=PALE_ORANGE, label=f"{mass} of count × norm")
    ax.legend(handles=[share, magnitude], fontsize=8.5, loc="upper right")
    ax.set_ylim(top=ax.get_ylim()[1] * 1.25)


def _layers_axis(ax: Axes, table: pd.DataFrame) -> None:
    """A second axis on top, in layers, where all blocks have equally many."""
    per_block = table["layers"].to_numpy(float)[1:] / table["length"].to_numpy(float)[1:]
    if len(per_block) and np.ptp(per_block) < 1e-9 and per_block[0] > 0:
        factor = float(per_block[0])
        top = ax.secondary_xaxis("top", functions=(partial(np.multiply, factor), partial(np.multiply, 1 / factor)))
        top.set_xlabel("path length (layers)")
        top.tick_params(colors=GREY)
