"""Which figures a study has, in which order, and how their panels are put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resect.jobs.results import PathCurves, Study
from resect.report import block_figure, captions, ensemble_figures, lesion_figures, path_figures
from resect.report.captions import Caption
from resect.report.style import panels

Panel = Callable[[Study, Axes | None], Axes]


@dataclass(frozen=True)
class Drawing:
    """One figure of the report: one or two panels with one caption."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    caption: Callable[[Study], Caption]
    height: float = 3.6  # inches
    widths: tuple[float, ...] | None = None  # of the panels, relative to each other

    def figure(self, study: Study) -> Figure:
        """Draw it."""
        axes = panels(len(self.panels), height=self.height, widths=self.widths)
        for panel, ax in zip(self.panels, axes, strict=True):
            panel(study, ax)
        figure = axes[0].figure
        assert isinstance(figure, Figure)
        return figure


def drawings(study: Study) -> list[Drawing]:
    """The figures that this study has data for, in order."""
    return [*_lesions(study), *_paths(study), *_comparison(study)]


def _lesions(study: Study) -> list[Drawing]:
    unit, height = study.subject.unit, block_figure.strip_height(study.subject.blocks)
    found = [
        Drawing(
            "blocks", f"The network, {unit} by {unit}", (block_figure.strip_figure,), captions.strip_caption, height
        )
    ]
    deletions: tuple[Panel, ...] = (lesion_figures.deletions_figure,)
    widths = None
    if study.plain:
        deletions = (lesion_figures.deletions_figure, lesion_figures.plain_figure)
        widths = (2.0, 1.0)
    found.append(Drawing("deletions", f"One {unit} deleted", deletions, captions.deletions_caption, 3.9, widths))
    if len(study.random) and study.random["deleted"].max() > 1:
        found.append(
            Drawing("random", f"Several {unit}s deleted", (lesion_figures.random_figure,), captions.random_caption)
        )
    if len(study.reorderings):
        title = f"{unit.capitalize()}s reordered"
        found.append(Drawing("reorderings", title, (lesion_figures.reordering_figure,), captions.reordering_caption))
    return found


def _paths(study: Study) -> list[Drawing]:
    if study.lengths is None:
        return []
    counts = _of_curves(path_figures.counts_figure, path_figures.counts_log_figure)
    shares = _of_curves(path_figures.share_figure, path_figures.share_log_figure)
    norms = _of_curves(path_figures.norm_figure, path_figures.norm_log_figure)
    return [
        Drawing("counts", "How many paths of each length", counts, captions.counts_caption),
        Drawing("shares", "How much of the gradient they carry", shares, captions.share_caption, 4.2),
        Drawing("norms", "How strong the gradient is", norms, captions.norm_caption),
    ]


def _of_curves(*figures: Callable[[PathCurves, Axes | None], Axes]) -> tuple[Panel, ...]:
    return tuple(lambda study, ax, draw=draw: draw(study.curves, ax) for draw in figures)


def _comparison(study: Study) -> list[Drawing]:
    if len(study.answers.multiplicity) < 2:
        return []
    pair = (ensemble_figures.multiplicity_figure, ensemble_figures.intact_errors_figure)
    height = ensemble_figures.multiplicity_height(study)
    return [
        Drawing("multiplicity", "Beside other networks", pair, captions.multiplicity_caption, height, widths=(1.6, 1.0))
    ]
