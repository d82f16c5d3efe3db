"""The paper's claims, each with a verdict: on the terminal, as a page, and as a page of the documentation."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from rich.console import Console
from rich.text import Text

from resect.figures import lesions
from resect.files import write_text
from resect.jobs import authors
from resect.jobs.authors import SOURCE
from resect.jobs.claims.check import CHECKS, FAILS, HOLDS, NOT_RUN, PARTLY, UNKNOWN, is_of_today
from resect.jobs.findings import Study
from resect.jobs.paper import CLAIMS
from resect.models.names import depth_of, parts_of, shipped_for
from resect.report import faces
from resect.report.parts import save_figures, say
from resect.report.study.page import templates, write_figures
from resect.runs.record import Record
from resect.words import plural

_VERDICTS = (HOLDS, PARTLY, FAILS, UNKNOWN, NOT_RUN)
_OF_STUDY = {  # its figures, and the claims that they show
    "deletions": "1",
    "random": "3",
    "reorderings": "4",
    "counts": "6",
    "norms": "7",
    "shares": "8",
    "untrained": "12c",
}
_TITLES = {  # of the figures of runs that are no study
    "deletions": "One block deleted",
    "control": "One layer of the plain network deleted",
    "random": "Random deletions",
    "shuffled": "Reorderings",
    "skips": "One skip deleted",
    "twice": "One block run twice",
    "several-twice": "Random blocks run twice",
    "ensemble": "Sub-networks, averaged",
    "paths": "The gradient of the network",
    "stochastic-paths": "The gradient after stochastic depth",
    "highway-paths": "The gradient of a highway network",
    "highway-lesions": "One highway block deleted",
    "stochastic": "One block deleted after stochastic depth",
    "side-by-side": "Blocks side by side",
    **{f"resnet{depth}": f"One block of ResNet-{depth} deleted" for depth in (20, 32, 44, 56)},
    "layers-skipped": "One layer skipped",
    "layers-swapped": "Two layers swapped",
    "layers-parallel": "Two layers side by side",
    "layers-repeated": "One block run twice",
}
_KINDS: dict[str, tuple[Callable[..., Axes], str]] = {  # by plan, the figure, and what the authors' lesions are called
    "single": (lesions.deletions, "delete"),
    "random": (lesions.random, "delete several"),
    "shuffled": (lesions.reorderings, "swap several"),
    "random-repeated": (lesions.random_repeated, "repeat several"),
}
_STYLES = {HOLDS: "bold green", PARTLY: "bold yellow", FAILS: "bold red"}


def show(record: Record, console: Console) -> None:
    """Print every claim with its verdict, what is found here, and what the authors found."""
    found = record.found
    say(console, f"{record.asked['model']} on {plural(found['samples'], 'sample')} of {found['data']}", "")
    for claim in found["claims"]:
        console.print(Text(f"{claim['number']}. {claim['said']}", style="bold"))
        console.print(Text(f"   {claim['verdict']}", style=_STYLES.get(claim["verdict"], "bold")))
        console.print(Text(f"   the rule: {claim['rule']}", style="dim"))
        if claim["here"]:
            on = f", {claim['on']}" if claim.get("on") else ""
            console.print(Text(f"   here{on}: {claim['here']}"))
        console.print(Text(f"   the authors: {claim['theirs']}", style="dim"))
        if claim["verdict"] == NOT_RUN:
            console.print(Text(f"   to run it: {claim['command']}", style="dim"))
    say(console, "", ", ".join(f"{verdict}: {count}" for verdict, count in _counted(record)) + ".")


def draw(record: Record, folder: Path) -> Path:
    """Write report.html, each claim with the figures of the runs that it stands on."""
    shown: dict[str, list[dict[str, str]]] = {claim["number"]: [] for claim in record.found["claims"]}
    runs = list(record.found["runs"])
    for name in [name for name in runs if name != "deletions" or "study" not in runs]:  # the study has drawn those
        for number, figure in _figures(name, folder):
            number = number or next((n for n in shown if name in (*CHECKS[n].runs, *CHECKS[n].alone)), "")
            shown.get(number, []).append(figure)  # runs of an earlier version may be of no claim
    page = folder / "report.html"
    template = templates().get_template("claims.html")
    values = {"record": record, "found": record.found, "figures": shown, "verdicts": _counted(record)}
    write_text(page, template.render(**values, source=SOURCE, plural=plural))
    return page


def _figures(name: str, folder: Path) -> list[tuple[str | None, dict[str, str]]]:
    """What a page shows of the figures of one run, which are drawn for it, and the claim of each if it is known."""
    run = Record.read(folder / name)
    if run.kind == "study":
        drawn = write_figures(Study.of(run), folder / "figures")
        return [(_OF_STUDY[figure["name"]], figure) for figure in drawn if figure["name"] in _OF_STUDY]
    theirs = theirs_of(run)
    if (place := _drawn(run, folder / name, theirs)) is None:
        return []
    known = 0 if theirs is None else len(theirs)
    behind = f" Grey: the {known:,} that the authors made to their network of this depth." if known else ""
    return [
        (
            None,
            {
                "name": f"{name}-{place.stem}",
                "title": _TITLES.get(name, name),
                "source": "data:image/png;base64," + base64.b64encode(place.read_bytes()).decode(),
                "what": f"{run.command}.{behind}",
                "meaning": str(run.found.get("summary", "")),
            },
        )
    ]


def _drawn(run: Record, folder: Path, theirs: pd.DataFrame | None) -> Path | None:
    """The first figure of a run; one bar a block, or layer, with the authors' points behind if they have some."""
    table, chance = run.tables.get("lesions"), run.found.get("chance_error")
    if table is not None and "start" in table and table["length"].nunique() == 1:
        label = "layer, the first of two (its index)" if table["length"][0] > 1 else "layer (its index)"
        bars = partial(lesions.deletions, table.assign(block=table["start"]), label=label)
    elif table is not None and run.found["plan"] in _KINDS:
        bars = partial(_KINDS[run.found["plan"]][0], table, behind=theirs)
    else:
        place = faces.draw(run, folder)
        every = {file.stem: file for file in place.glob("*.png")} if place else {}
        return every.get(run.found.get("plan", "shares"), next(iter(every.values()), None))
    figure = partial(bars, intact=run.found["intact"]["error"], chance=chance)
    return save_figures({"each": figure}, folder) / "each.png"


