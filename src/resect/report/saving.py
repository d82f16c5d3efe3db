"""Figures as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resect.figures.style import SETTINGS, figure_of
from resect.files import whole


def save_figure(draw: Callable[[], Figure | Axes], file: Path) -> None:
    """Draw a figure in this look and write it as PNG; the file appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(SETTINGS), whole(file) as temporary:
        drawn = draw()
        figure = drawn if isinstance(drawn, Figure) else figure_of(drawn)
        figure.savefig(temporary, format="png", dpi=150)
