"""The paper's claims, each with a verdict: on the terminal, as a page, and as a page of the documentation."""

from __future__ import annotations

import base64
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.text import Text

from resect.files import write_text
from resect.jobs.authors import SOURCE
from resect.jobs.claims import FAILS, HOLDS, NOT_RUN, PARTLY, UNKNOWN
from resect.jobs.findings import Study
from resect.report import faces
from resect.report.parts import say
from resect.report.study.page import templates, write_figures
from resect.runs.record import Record
from resect.words import plural

_VERDICTS = (HOLDS, PARTLY, FAILS, UNKNOWN, NOT_RUN)
_STYLES = {HOLDS: "bold green", PARTLY: "bold yellow", FAILS: "bold red"}


def show(record: Record, console: Console) -> None:
    """Print every claim with its verdict, what is found here, and what the authors found."""
    found = record.found
    say(console, f"{plural(found['samples'], 'sample')} of {found['data']}", "")
    for claim in found["claims"]:
        console.print(Text(f"{claim['number']}. {claim['said']}", style="bold"))
        console.print(Text(f"   {claim['verdict']}", style=_STYLES.get(claim["verdict"], "bold")))
        if claim["here"]:
            console.print(Text(f"   here: {claim['here']}"))
        console.print(Text(f"   the authors: {claim['theirs']}", style="dim"))
        if claim["verdict"] == NOT_RUN:
            console.print(Text(f"   to run it: {claim['command']}", style="dim"))
    say(console, "", ", ".join(f"{verdict}: {count}" for verdict, count in _counted(record)) + ".")


def draw(record: Record, folder: Path) -> Path:
    """Write report.html, with the figures of the runs that the claims stand on."""
    figures = [figure for name in record.found["runs"] for figure in _figures(name, folder)]
    page = folder / "report.html"
    template = templates().get_template("claims.html")
    values = {"record": record, "found": record.found, "figures": figures, "verdicts": _counted(record)}
    write_text(page, template.render(**values, source=SOURCE, plural=plural))
    return page


def _figures(name: str, folder: Path) -> list[dict[str, str]]:
    """What a page shows of the figures of one run, which are drawn for it."""
    run = Record.read(folder / name)
    if run.kind == "study":
        return write_figures(Study.of(run), folder / "figures")
    place = faces.draw(run, folder / name)
    return [
        {
            "name": f"{name}-{file.stem}",
            "title": run.command,
            "source": "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode(),
            "what": "",
            "meaning": str(run.found.get("summary", "")),
        }
        for file in (sorted(place.glob("*.png")) if place else [])
    ]


def markdown(record: Record) -> str:
    """The claims as a page of the documentation."""
    found = record.found
    lines = [
        "# The paper, claim by claim",
        "",
        f"Generated from `{record.command}` ({plural(found['samples'], 'sample')} of {found['data']}), by the rules "
        f"below. The authors' numbers are worked out from {SOURCE}, where they are not those of the paper "
        "(arXiv 1605.06431).",
    ]
    for claim in found["claims"]:
        lines += [
            "",
            f"## {claim['number']}. {claim['said']}",
            "",
            f"**{claim['verdict']}** ({claim['where']})",
            "",
            "| here | the authors | rule |",
            "|---|---|---|",
            f"| {claim['here'] or '–'} | {claim['theirs']} | {claim['rule']} |",
            "",
            f"`{claim['command']}`",
        ]
    return "\n".join(lines) + "\n"


def _counted(record: Record) -> list[tuple[str, int]]:
    counts = Counter(claim["verdict"] for claim in record.found["claims"])
    return [(verdict, counts[verdict]) for verdict in _VERDICTS if counts[verdict]]