def theirs_of(run: Record) -> pd.DataFrame | None:
    """The lesions of the authors to a CIFAR ResNet of the depth of a run's, which downsamples at the first block of its
    second and third stage; None if they made none."""
    plan, model = run.found.get("plan"), run.asked["model"]
    if plan not in _KINDS or run.asked.get("plain"):
        return None
    blocks = len(run.tables["lesions"]) if plan == "single" else 0
    if not blocks and model.startswith("resect:resnet") and isinstance(depth := depth_of(parts_of(model)), int):
        blocks = (depth - 2) // 2
    stage = max(blocks // 3, 1)
    stages = pd.DataFrame({"downsampling": [i in (stage, 2 * stage) for i in range(blocks)]})
    return authors.beside(model, stages, _KINDS[plan][1])


def markdown(records: Sequence[Record]) -> str:
    """The claims as a page of the documentation, each with what every run of all found."""
    lines = [
        "# The paper, claim by claim",
        "",
        "What Veit, Wilber and Belongie claim (arXiv 1605.06431, 2016), what they measured, and what the shipped",
        "networks give, or for claim 1b such as are trained for it (`--train`). A verdict follows from the numbers by",
        f"the rule beside it. The authors' numbers are worked out from {SOURCE},",
        "where they are not those of the paper. Intervals are 95 %, those of medians over blocks, on these images: on",
        "500 of CIFAR-10 a single damage is known to about 0.8 points (standard error), which they leave out. A part",
        "of a claim that its interval leaves open does not count as holding. What multiplicity does, beside depth and",
        "width, takes trainings: [theory](theory.md#8-multiplicity).",
        "",
        "Generated by `benchmarks/paper.py` from the records in `benchmarks/paper/`, which these commands wrote:",
        "",
        *(f"    {record.command}  # {_what(record)}" for record in records),
    ]
    for stated in CLAIMS:
        check = CHECKS[stated.number]
        each = [
            (record, claim)
            for record in records
            for claim in record.found["claims"]
            if claim["number"] == stated.number and is_of_today(claim, record.found["runs"])
        ]
        measured = {
            claim.get("on") or _what(record): f"{claim['here']} | {claim['verdict']}"
            for record, claim in each
            if claim["verdict"] != NOT_RUN
        }
        lines += ["", f"## {stated.number}. {stated.said}", "", f"{check.rule} ({stated.where})"]
        lines += ["", "| | found | verdict |", "|---|---|---|", f"| the authors | {check.theirs} | |"]
        lines += [f"| {what} | {rest} |" for what, rest in measured.items()]
        lines += [] if measured or not each else [f"| to run it | `{each[-1][1]['command']}` | {NOT_RUN} |"]
    return "\n".join(lines) + "\n"


def _what(record: Record) -> str:
    model, data = record.asked["model"], record.asked["data"]
    of = f"{plural(record.found['samples'], 'sample')} of {data.partition(':')[0]}"
    return of if model == shipped_for(data) else f"{model} on {of}"


def _counted(record: Record) -> list[tuple[str, int]]:
    counts = Counter(claim["verdict"] for claim in record.found["claims"])
    return [(verdict, counts[verdict]) for verdict in _VERDICTS if counts[verdict]]
