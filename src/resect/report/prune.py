"""What can go of a network: on the terminal, in figures, as a page, and as a plan that removes it again."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from resect.figures import pruning
from resect.figures.generation import generation
from resect.figures.healing import healing
from resect.files import write_text
from resect.jobs.plan_file import PLAN, plan_command, plan_text
from resect.measuring.meaning import Meaning
from resect.pruning import healing_words, written
from resect.report.layout import print_table
from resect.report.parts import Figures, save_figures, say
from resect.report.study.page import templates
from resect.runs.record import Record
from resect.words import decimal, percent, plural

_COSTS = {"params": "parameters", "flops": "FLOPs", "latency": "latency"}
_OBJECTIVES = {"kl": "divergence from the intact network", "loss": "loss", "error": "error"}
_ABOUT = {
    "front": "The error without what a search removed, on samples that chose nothing, with the 95 % interval of its "
    "change from the intact network, paired sample by sample.",
    "units": "What the plan removes, in the order of execution.",
    "writing": "What is right of what the intact network and the one that is left write, with the 95 % interval of the "
    "change.",
    "healing": "The best candidates before and after healing, on samples that neither trained nor chose, with the 95 % "
    "intervals of their changes from the intact network, paired sample by sample.",
}
_TITLES = {
    "front": "Error against what is removed",
    "units": "What goes and what stays",
    "healing": "What healing gives back",
    "writing": "What it still writes",
}


def show(record: Record, console: Console) -> None:
    """Print the front, the verdict, what goes, and how it was found."""
    headings, rows = front(record)
    print_table(console, headings, rows, bold=[len(rows) - 1] if len(rows) > 1 else [])
    if "generation" in record.tables:
        for headings, rows in written.tables(record.tables["generation"]):
            print_table(console, headings, rows, names=headings[:1])
    if "healing" in record.tables:
        print_table(console, *_healing(record), bold=_chosen(record))
    writes = [record.found["generation"]["summary"]] if "generation" in record.found else []
    say(console, *sentences(record), *writes)


def _healing(record: Record) -> tuple[list[str], list[list[str]]]:
    """One row a healed candidate."""
    meaning = Meaning.of(record.found)
    return healing_words.headings(meaning), healing_words.rows(record.tables["healing"], meaning)


def _chosen(record: Record) -> list[int]:
    """The rows of healed candidates that were chosen."""
    return [place for place, chosen in enumerate(record.tables["healing"]["chosen"]) if chosen]


def front(record: Record) -> tuple[list[str], list[list[str]]]:
    """One row a choice: what stays of the costs, and the error (loss) with its change."""
    table, meaning = record.tables["front"], Meaning.of(record.found)
    metric, change = ("error", "damage") if "damage" in table else ("loss", "loss_change")
    costs = [name for name in _COSTS if name in table]
    headings = ["removed", *(_COSTS[name] for name in costs), meaning.name, f"change{meaning.points}"]
    rows = []
    for row in table.to_dict("records"):
        value, low, high = (meaning.change(row[f"{change}{end}"]) for end in ("", "_low", "_high"))
        stays = [percent(row[name]) for name in costs]
        rows.append([str(row["removed"]), *stays, meaning.value(row[metric]), f"{value} [{low}, {high}]"])
    return headings, rows


def sentences(record: Record) -> list[str]:
    """The verdict, what goes, how fast the rest is, and how the choice was made."""
    found, asked = record.found, record.asked
    said = [found["summary"], f"Gone: {', '.join(found['removed'])}.", *_timed(record)]
    if _searched(record):
        said.append(
            f"Chosen by {asked['search']} search for the least {_sought(record)} on "
            f"{plural(found['calibration_samples'], 'sample')} ({found['effort']}), judged on {found['samples']:,} "
            "others."
        )
        said += [found["kept_to"]] if "kept_to" in found else []
    else:
        chosen = "by hand" if asked["plan"] is None else f"by the plan {asked['plan']}"
        said.append(f"Chosen {chosen}, judged on {plural(found['samples'], 'sample')}.")
    return said


def _sought(record: Record) -> str:
    """What the search kept low."""
    own = {"one-shot": f"score ({record.asked['score']})", "window": "angle between the states"}
    return own.get(record.asked["search"], _OBJECTIVES[record.found["objective"]])


def _searched(record: Record) -> bool:
    return record.asked["without"] is None and record.asked["plan"] is None


def _timed(record: Record) -> Iterator[str]:
    kept, asked = record.found["kept"], record.asked
    if kept.get("latency") is None:
        return
    length = f", {asked['timing_length']} positions" if asked["timing_length"] else ""
    passes = f"{plural(asked['timing_batch'], 'sample')}{length}"
    whole, left = (f"{decimal(kept[name])} ms" for name in ("intact_milliseconds", "milliseconds"))
    yield (
        f"A pass of {passes} takes {left} instead of {whole}, in turn with the intact network: "
        f"{decimal(1 / kept['latency'])} times as fast [{decimal(1 / kept['latency_high'])}, "
        f"{decimal(1 / kept['latency_low'])}]."
    )
    if asked["latency"] is not None and kept["latency"] > asked["latency"]:
        yield f"That is slower than asked for, {percent(asked['latency'])}: no removal that was tried is faster."
    if (predicted := kept.get("predicted")) is not None:
        off = (predicted - kept["latency"]) * 100
        yield (
            f"The prices of single units predict {percent(predicted)} of the latency, {decimal(abs(off))} points "
            f"{'above' if off > 0 else 'below'} what was measured end to end."
        )


def draw(record: Record, folder: Path) -> Path:
    """Write figures/*.png, the plan and the page."""
    place = save_figures(_figures(record), folder)
    write_text(folder / PLAN, plan_text(record))
    page = folder / "report.html"
    headings, rows = front(record)
    titles = _TITLES | ({"front": f"{_TITLES['front']}, before healing"} if "healing" in record.tables else {})
    files = (place / f"{name}.png" for name in _figures(record))
    shown = [_shown(file, titles[file.stem]) for file in files if file.exists()]
    values: dict[str, Any] = {"record": record, "found": record.found, "headings": headings, "rows": rows}
    table = record.tables.get("generation")
    healed = "healing" in record.tables
    values["healed"] = dict(zip(("headings", "rows"), _healing(record), strict=True)) if healed else None
    values["written"] = None if table is None else written.tables(table)
    values |= {"figures": shown, "said": sentences(record), "tiles": list(_tiles(record))}
    values["again"] = plan_command(record, folder / PLAN)
    write_text(page, templates().get_template("prune.html").render(**values))
    return page


def _figures(record: Record) -> Figures:
    found, meaning = record.found, Meaning.of(record.found)
    table, rate = record.tables["front"], meaning.rate and bool(meaning.error)
    budget = found["budget"] if found["budget"] in table else "remove"
    named = {"name": meaning.name, "budget": budget, "unit": found["unit"]}
    figures: dict[str, Any] = {}
    if "healing" in record.tables:  # the result; what follows is the network as it was cut
        intact = found["healing"]["intact"]
        figures["healing"] = partial(healing, record.tables["healing"], intact, None, name=meaning.name, rate=rate)
    if "generation" in record.tables:
        checks = {check: written.CHECKS[check] for check in written.RATES}
        figures["writing"] = partial(generation, record.tables["generation"], checks)
    return figures | {
        "front": partial(pruning.front, table, found["intact"], None, rate=rate, **named),
        "units": partial(pruning.units, record.tables["units"], found["unit"]),
    }


def _shown(file: Path, title: str) -> dict[str, str]:
    """What a page shows of a figure."""
    source = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    return {"name": file.stem, "title": title, "source": source, "what": "", "meaning": _ABOUT[file.stem]}


def _tiles(record: Record) -> Iterator[tuple[str, str]]:
    """The numbers that say most."""
    found, meaning, last = record.found, Meaning.of(record.found), record.tables["front"].iloc[-1]
    yield meaning.value(float(last[meaning.main])), f"{meaning.name}; intact {meaning.value(found['intact'])}"
    if "healing" in found:
        yield meaning.value(found["healing"]["healed"]), f"{meaning.name}, healed"
    if "generation" in record.tables:
        rows = record.tables["generation"].to_dict("records")
        same = next(row["pruned"] for row in rows if row["check"] == "continuations")
        after = " after healing" if "healing" in found else ""
        yield percent(same), f"of {found['generation']['tokens']}-token continuations are the intact network's{after}"
    for name, called in _COSTS.items():
        if (value := found["kept"].get(name)) is not None and not pd.isna(value):
            yield percent(value), f"of the {called} stay{'s' if name == 'latency' else ''}"
