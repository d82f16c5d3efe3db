"""What deletions cost beside what goes through the deleted blocks, and how robust networks are beside their paths."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from resect.figures.colours import BLUE, GREEN, GREY, INK, ORANGE
from resect.figures.style import axes_or_new, head
from resect.words import shortened

_COLOURS = (BLUE, ORANGE, GREEN, INK, GREY)
_MARKS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"))
_LETTERS = 24  # of the name of a network


def within(blocks: pd.DataFrame, column: str, label: str, ax: Axes | None = None) -> Axes:
    """Rank of the loss that a deletion costs over the rank of a number of the block, a colour a network.

    Args:
        blocks: one row a block: `model`, `loss_change`, and `column`.
    """
    ax, entries = axes_or_new(ax, height=4.0), []
    names = list(blocks["model"].unique())[: len(_MARKS)]
    for name, short, colour, (marker, mark) in zip(names, shortened(names, _LETTERS), _COLOURS, _MARKS, strict=False):
        own = blocks[blocks["model"] == name]
        ranks = own[[column, "loss_change"]].rank(pct=True) * 100
        ax.scatter(ranks[column], ranks["loss_change"], color=colour, marker=marker, s=16, alpha=0.8, linewidths=0)
        entries.append((f"{mark} {short}", colour))
    ax.set(xlabel=f"rank of {label} (%)", ylabel="rank of the loss without it (%)")
    head(ax, "", entries)
    return ax


def between(networks: pd.DataFrame, column: str, label: str, ax: Axes | None = None) -> Axes:
    """Robustness of every network over a number of its paths, a colour a family.

    Args:
        networks: one row a network: `model`, `family`, `robustness`, and `column`.
    """
    ax, entries = axes_or_new(ax, height=4.0), []
    families = list(networks["family"].unique())[: len(_MARKS)]
    for family, colour, (marker, mark) in zip(families, _COLOURS, _MARKS, strict=False):
        own = networks[networks["family"] == family]
        ax.scatter(own[column], own["robustness"], color=colour, marker=marker, s=28)
        entries.append((f"{mark} {family}", colour))
    ax.set(xlabel=label, ylabel="robustness")
    head(ax, "", entries)
    return ax
