"""Figures of what deleting and reordering blocks does (paper, Figures 3 and 5)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from resect.report.style import BLUE, GREY, INK, ORANGE, PALE_BLUE, name_panel, panels, reference_line
from resect.report.words import percent
from resect.studies.results import Study

_SMALLEST_LOSS = 1e-3  # nats; less than this is drawn as nothing


def deletions_figure(study: Study) -> Axes:
    """Error after deleting each block alone, and beside it each layer of the plain control."""
    widths = [len(study.deletions), max(10, len(study.plain.deletions) * 1.6)] if study.plain else None
    axes = panels(2 if study.plain else 1, widths=widths)
    left = axes[0]
    _deletion_bars(left, study.deletions)
    left.set(xlabel=f"deleted {study.subject.unit}", ylabel="error (%)")
    name_panel(left, study.subject.model)
    _reference_errors(left, study.answers.ensemble.intact_error, study.answers.ensemble.chance_error)
    if study.plain:
        right = axes[1]
        _deletion_bars(right, study.plain.deletions, colour=GREY)
        right.set_xlabel("deleted layer")
        name_panel(right, f"{study.plain.model} (plain)")
        reference_line(right, study.plain.intact_error * 100, "")
        reference_line(right, (study.answers.ensemble.chance_error or 0) * 100, "")
    top = max(float(table["error"].max()) for table in _tables(study)) * 100
    for ax in axes:
        ax.set_ylim(0, min(100.0, max(top, (study.answers.ensemble.chance_error or 0) * 100) * 1.12))
    return left


def _tables(study: Study) -> list[pd.DataFrame]:
    return [study.deletions] + ([study.plain.deletions] if study.plain else [])


def _deletion_bars(ax: Axes, table: pd.DataFrame, colour: str = BLUE) -> None:
    colours = [ORANGE if down else colour for down in table["downsampling"]]
    ax.bar(table["block"], table["error"] * 100, color=colours, width=0.8)
    ax.grid(visible=False, axis="x")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlim(-1, len(table))
    marked = table[table["downsampling"]]
    for block, error in zip(marked["block"], marked["error"], strict=True):
        ax.plot(block, error * 100 + 2.2, marker="v", color=ORANGE, markersize=5)
    if len(marked):
        ax.text(0.985, 0.6, "▼ downsampling", transform=ax.transAxes, color=ORANGE, fontsize=8.5, ha="right")


def _reference_errors(ax: Axes, intact: float, chance: float | None) -> None:
    reference_line(ax, intact * 100, f"intact {percent(intact)}")
    if chance is not None:
        reference_line(ax, chance * 100, f"chance {percent(chance)}")


def random_figure(study: Study) -> Axes:
    """Error by the number of blocks deleted at random: every deletion, the median and the middle half."""
    ax = panels()[0]
    table = study.random
    quartiles = table.groupby("deleted")["error"].quantile(np.array([0.25, 0.5, 0.75])).unstack() * 100
    ax.fill_between(quartiles.index, quartiles[0.25], quartiles[0.75], color=PALE_BLUE, linewidth=0)
    ax.plot(table["deleted"], table["error"] * 100, ".", color=BLUE, alpha=0.35, markersize=4)
    ax.plot(quartiles.index, quartiles[0.5], color=BLUE, linewidth=2)
    ax.annotate("median", (quartiles.index[-1], quartiles[0.5].iloc[-1]), color=BLUE, va="top", ha="right",
                xytext=(0, -6), textcoords="offset points", fontsize=8.5)  # fmt: skip
    _reference_errors(ax, study.answers.ensemble.intact_error, study.answers.ensemble.chance_error)
    ax.set(xlabel=f"{study.subject.unit}s deleted at random", ylabel="error (%)")
    ax.set_ylim(0, 105)
    ax.set_xlim(0, max(table["deleted"]) * 1.02 + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def reordering_figure(study: Study) -> Axes:
    """Error by the Kendall tau of the blocks' order; 1 is the intact order."""
    ax = panels()[0]
    table = study.reorderings
    ax.plot(table["kendall_tau"], table["error"] * 100, "o", color=BLUE, alpha=0.45, markersize=4.5, markeredgewidth=0)
    ordered = table.sort_values("kendall_tau", ascending=False)[["kendall_tau", "error"]].to_numpy(float)
    bins = np.array_split(ordered, min(10, len(ordered)))
    centres, middles = zip(*(np.median(part, axis=0) * (1, 100) for part in bins), strict=True)
    ax.plot(centres, middles, color=INK, linewidth=1.6, marker="s", markersize=3.5)
    correlation = study.answers.ensemble.tau_correlation
    if correlation is not None:
        name_panel(ax, f"Spearman rank correlation {correlation:.2f}; line: median of ten groups")
    _reference_errors(ax, study.answers.ensemble.intact_error, study.answers.ensemble.chance_error)
    low = float(table["kendall_tau"].min())
    ax.set_xlim(1 + (1 - low) * 0.03, low - (1 - low) * 0.05)
    ax.set(xlabel="Kendall tau of the order of the blocks (1 = intact)", ylabel="error (%)")
    ax.set_ylim(0, 105)
    return ax


def strip_figure(study: Study) -> Axes:
    """The network as a row of blocks, coloured by how much the loss grows without each."""
    table = study.blocks.merge(study.deletions[["block", "loss"]], on="block")
    per_row = min(60, len(table))
    rows = -(-len(table) // per_row)
    ax = panels(height=0.75 + 0.75 * rows)[0]
    growth = table["loss"] - study.intact_loss
    norm = LogNorm(_SMALLEST_LOSS, max(float(growth.max()), _SMALLEST_LOSS * 10))
    shades = ScalarMappable(norm, "viridis_r")
    for position, (row, grown) in enumerate(zip(table.to_dict("records"), growth, strict=True)):
        x, y = position % per_row, -1.6 * (position // per_row)
        colour = shades.to_rgba(grown) if grown >= _SMALLEST_LOSS else "#f1f2f4"
        edge = ORANGE if row["downsampling"] else "white"
        ax.add_patch(Rectangle((x + 0.05, y), 0.9, 1, facecolor=colour, edgecolor=edge, linewidth=1.8))
        if len(table) <= 20 or position % 5 == 0:
            ax.text(x + 0.5, y - 0.1, str(row["block"]), ha="center", va="top", fontsize=7.5)
    ax.set_xlim(-0.2, per_row + 0.2)
    ax.set_ylim(-1.6 * (rows - 1) - 0.6, 1.15)
    ax.axis("off")
    assert ax.figure is not None
    ax.figure.colorbar(shades, ax=ax, location="right", label="growth of loss (nats)", fraction=0.04, aspect=8)
    return ax
