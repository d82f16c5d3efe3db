"""Which public models can be taken apart, and whether the blocks found are right.

    python benchmarks/coverage.py [--only TEXT ...] [--limit N] [--part K/N] [--again] [--page docs/coverage.md]

Every model of torchvision (classification, segmentation, detection, video, optical flow), the smallest of every module
of timm, and small random models of transformers, all with random weights and nothing downloaded. Each is built and
measured in a process of its own, which is ended after `--seconds` of the processor or beyond `--gigabytes`; its row is
kept under `.work/coverage`, and a second run measures those that have none (`--again`: all). A row holds the blocks
found against those of an independent count (`_additions.py`), the largest difference of the intact network from the
model at batch sizes 1 and 2, whether the first and the last block can be deleted, the processor seconds of capture,
and the error where it fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import transformers
from _additions import residual_additions
from _page import page
from _zoo import build, names
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from resect import unravel
from resect.errors import ResectError
from resect.graph.calls import as_call

KEPT = Path(__file__).parents[1] / ".work" / "coverage"


def main() -> None:
    """Measure the models that are asked for and have no row, and write the page of all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="models whose name holds one of these")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many models")
    parser.add_argument("--again", action="store_true", help="measure those that have a row, too")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every Nth of them, for N processes side by side")
    parser.add_argument("--seconds", type=int, default=300, help="processor time of a model")
    parser.add_argument("--gigabytes", type=float, default=5, help="a process that holds more is ended")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the table of all rows to this file")
    given = parser.parse_args()
    chosen = [name for name in names() if any(text in name for text in given.only)][: given.limit]
    random.Random(0).shuffle(chosen)  # a run that is cut off has measured a fair sample
    part, parts = map(int, given.part.split("/"))
    todo = [name for name in chosen[part - 1 :: parts] if given.again or not _file(name).exists()]
    KEPT.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(emoji=False, markup=False)) as progress:
        task = progress.add_task("", total=len(todo))
        for name in todo:
            progress.update(task, description=name)
            row = _in_process(name, given.seconds, given.gigabytes)
            _file(name).write_text(json.dumps({"name": name, **row}))
            progress.console.print(_line(name, row), highlight=False)
            progress.advance(task)
    if given.page:
        rows = [json.loads(_file(name).read_text()) for name in names() if _file(name).exists()]
        given.page.write_text(page(rows, len(names())), encoding="utf-8")


def _file(name: str) -> Path:
    return KEPT / f"{name.replace(':', '-').replace('/', '-')}.json"


def _line(name: str, row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{name}: {row['kind']}: {row['error']}"
    return f"{name}: {row['blocks']} blocks, {row['counted']} counted, {row['seconds']:.1f} s"


def _in_process(name: str, seconds: int, gigabytes: float) -> dict[str, Any]:
    """The row of one model, measured in a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        with os.fdopen(writer, "w") as out:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                row = measured(name)
            json.dump(row, out)
        os._exit(0)
    os.close(writer)
    why = _watched(child, gigabytes)
    with os.fdopen(reader) as given:
        text = given.read()
    return (
        json.loads(text)
        if text
        else {"kind": "ended", "error": why or f"it takes more than {seconds} s of the processor"}
    )


def _watched(child: int, gigabytes: float) -> str:
    """Wait for a process, and end it if it takes too much memory; why, else ""."""
    while not os.waitpid(child, os.WNOHANG)[0]:
        pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
        if pages * resource.getpagesize() > gigabytes * 2**30:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"it takes more than {gigabytes:g} GiB"
        time.sleep(0.05)
    return ""


def measured(name: str) -> dict[str, Any]:
    """What resect makes of one model."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    row: dict[str, Any] = {}
    try:
        row["variant"], (model, example) = build(name, KEPT / "smallest.json")
        row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    except Exception as error:  # a model of the zoo that cannot be built or run is none of the count
        return {"kind": "not built", "error": _words(error)}
    try:
        additions = residual_additions(model, *as_call(example))
        row |= {"counted": len(additions), "counted_in": [addition.module for addition in additions]}
    except Exception as error:  # of the count or the model; the row says so, and the page counts it as none
        row |= {"counted": None, "count_error": _words(error)}
    try:
        _take_apart(model, example, row)
    except ResectError as error:
        row |= {"kind": "refused", "error": _words(error)}
    except Exception as error:  # a fault of resect's, which the page lists
        row |= {"kind": "raw", "error": _words(error)}
    return row


def _take_apart(model: torch.nn.Module, example: Any, row: dict[str, Any]) -> None:
    start, own = time.perf_counter(), time.process_time()
    net = unravel(model, example)
    row |= {"seconds": time.process_time() - own, "wall_seconds": time.perf_counter() - start}
    row |= {"blocks": len(net.blocks), "found_in": [block.name for block in net.blocks]}
    row |= {"fixed": net.batch_size, "recorded": net.recorded}
    row["difference"] = max(net.check(example, sizes=(1, 2)).differences.values())
    ends = {0: "first", len(net.blocks) - 1: "last"} if net.blocks else {}
    row["not_deleted"] = [
        _tried(lambda b=block: net(example, net.intact.without(b)), end) for block, end in ends.items()
    ]


def _tried(run: Callable[[], Any], what: str) -> str:
    """ "" if it runs, else why not; what is not of resect is raised."""
    try:
        with torch.no_grad():
            run()
    except ResectError as error:
        return f"{what}: {_words(error)}"
    return ""


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
