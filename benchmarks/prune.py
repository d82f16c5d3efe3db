"""Depth pruning: searches at equal budgets on equal samples, and a greedy search beside a plain loop.

    RESECT_CIFAR10=DIR python benchmarks/prune.py [--quick] [--json] [--case NAME]

`greedy`: blocks of ResNet-110 (digits) removed one by one by the loss, resect's search beside a loop that patches the
eager model and runs it whole for every candidate. `budgets`: four networks (`_pruning_networks.py`), the error, or of a
language model the loss, by what is removed. Others' methods are random sets (the mean of five), the one-shot score of
ShortGPT, the window of Gromov et al. and short-transformers, greedy by loss (as SLEB) and evolution by divergence (as
EvoPress); all else is resect's own, and `OURS` what it is judged by. All choose on the same samples; what a method does
worse than ours, with its paired 95 % interval, is measured on others. What others' methods and ours leave is also
refitted on the samples that choose (`resect prune --refit`), and judged again: ours beside all of them refitted, and
beside theirs as they are defined. Seconds are of the processor, one thread, of the search for all budgets of a network;
the latency is a part of the intact network's, one sample, timed in turn.

With RESECT_PRUNE_STORE=DIR finished pieces are kept there, and a killed benchmark goes on. In full, `budgets` writes
`pruning.json` beside this file, from which all tables can be made again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from _harness import Case, machine, main, measure
from _pruning_budgets import compared, judgement, told
from _pruning_networks import NETWORKS, shipped
from torch import Tensor, nn

import resect
from resect.engines.local import LOCAL
from resect.measuring.batches import batches_of
from resect.pruning.groups import groups_of
from resect.pruning.hardest import hardest_first
from resect.pruning.objective import Objective
from resect.pruning.problem import Problem
from resect.pruning.prune import SEARCHES

Rows = Iterator[dict[str, Any]]
RAW = Path(__file__).parent / "pruning.json"


@contextmanager
def skipped(model: nn.Module, removed: set[int]) -> Iterator[None]:
    """The eager model with some blocks handing on what their skip does, as a user would patch it."""
    blocks = [model.blocks[i] for i in removed]  # type: ignore[index, union-attr]
    for block in blocks:
        block.forward = block.sc.forward
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def greedy(quick: bool) -> Rows:
    """Resect's search beside the plain loop."""
    net, samples = shipped("resnet110-digits", "digits")
    count, gone, size = (128, 2, 32) if quick else (256, 4, 32)
    inputs, targets = samples.first(count)
    batches = list(batches_of(samples.limited(count).batches(size), net))

    def plain(gone: int = gone) -> tuple[list[int], float]:
        removed: list[int] = []
        for _ in range(gone):
            left = [i for i in range(len(net.blocks)) if i not in removed]
            losses = [plain_loss(net, {*removed, i}, inputs, targets) for i in left]
            removed.append(left[losses.index(min(losses))])
        return removed, min(losses)

    def ours() -> tuple[list[int], float]:
        objective = Objective(net, groups_of(net, "block"), hardest_first(net, batches, LOCAL), "loss", LOCAL)
        prices, levels = torch.ones(len(net.blocks)).numpy(), tuple(range(1, gone + 1))
        choices = SEARCHES["greedy"](Problem(objective, prices, levels, resect.PruneSettings()))
        sets: list[frozenset[int]] = [frozenset(), *(choice.removed for choice in choices)]
        return [next(iter(b - a)) for a, b in pairwise(sets)], choices[-1].value

    def difference(one: tuple[list[int], float], other: tuple[list[int], float]) -> float:
        return abs(one[1] - other[1]) if one[0] == other[0] else float("inf")

    sizes = {"removed": gone, "samples": count}
    case = Case("greedy", plain, ours, lambda: plain(1), difference, tolerance=1e-5, wanted=2.0, sizes=sizes)
    yield measure(case, 1 if quick else 3)


def plain_loss(net: resect.Unraveled, removed: set[int], inputs: Tensor, targets: Tensor) -> float:
    """Mean cross-entropy of the patched model."""
    with torch.no_grad(), skipped(net.model, removed):
        return float(nn.functional.cross_entropy(net.model(inputs), targets))


def budgets(name: str, quick: bool) -> Rows:
    """Every method at every budget of one network."""
    if "CIFAR" in name and not os.environ.get("RESECT_CIFAR10"):
        yield {"case": name, "left out": "RESECT_CIFAR10 does not name the folder of CIFAR-10"}
        return
    store = os.environ.get("RESECT_PRUNE_STORE")
    kept = Path(store) if store else None
    subject = NETWORKS[name](quick, kept)
    folder = kept and kept / (name.partition(",")[0] + " quick" * quick)
    rows = compared(name, subject, folder, quick)
    if not quick:
        raw = json.loads(RAW.read_text(encoding="utf-8")) if RAW.exists() else {}
        write_raw({**raw, name: {"machine": machine(), "rows": rows}})
    yield from told(rows)
    yield from ({**row, "network": name} for row in judgement(rows) if "criterion" in row)


def write_raw(raw: dict[str, Any]) -> None:
    """All networks, a line a row."""
    parts = []
    for name, one in raw.items():
        rows = ",\n  ".join(map(json.dumps, one["rows"]))
        parts.append(f' {json.dumps(name)}: {{"machine": {json.dumps(one["machine"])}, "rows": [\n  {rows}]}}')
    RAW.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def judged(quick: bool) -> Rows:
    """All networks that were measured, together."""
    raw = json.loads(RAW.read_text(encoding="utf-8"))
    yield from judgement([row for one in raw.values() for row in one["rows"]])


CASES = {"greedy": greedy, **{name: partial(budgets, name) for name in NETWORKS}, "judgement": judged}
QUICK = ("greedy", "ViT, digits")


def run_case(name: str, quick: bool) -> Rows:
    """The rows of one case."""
    torch.manual_seed(0)
    resect.keep_freed_memory()
    yield from CASES[name](quick)


if __name__ == "__main__":
    main(__file__, "prune", list(CASES), run_case, not_quick=[case for case in CASES if case not in QUICK])
