"""docs/paper.md: the paper's claims, from the records in `benchmarks/paper/`.

    python benchmarks/paper.py [--page docs/paper.md] [NAME=RUN ...]

RUN, a folder of `resect reproduce --out RUN`, becomes the record NAME first, without its tables. Every number of the
page is in one of the records, with the command that made it. Runs of other verbs become records in
`benchmarks/records/`, with some of their tables, where other numbers of README and theory are.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from resect import Record
from resect.files import write_text
from resect.report.reproduce import markdown

RECORDS = Path(__file__).parent / "paper"
OTHERS = RECORDS.with_name("records")
TABLES = ("networks", "deletions", "random", "lengths", "several", "between", "within", "added", "untrained")


def main() -> None:
    """Copy records, and write the page from all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="NAME=RUN")
    parser.add_argument("--page", type=Path, default=Path("docs/paper.md"))
    asked = parser.parse_args()
    for run in asked.runs:
        name, _, folder = run.partition("=")
        record = Record.read(folder)
        place = RECORDS if record.kind == "reproduce" else OTHERS
        place.mkdir(exist_ok=True)
        write_text(place / f"{name}.json", replace(record, tables={}).json())
        if place == OTHERS:
            for kind in set(TABLES) & set(record.tables):
                write_text(place / f"{name}-{kind}.csv", record.tables[kind].to_csv(index=False, float_format="%.5g"))
    write_text(asked.page, markdown([Record.read(file) for file in sorted(RECORDS.glob("*.json"))]))


if __name__ == "__main__":
    main()
