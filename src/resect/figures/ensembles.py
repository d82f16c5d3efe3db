"""Ensembles: explicit ones of sub-networks, and the implicit ones of several networks side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from resect.figures.colours import BAR_GREY, BLUE, GREY, INK, ORANGE, PALE_BLUE, PALE_GREY
from resect.figures.marks import whole_numbers
from resect.figures.style import SMALL, axes_or_new, head
from resect.words import count, percent, plural, shortened


def ensemble(table: pd.DataFrame, removed: int, intact: float, ax: Axes | None = None) -> Axes:
    """Error against the number of members: averaged, voting, and as many independent voters.

    Args:
        table: that of an ensemble result, one row a number of `members`.
        removed: blocks missing in every member.
        intact: the error of the intact network.
    """
    ax = axes_or_new(ax)
    ax.fill_between(table["members"], table["error_low"] * 100, table["error_high"] * 100, color=PALE_BLUE, linewidth=0)
    entries = []
    for column, label, mark, colour, style in (
        ("member_error", "one member", "—", GREY, {}),
        ("error", "outputs averaged (95 % interval)", "●", BLUE, {"marker": "o", "markersize": 3}),
        ("vote_error", "plurality vote", "···", BLUE, {"linestyle": ":"}),
        ("independent_error", "vote of as many independent members", "—", ORANGE, {}),
    ):
        ax.plot(table["members"], table[column] * 100, label=label, color=colour, **style)
        entries.append((f"{mark} {label}", colour))
    errors = table[["error_high", "member_error", "vote_error", "independent_error"]]
    top = max(intact, float(errors.max().max())) * 100
    ax.set(xlabel="members of the ensemble", ylabel="error (%)", ylim=(0, min(113.0, max(top * 1.15, 1.0))))
    whole_numbers(ax)
    ax.axhline(intact * 100, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    entries.append((f"- - intact network, {percent(intact)}", INK))
    entries.append((f"two members disagree on {percent(float(table['disagreement'].iloc[-1]))} of the samples", INK))
    head(ax, f"sub-networks without {plural(removed, 'block')}", entries)
    return ax


def multiplicity(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """All paths and the effective number of paths of each network, as powers of two.

    Args:
        table: one row a network: `model`, `blocks`, `parameters`, `log2_paths`, `log2_effective_paths`.
    """
    ax = axes_or_new(ax, height=height(len(table)))
    places = np.arange(len(table))[::-1]
    for shift, column, colour in ((0.19, "log2_paths", PALE_GREY), (-0.19, "log2_effective_paths", BLUE)):
        ax.barh(places + shift, table[column], height=0.34, color=colour)
        for place, value in zip(places, table[column], strict=True):
            _value(ax, value, place + shift, f"{value:.1f}".removesuffix(".0"))
    rows = zip(shortened(list(table["model"]), 30), table["blocks"], table["parameters"], strict=True)
    names = [f"{model}\n{plural(n, 'block')}, {count(size)} parameters" for model, n, size in rows]
    ax.set_yticks(places, names)
    ax.set_xlabel("number of paths (power of two)")
    head(ax, "paths", [("■ all", GREY), ("■ effective, at most", BLUE)])
    _bare(ax, float(table["log2_paths"].max()), len(table))
    return ax


def intact_errors(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The `error` of each intact network, in the same order."""
    ax = axes_or_new(ax, height=height(len(table)))
    places = np.arange(len(table))[::-1]
    ax.barh(places, table["error"] * 100, height=0.5, color=BAR_GREY)
    for place, error in zip(places, table["error"], strict=True):
        _value(ax, error * 100, place, percent(error))
    ax.set_yticks(places, [""] * len(table))
    ax.set_xlabel("error (%)")
    head(ax, "error, intact")
    _bare(ax, float(table["error"].max()) * 100, len(table))
    return ax


def height(networks: int) -> float:
    """The height in inches at which so many networks stand clear of each other."""
    return 1.4 + 0.6 * networks


def _value(ax: Axes, value: float, place: float, label: str) -> None:
    ax.annotate(label, (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=SMALL)


def _bare(ax: Axes, largest: float, networks: int) -> None:
    ax.set_xlim(0, max(largest, 1e-9) * 1.18)
    ax.set_ylim(-0.6, networks - 0.4)  # the same in both panels, so that their rows are level
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
