"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from resect.figures.style import SETTINGS
from resect.files import write_bytes, write_text
from resect.jobs.findings import Study
from resect.report.study.answers import COMPARED, answers, comparison
from resect.report.study.gallery import drawings
from resect.runs.record import plain_rows
from resect.words import NOTHING, decimal, duration, percent, plural, points


def write_report(study: Study, folder: Path) -> Path:
    """Write `figures/*.svg`, `figures/*.png` and `report.html` into `folder`; each appears whole or not at all.

    Returns:
        The path of the page.
    """
    shown = write_figures(study, folder / "figures")
    page = folder / "report.html"
    write_text(page, _html(study, shown))
    return page


def write_figures(study: Study, folder: Path) -> list[dict[str, str]]:
    """Write NAME.svg and NAME.png of every figure of a study.

    Returns:
        What a page shows of each: `name`, `title`, `source` (the picture), and its caption, `what` and `meaning`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = []
    for drawing in drawings(study):
        figure = drawing.figure()
        vector = _rendered(figure, "svg")
        figure.set_layout_engine("none")  # the layout stands; making it again takes as long as drawing
        write_bytes(folder / f"{drawing.name}.svg", vector)
        write_bytes(folder / f"{drawing.name}.png", _rendered(figure, "png"))
        what, meaning = drawing.caption(study)
        source = "data:image/svg+xml;base64," + base64.b64encode(vector).decode()
        shown.append({"name": drawing.name, "title": drawing.title, "source": source, "what": what, "meaning": meaning})
    return shown


def _rendered(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}  # the same study gives the same bytes
    with mpl.rc_context(SETTINGS):
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    return buffer.getvalue()


def templates() -> Environment:
    """The templates of pages, with the filters by which numbers become text."""
    environment = Environment(
        loader=PackageLoader("resect.report.study"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, points=points, decimal=decimal, duration=duration)
    environment.filters.update(bound=_bound, plainly=_plainly)
    return environment


def _html(study: Study, figures: list[dict[str, str]]) -> str:
    return (
        templates()
        .get_template("report.html")
        .render(
            study=study,
            subject=study.subject,
            answers=answers(study),
            compared=COMPARED,
            comparison=comparison(study),
            figures=figures,
            blocks=_block_rows(study),
            settings={"Configuration": study.asked, "Environment": study.environment},
            plural=plural,
        )
    )


def _bound(text: str) -> Markup:
    """The text with units, signs, options and short parentheses bound together, so that no line breaks within them."""
    text = re.sub(r"\(([^)]{1,24})\)", lambda match: match[0].replace(" ", "\u00a0"), text)
    text = re.sub(r" (%|×|=|(?:points?|blocks|layers)(?!\.?\w))", "\u00a0\\1", text)  # but no name: blocks.3
    text = text.replace("×\u0020", "×\u00a0").replace("=\u0020", "=\u00a0")
    return Markup(re.sub(r"(--[a-z][a-z-]*)", r'<span class="option">\1</span>', str(escape(text))))


def _plainly(value: Any) -> str:
    """A setting as text: mappings and lists in a row, nothing as a dash."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items()) or NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NOTHING if value is None else str(value)


def _block_rows(study: Study) -> list[dict[str, Any]]:
    """One mapping a block for the table, with the width of its bar in percent of the largest damage."""
    table = study.blocks.merge(study.deletions[["block", "error", "loss", "damage"]], on="block")
    widest = max(float(table["damage"].abs().max()), 1e-9)
    table["bar"] = table["damage"].abs() / widest * 100
    return plain_rows(table)
