"""Figures of what deleting and reordering blocks does (paper, Figures 3 and 5)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from resect.jobs.results import Study
from resect.report.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PALE_BLUE,
    axes_or_new,
    key,
    name_panel,
    reference_line,
    shortened,
    whole_numbers,
)
from resect.report.words import percent

_OVER_KEY = 21  # points, over a key that stands on a line of its own


def deletions_figure(study: Study, ax: Axes | None = None) -> Axes:
    """Error after deleting each block alone, on a scale of its own: 0 to what the worst block needs."""
    ax = axes_or_new(ax)
    found, table = study.answers.ensemble, study.deletions
    _bars(ax, table, BLUE)
    top = _top(max(float(table["error"].max()), found.intact_error), found.chance_error)
    ax.set(xlabel=f"deleted {study.subject.unit} (its index)", ylabel="error (%)", ylim=(0, top))
    marked = table[table["downsampling"]]
    ax.plot(marked["block"], marked["error"] * 100 + top * 0.03, "v", color=ORANGE, markersize=5)
    name_panel(ax, study.subject.model, above=_OVER_KEY)
    entries = [("▼ downsampling", ORANGE)] if len(marked) else []
    if found.chance_error is not None and found.chance_error * 100 > top:
        entries.append((f"chance, {percent(found.chance_error)}, lies above", GREY))
    key(ax, entries)
    _reference_errors(ax, found.intact_error, found.chance_error, top)
    return ax


def plain_figure(study: Study, ax: Axes | None = None) -> Axes:
    """Error after deleting each layer of the plain control, from 0 to 100 %, with the other network's range behind."""
    assert study.plain is not None, "this study has no plain control"
    ax = axes_or_new(ax)
    low, high = float(study.deletions["error"].min()) * 100, float(study.deletions["error"].max()) * 100
    ax.axhspan(low, high, facecolor=PALE_BLUE, edgecolor=BLUE, linewidth=0.6, zorder=0.5)
    _bars(ax, study.plain.deletions, "#a9aeb5", width=0.55)
    ax.set(xlabel="deleted layer (its index)", ylabel="error (%)")
    _whole_scale(ax)
    name_panel(ax, f"{shortened(study.plain.model, 24)}, plain", above=_OVER_KEY)
    key(ax, [("■ range of the left panel", BLUE)])
    _reference_errors(ax, study.plain.intact_error, study.answers.ensemble.chance_error, 110)
    return ax


def _bars(ax: Axes, table: pd.DataFrame, colour: str, width: float = 0.8) -> None:
    colours = [ORANGE if down else colour for down in table["downsampling"]]
    ax.bar(table["block"], table["error"] * 100, color=colours, width=width if len(table) <= 100 else 1.0)
    ax.grid(visible=False, axis="x")
    whole_numbers(ax)
    if len(table) <= 15:
        ax.set_xticks(table["block"])
    margin = max(0.7, (8 - len(table)) / 2)  # a single bar does not fill the page
    ax.set_xlim(-margin, len(table) - 1 + margin)


def _top(error: float, chance: float | None) -> float:
    """The end of an error axis in percent: room above the data for marks and labels, chance included if not far."""
    top = max(error * 125, 1.0)
    if chance is not None and 0.88 * top < chance * 100 < 1.5 * top:
        top = chance * 113
    return min(113.0, top)


def _whole_scale(ax: Axes) -> None:
    """An error axis from 0 to 100 %, with room above for a label."""
    ax.set_ylim(0, 110)
    ax.set_yticks(range(0, 101, 20))


def _reference_errors(ax: Axes, intact: float, chance: float | None, top: float) -> None:
    """The intact error and chance, the latter where the axis reaches it; one label where both would collide."""
    together = chance is not None and abs(chance - intact) * 100 < top * 0.08
    if chance is not None and chance * 100 <= top:
        reference_line(ax, chance * 100, f"chance {percent(chance)}, intact {percent(intact)}" if together else "")
        if not together:
            reference_line(ax, chance * 100, f"chance {percent(chance)}")
    reference_line(ax, intact * 100, "" if together else f"intact {percent(intact)}")


def random_figure(study: Study, ax: Axes | None = None) -> Axes:
    """Error by the number of blocks deleted at random: every deletion, the median and the middle half."""
    ax = axes_or_new(ax)
    found, table = study.answers.ensemble, study.random
    quartiles = table.groupby("deleted")["error"].quantile(np.array([0.25, 0.5, 0.75])).unstack() * 100
    ax.fill_between(quartiles.index, quartiles[0.25], quartiles[0.75], color=PALE_BLUE, linewidth=0)
    ax.plot(table["deleted"], table["error"] * 100, ".", color=BLUE, alpha=0.4, markersize=4, markeredgewidth=0)
    ax.plot(quartiles.index, quartiles[0.5], color=BLUE, linewidth=2, marker="o", markersize=3)
    key(ax, [("● one deletion", "#6b93bd"), ("■ middle half", "#8fb2d6"), ("—  median", BLUE)])
    ax.set(xlabel=f"{study.subject.unit}s deleted at random", ylabel="error (%)")
    _whole_scale(ax)
    most = int(table["deleted"].max())
    ax.set_xlim(0, most + max(0.5, most * 0.02))
    whole_numbers(ax)
    _reference_errors(ax, found.intact_error, found.chance_error, 110)
    return ax


def reordering_figure(study: Study, ax: Axes | None = None) -> Axes:
    """Error by the Kendall tau of the blocks' order, from the intact order, 1, down."""
    ax = axes_or_new(ax)
    found, table = study.answers.ensemble, study.reorderings
    tau, error = table["kendall_tau"].to_numpy(float), table["error"].to_numpy(float) * 100
    ax.plot(tau, error, "o", color=BLUE, alpha=0.4, markersize=4.5, markeredgewidth=0)
    centres, middles = _binned_medians(tau, error)
    ax.plot(centres, middles, color=INK, linewidth=1.6, marker="s", markersize=3.5)
    if found.tau_correlation is not None:
        name_panel(ax, f"Spearman rank correlation {found.tau_correlation:.2f}".replace("-", "−"))
    key(ax, [("● one reordering", BLUE), ("■ median of equal groups", INK)])
    width = max(1 - float(tau.min()), 0.01)
    ax.set_xlim(1 + width * 0.02, 1 - width * 1.04)
    ax.set(xlabel="Kendall tau of the order of the blocks (1 = intact order)", ylabel="error (%)")
    _whole_scale(ax)
    _reference_errors(ax, found.intact_error, found.chance_error, 110)
    return ax


def _binned_medians(tau: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians of up to ten equally large groups in the order of tau."""
    order = np.argsort(-tau, kind="stable")
    groups = np.array_split(order, min(10, len(order)))
    return np.array([np.median(tau[g]) for g in groups]), np.array([np.median(error[g]) for g in groups])
