"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resect.report import captions, lesion_figures, path_figures
from resect.report.captions import Caption
from resect.report.style import SETTINGS
from resect.report.words import QUESTIONS, measures, percent, points, verdicts
from resect.studies.results import Study


@dataclass(frozen=True)
class _Drawing:
    name: str
    title: str
    draw: Callable[[Study], Axes]
    caption: Callable[[Study], Caption]


def drawings(study: Study) -> list[_Drawing]:
    """The figures that this study has data for, in order."""
    unit = study.subject.unit
    found = [
        _Drawing("blocks", f"The network, {unit} by {unit}", lesion_figures.strip_figure, captions.strip_caption),
        _Drawing("deletions", f"One {unit} deleted", lesion_figures.deletions_figure, captions.deletions_caption),
        _Drawing("random", f"Many {unit}s deleted", lesion_figures.random_figure, captions.random_caption),
    ]
    if len(study.reorderings):
        draw = lesion_figures.reordering_figure
        found.append(_Drawing("reorderings", f"{unit.capitalize()}s reordered", draw, captions.reordering_caption))
    if study.lengths is not None:
        found += [
            _Drawing("counts", "How many paths", path_figures.counts_figure, captions.counts_caption),
            _Drawing("shares", "What they carry", path_figures.share_figure, captions.share_caption),
            _Drawing("norms", "Norm by length", path_figures.norm_figure, captions.norm_caption),
        ]
    if len(study.answers.multiplicity) > 1:
        draw = path_figures.multiplicity_figure
        found.append(_Drawing("multiplicity", "Beside other networks", draw, captions.multiplicity_caption))
    return found


def write_report(study: Study, folder: Path, configuration: dict[str, Any] | None = None) -> Path:
    """Write `figures/*.svg`, `figures/*.png` and `report.html` into `folder`; each appears whole or not at all.

    Args:
        configuration: what the run was asked for, shown at the end of the page.

    Returns:
        The path of the page.
    """
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    shown = []
    for drawing in drawings(study):
        figure = drawing.draw(study).figure
        assert isinstance(figure, Figure)
        vector, pixels = _rendered(figure, "svg"), _rendered(figure, "png")
        _write(figures / f"{drawing.name}.svg", vector)
        _write(figures / f"{drawing.name}.png", pixels)
        what, meaning = drawing.caption(study)
        source = "data:image/svg+xml;base64," + base64.b64encode(vector).decode()
        shown.append({"name": drawing.name, "title": drawing.title, "source": source, "what": what, "meaning": meaning})
    page = folder / "report.html"
    _write(page, _html(study, shown, configuration or {}).encode())
    return page


def _rendered(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}
    with mpl.rc_context(SETTINGS):
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _html(study: Study, figures: list[dict[str, str]], configuration: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("resect.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    by_question = {q: list(rows) for q, rows in groupby(measures(study), key=lambda row: row[0])}
    questions = [
        {"number": q, "question": QUESTIONS[q - 1], "verdict": verdict, "rows": by_question.get(q, [])}
        for q, verdict in enumerate(verdicts(study), start=1)
    ]
    return environment.get_template("report.html").render(
        study=study,
        questions=questions,
        figures=figures,
        blocks=_block_rows(study),
        configuration=configuration,
        percent=percent,
        points=points,
    )


def _block_rows(study: Study) -> list[dict[str, Any]]:
    table = study.blocks.merge(study.deletions[["block", "error", "loss", "damage"]], on="block")
    widest = max(float(table["damage"].abs().max()), 1e-9)
    rows = table.to_dict("records")
    return [{**row, "bar": max(0.0, float(row["damage"])) / widest * 100} for row in rows]  # type: ignore[dict-item]  # pandas types its keys as hashable
