"""Depth pruning: searches at equal budgets on equal samples, and a greedy search beside a plain loop.

    RESECT_CIFAR10=DIR python benchmarks/prune.py [--quick] [--json] [--case NAME]

`greedy`: blocks of ResNet-110 (digits) removed one by one by the loss, resect's search beside a loop that patches the
eager model and runs it whole for every candidate. `budgets`: ResNet-110 on CIFAR-10, the error by what is removed, of
random sets (the mean of five), one-shot scores (single deletions, ShortGPT's Block Influence, norm ratio), the window
of Gromov et al. and short-transformers, greedy by loss (as SLEB) and by divergence, evolution (as EvoPress) and
pairwise. All choose on the same calibration images; the change of the error, with its paired interval, is on others.
Seconds are those of the search alone.

With RESECT_PRUNE_STORE=DIR finished pieces are kept there, and a killed benchmark goes on; what it finds there takes no
seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import torch
from _harness import Case, main, measure
from torch import Tensor, nn

import resect
from resect.engines.local import LOCAL, Local
from resect.measuring.batches import batches_of
from resect.pruning.groups import groups_of, without
from resect.pruning.objective import Objective
from resect.pruning.problem import Problem
from resect.pruning.prune import SEARCHES
from resect.runs.folder import RunFolder
from resect.sweep.lesion import lesion

Rows = Iterator[dict[str, Any]]
METHODS: dict[str, dict[str, Any]] = {
    "one-shot, divergence": {"search": "one-shot", "score": "kl"},
    "one-shot, Block Influence": {"search": "one-shot", "score": "block_influence"},
    "one-shot, norm ratio": {"search": "one-shot", "score": "norm_ratio"},
    "window, angular distance": {"search": "window"},
    "greedy, loss (SLEB)": {"search": "greedy", "objective": "loss"},
    "greedy": {"search": "greedy"},
    "evolution (EvoPress)": {"search": "evolution"},
    "pairwise": {"search": "pairwise"},
}


def shipped(name: str, data: str) -> tuple[resect.Unraveled, resect.Samples]:
    """A network and its samples."""
    samples = resect.load_samples(data, model=f"resect:{name}")
    return resect.unravel(resect.load_model(f"resect:{name}"), samples.inputs[:2]), samples


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
    count, gone = (32, 2) if quick else (64, 4)
    inputs, targets = samples.first(count)

    def plain(gone: int = gone) -> tuple[list[int], float]:
        removed: list[int] = []
        for _ in range(gone):
            left = [i for i in range(len(net.blocks)) if i not in removed]
            losses = [plain_loss(net, {*removed, i}, inputs, targets) for i in left]
            removed.append(left[losses.index(min(losses))])
        return removed, min(losses)

    def ours() -> tuple[list[int], float]:
        objective = Objective(net, groups_of(net, "block"), list(batches_of([(inputs, targets)], net)), "loss", LOCAL)
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


def budgets(quick: bool) -> Rows:
    """Every method at every budget."""
    net, samples = shipped("resnet110-cifar10", "cifar10")
    calibration, judges, sizes = 32, 1000, (8, 16)
    chooses = list(batches_of(samples.limited(calibration).batches(-(-calibration // 2)), net))
    inputs, targets = samples.first(calibration + judges)
    others = [(inputs[i : i + 250], targets[i : i + 250]) for i in range(calibration, calibration + judges, 250)]
    store = os.environ.get("RESECT_PRUNE_STORE")
    engine = Local(RunFolder(Path(store), "benchmark", {"prune": [calibration, judges]})) if store else LOCAL
    groups, prices = groups_of(net, "block"), torch.ones(len(net.blocks)).numpy()
    draw, blocks = Random(0), range(len(net.blocks))
    random = {size: [frozenset(draw.sample(blocks, size)) for _ in range(5)] for size in sizes}
    rows: list[tuple[str, int, list[frozenset[int]], float]] = [("random", k, sets, 0.0) for k, sets in random.items()]
    for name, options in METHODS.items():
        settings = resect.PruneSettings(generations=12, offspring=16, **options)
        for size in sizes:
            objective = Objective(net, groups, chooses, settings.objective or "kl", engine)
            start = time.perf_counter()
            choice = SEARCHES[settings.search](Problem(objective, prices, (size,), settings))[-1]
            rows.append((name, size, [choice.removed], time.perf_counter() - start))
    wanted = [removed for row in rows for removed in row[2]]
    plan = resect.plans.explicit(net, [without(net, groups, removed) for removed in dict.fromkeys(wanted)])
    table = lesion(net, others, plan, engine=engine).table.set_index(list(dict.fromkeys(wanted)))
    for name, size, sets, seconds in sorted(rows, key=lambda row: row[1]):
        each = table.loc[sets]
        points = {end: float(each[f"damage{end}"].mean()) * 100 for end in ("", "_low", "_high")}
        yield {
            "case": f"{size} of 54 blocks, {name}",
            "error, %": float(each["error"].mean()) * 100,
            "change, points": points[""],
            "95 %": [round(points["_low"], 2), round(points["_high"], 2)] if len(sets) == 1 else "mean of 5",
            "search, s": round(seconds, 1),
            "calibration": calibration,
            "samples": judges,
        }


CASES = {"greedy": greedy, "budgets": budgets}


def run_case(name: str, quick: bool) -> Rows:
    """The rows of one case."""
    torch.manual_seed(0)
    resect.keep_freed_memory()
    yield from CASES[name](quick)


if __name__ == "__main__":
    main(__file__, "prune", list(CASES), run_case, not_quick=["budgets"])
