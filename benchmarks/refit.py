"""Fits in which positions count by what the outputs depend on, beside fits in which all count alike.

    python benchmarks/refit.py [--quick] [--json]

Four vision transformers on the digits, other ones than `prune.py` has, without blocks that `exchange` finds on 128
images, which the fits see, too; the loss on the 772 images that neither trained nor chose, in nats above that of the
intact network, in the mean over the networks, and how much less it is where positions count, with the range over the
networks. Seconds are those of a fit. With RESECT_PRUNE_STORE=DIR the networks are kept there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _harness import main
from _pruning_networks import Subject, vit

import resect
from resect.engines.local import LOCAL
from resect.pruning.groups import groups_of, without
from resect.pruning.hardest import hardest_first
from resect.pruning.objective import Objective
from resect.pruning.problem import Problem
from resect.pruning.prune import SEARCHES
from resect.pruning.refit import refit, with_tensors
from resect.pruning.rerun import Rerun, mean_over
from resect.pruning.settings import PruneSettings

BUDGETS = (4, 8, 12, 16)


def positions(quick: bool) -> Iterator[dict[str, Any]]:
    """A row a budget."""
    store, seeds = os.environ.get("RESECT_PRUNE_STORE"), (1,) if quick else (1, 2, 3, 4)
    budgets = (3,) if quick else BUDGETS
    found = np.array([_losses(vit(quick, store and Path(store), seed), budgets) for seed in seeds])
    for budget, own in zip(budgets, found.swapaxes(0, 1), strict=True):
        cut, alike, weighted, alike_s, weighted_s = own.T
        less = alike - weighted
        yield {
            "case": f"positions, ViT without {budget} blocks",
            "cut": f"{cut.mean():.4f}",
            "alike": f"{alike.mean():.4f}, {alike_s.mean():.2f} s",
            "by what depends on them": f"{weighted.mean():.4f}, {weighted_s.mean():.2f} s",
            "less": f"{less.mean():.4f} ({less.min():.4f} to {less.max():.4f})",
            "networks": len(seeds),
        }


def _losses(subject: Subject, budgets: tuple[int, ...]) -> np.ndarray:
    """(budgets, 5): the losses, cut, with positions alike and weighted, above the intact one's; seconds of both."""
    net, groups = subject.net, groups_of(subject.net, "block")
    objective = Objective(net, groups, hardest_first(net, subject.chooses, LOCAL), "kl", LOCAL)
    problem = Problem(objective, np.ones(len(groups)), tuple(map(float, budgets)), PruneSettings())
    rows, intact = [], _loss(subject, net.standalone(net.intact))
    for choice in SEARCHES["exchange"](problem):
        arrangement = without(net, groups, sorted(choice.removed))
        losses, seconds = [_loss(subject, net.standalone(arrangement))], []
        for alike in (True, False):
            start = time.process_time()
            fit = refit(net, arrangement, subject.chooses, alike=alike)
            seconds.append(time.process_time() - start)
            losses.append(_loss(subject, with_tensors(net.standalone(arrangement), fit.tensors)))
        rows.append([*(loss - intact for loss in losses), *seconds])
    return np.array(rows)


def _loss(subject: Subject, module: resect.network.standalone.Standalone) -> float:
    outcomes = Rerun(module, "judged").outcomes(subject.net, subject.judges, LOCAL)
    return mean_over(outcomes["loss"], subject.judges)


CASES = {"positions": positions}


def run_case(name: str, quick: bool) -> Iterator[dict[str, Any]]:
    """The rows of one case."""
    torch.manual_seed(0)
    yield from CASES[name](quick)


if __name__ == "__main__":
    main(__file__, "refit", list(CASES), run_case)
