"""What reports are made of: sentences, files of figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.text import Text

from resect.figures.style import SETTINGS, figure_of
from resect.files import whole

Figures = Mapping[str, Callable[[], Figure | Axes]]  # what draws each, by name


def say(console: Console, *sentences: str) -> None:
    """Print sentences as they are, one a line."""
    for sentence in sentences:
        console.print(Text(sentence), soft_wrap=True)


def save_figures(figures: Figures, run: Path) -> Path:
    """Draw figures in this look and write figures/NAME.png into a run folder; each appears whole or not at all."""
    folder = run / "figures"
    place = folder if folder.exists() else run / "figures.tmp"  # all appear at once; of one process
    place.mkdir(parents=True, exist_ok=True)
    for name, draw in figures.items():
        with mpl.rc_context(SETTINGS), whole(place / f"{name}.png") as temporary:
            drawn = draw()
            figure = drawn if isinstance(drawn, Figure) else figure_of(drawn)
            figure.savefig(temporary, format="png", dpi=150)
    return place.rename(folder) if place != folder else folder
