"""The rows of the coverage benchmark as a page of the documentation."""

from __future__ import annotations

import os
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from _harness import machine

Row = dict[str, Any]

# Models on which the two counts differ, judged by their source: (blocks, reason).
JUDGED: dict[str, tuple[int, str]] = {
    "transformers:rwkv": (4, "2 layers of time and channel mixing; the count takes a sum of the recurrence for one"),
    "transformers:mamba": (2, "2 layers of one mixer; the count takes the skip of a scan for one"),
    "transformers:falcon_mamba": (2, "as mamba"),
    "transformers:jamba": (10, "5 layers of a mixer and a feed-forward; the count takes the skip of a scan for one"),
    "timm:dpn": (16, "3+4+6+3 dual-path blocks; the count does not see a skip behind an activation of its own"),
    "timm:sknet": (8, "2+2+2+2 blocks; the count does not see the three that downsample"),
    "timm:tnt": (60, "12 layers of 5: the count does not see that pixels are projected and added to the patches"),
    "timm:nasnet": (43, "2 in 18 normal cells, 1 in 2 reductions, 5 in stems; the count sees no skip behind a ReLU"),
}

_KINDS = {
    "refused": "refused by resect, with the reason",
    "raw": "another exception than resect's",
    "ended": "took too long or too much memory",
    "not built": "not built by the benchmark (only these are no part of the totals)",
}


def page(rows: list[Row], total: int) -> str:
    """The page of all rows.

    Args:
        total: the number of models of the benchmark, of which `rows` are those measured so far.
    """
    built = [row for row in rows if row.get("kind") != "not built"]
    taken = [row for row in built if "error" not in row]
    return (
        "\n\n".join(
            [
                "# Coverage: public models taken apart",
                _wrapped(
                    "Made by `python benchmarks/coverage.py --page docs/coverage.md`; all weights are random. The "
                    "blocks found are compared with an independent count: the additions that one forward pass "
                    "executes, judged by where their values come from, without the captured graph "
                    "(`benchmarks/_additions.py` says by which rule, and where it is known to be weaker). Where the "
                    "two differ, the source of the model decides."
                ),
                _wrapped(_made(len(rows), total)),
                "## Totals",
                _totals(built, taken),
                "## Where it fails",
                _failures(rows),
                "## Where the counts differ",
                _differences(taken),
                "## All models",
                _table(sorted(built, key=lambda row: row["name"])),
            ]
        )
        + "\n"
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _made(measured: int, total: int) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torchvision", "timm", "transformers"))
    part = (
        ""
        if measured == total
        else f" This is no full run: {measured} of the {total} models have been measured so far, in a random order. "
        "The shares below are those of the models measured."
    )
    return (
        f"{machine()}, {packages}; {os.cpu_count()} cores, shared with other work, so seconds are those of the "
        f"processor, of one thread; 1.2 of them torch takes once a process to load its export.{part}"
    )


def _right(row: Row) -> bool:
    """Whether the number of blocks is that of the independent count, or of the source where that was read."""
    judged = JUDGED.get(row["name"])
    return bool(row["blocks"] == (judged[0] if judged else row["counted"]))


def _totals(built: list[Row], taken: list[Row]) -> str:
    counted = [row for row in taken if row.get("counted") is not None or row["name"] in JUDGED]
    with_blocks = [row for row in taken if row["blocks"]]
    seconds = [row["seconds"] for row in taken]
    lines = [
        ("models that were built", len(built)),
        ("taken apart", _share(len(taken), len(built))),
        ("of them recorded, as torch.export does not accept them", sum(row.get("recorded", False) for row in taken)),
        ("blocks right", _share(sum(map(_right, counted)), len(counted))),
        ("bit-identical", _share(sum(row["difference"] == 0 for row in taken), len(taken))),
        (
            "first and last block deleted and run",
            _share(sum(not any(row["not_deleted"]) for row in with_blocks), len(with_blocks)),
        ),
        ("seconds of capture, median", f"{statistics.median(seconds):.1f}" if seconds else ""),
        ("seconds of capture, longest", f"{max(seconds):.1f}" if seconds else ""),
        ("exceptions that are not resect's", sum(row.get("kind") == "raw" for row in built)),
    ]
    return "| | |\n|---|---|\n" + "\n".join(f"| {what} | {value} |" for what, value in lines)


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.1%})" if whole else "none"


def _failures(rows: list[Row]) -> str:
    failed = [row for row in rows if "error" in row]
    if not failed:
        return "Nowhere."
    counts = Counter(row["kind"] for row in failed)
    said = ", ".join(f"{number} {_KINDS[kind]}" for kind, number in counts.most_common())
    lines = [f"| {row['name']} | {row['kind']} | {_cell(row['error'])} |" for row in failed]
    return f"{said[0].upper()}{said[1:]}.\n\n| model | what | reason |\n|---|---|---|\n" + "\n".join(sorted(lines))


def _differences(taken: Iterable[Row]) -> str:
    lines = []
    for row in taken:
        right, why = JUDGED.get(row["name"], (None, "not judged yet: counted as wrong"))
        if row["blocks"] != row["counted"] or right is not None:
            shown = "" if right is None else right
            lines.append(f"| {row['name']} | {row['blocks']} | {row['counted']} | {shown} | {why} |")
    head = "| model | found | counted | by the source | why |\n|---|---|---|---|---|\n"
    return head + "\n".join(sorted(lines)) if lines else "Nowhere."


def _table(rows: Iterable[Row]) -> str:
    lines = ["| model | variant | million parameters | blocks | counted | largest difference | deleted | seconds |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in rows:
        size = f"{row['parameters'] / 1e6:.2f}" if "parameters" in row else ""  # an ended process told none
        start = f"| {row['name']} | {_cell(row.get('variant'))} | {size} "
        if "error" in row:
            lines.append(f"{start}| {row['kind']} | {_cell(row.get('counted'))} | | | |")
            continue
        missed = "; ".join(filter(None, row["not_deleted"]))
        deleted = _cell(missed) if missed else "yes" if row["blocks"] else ""
        recorded = " (recorded)" if row.get("recorded") else ""
        lines.append(
            f"{start}| {row['blocks']}{recorded} | {_cell(row['counted'])} | {row['difference']:.0e} | {deleted} "
            f"| {row['seconds']:.1f} |"
        )
    return "\n".join(lines).replace("| 0e+00 |", "| 0 |")


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    text = text if len(text) <= 300 else f"{text[:297]}..."
    return text.replace("|", "\\|").replace("`", "'")
