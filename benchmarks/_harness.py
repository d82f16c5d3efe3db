"""What all benchmarks share: cases measured in turn, a table or JSON lines, peak memory of a process."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from resect.measuring.timing import synchronise

_DEVICE = "RESECT_BENCHMARK_DEVICE"


@dataclass(frozen=True)
class Case:
    """Two ways to compute the same.

    Attributes:
        baseline, resect: run once and return what they found.
        warm: a first, short run of the baseline.
        difference: the largest difference of the two findings, 0.0 where they are equal.
        sweeps_to_warm: first runs of resect; compiled code is made at the second.
        tolerance: differences up to it count as equal; 0.0 demands the same bits.
        wanted: the ratio to reach, None where there is none.
        sizes: what the case ran on.
    """

    name: str
    baseline: Callable[[], Any]
    resect: Callable[[], Any]
    warm: Callable[[], Any]
    difference: Callable[[Any, Any], float]
    tolerance: float = 0.0
    sweeps_to_warm: int = 1
    wanted: float | None = None
    sizes: dict[str, Any] = field(default_factory=dict)


def device() -> torch.device:
    """The device of this run, as `--device` names it."""
    return torch.device(os.environ.get(_DEVICE, "cpu"))


def now() -> float:
    """The time at which the device has done what it was told."""
    synchronise(device())
    return time.perf_counter()


def measure(case: Case, pairs: int) -> dict[str, Any]:
    """Warm up, then run both sides in turn; the ratio is the median of those of the pairs."""
    for _ in range(case.sweeps_to_warm):
        case.resect()
    case.warm()
    times: list[tuple[float, float]] = []
    for _ in range(pairs):
        start = now()
        one = case.baseline()
        middle = now()
        other = case.resect()
        times.append((middle - start, now() - middle))
    difference = case.difference(one, other)
    ratios = [a / b for a, b in times]
    return {
        "case": case.name,
        "baseline_s": statistics.median(a for a, _ in times),
        "resect_s": statistics.median(b for _, b in times),
        "ratio": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
        "wanted": case.wanted,
        "equal": difference <= case.tolerance,
        "largest_difference": difference,
        **case.sizes,
        **({} if device().type == "cpu" else {"device": torch.cuda.get_device_name(device())}),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main(
    file: str,
    title: str,
    cases: Sequence[str],
    run_case: Callable[[str, bool], Iterable[dict[str, Any]]],
    not_quick: Sequence[str] = (),
) -> None:
    """All cases, each in a process of its own: what one leaves behind in the memory allocator changes the next.

    Args:
        run_case: gives the rows of a case, in full or quickly; a row names the network that it measures.
        not_quick: cases that --quick leaves out, as they take long or need the full size to mean anything.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="under two minutes: smaller sizes and fewer cases")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    parser.add_argument("--case", choices=cases, help="one case only, as JSON")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    given = parser.parse_args()
    os.environ[_DEVICE] = given.device  # which the processes of the cases see, too
    torch.backends.cudnn.allow_tf32 = False  # float32 on both sides
    if given.quick and given.case in not_quick:
        parser.error(f"{given.case} cannot be quick")
    if given.case:
        show(run_case(given.case, given.quick), True, title)
        return
    chosen = [case for case in cases if not (given.quick and case in not_quick)]
    show(_in_processes(file, chosen, given.quick), given.json, title)


def _in_processes(file: str, cases: Iterable[str], quick: bool) -> Iterator[dict[str, Any]]:
    for case in cases:
        command = [sys.executable, file, "--case", case, *(["--quick"] if quick else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        yield from (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))


def show(rows: Iterable[dict[str, Any]], as_json: bool, title: str) -> None:
    """Print every row as soon as it is measured (JSON), or all in a table."""
    collected = []
    for row in rows:
        collected.append(row)
        if as_json:
            print(json.dumps(row), flush=True)
        else:
            print(f"{title}: {row['case']} done", file=sys.stderr, flush=True)
    if not as_json:
        _print(collected, title)


def _print(rows: list[dict[str, Any]], title: str) -> None:
    timed = [row for row in rows if "ratio" in row]
    table = Table(title=f"{title}, {machine()}")
    for name in ("case", "baseline", "resect", "ratio", "spread", "wanted", "equal", "largest difference", "sizes"):
        table.add_column(name, justify="left" if name in ("case", "sizes") else "right", overflow="fold")
    known = {
        "case",
        "baseline_s",
        "resect_s",
        "ratio",
        "spread",
        "wanted",
        "equal",
        "largest_difference",
        "threads",
        "torch",
    }
    for row in timed:
        table.add_row(
            row["case"],
            f"{row['baseline_s']:.2f} s",
            f"{row['resect_s']:.2f} s",
            f"{row['ratio']:.2f}",
            "{:.2f} to {:.2f}".format(*row["spread"]),
            f"{row['wanted']:g}" if row["wanted"] else "",
            "yes" if row["equal"] else "NO",
            f"{row['largest_difference']:.1e}",
            ", ".join(f"{name} {value}" for name, value in row.items() if name not in known),
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for row in rows:
        if "ratio" not in row:
            facts = ", ".join(
                f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "case"
            )
            console.print(f"{row['case']}: {facts}", highlight=False)


def machine() -> str:
    """Processor, threads, versions and date."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    threads = torch.get_num_threads()
    return f"{name}, {threads} threads, torch {torch.__version__}, Python {platform.python_version()}, {date.today()}"


def peak_bytes(run: Callable[[], Any]) -> tuple[int, int]:
    """(bytes resident before, largest number of bytes resident while running) of this process, on Linux."""
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # starts the high-water mark anew
    run()
    return before, _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
