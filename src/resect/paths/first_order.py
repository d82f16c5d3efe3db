"""What deleting a block would cost to first order: the gradient at its branch's output times that output.

With a gate z_i on a branch f_i, the scalar falls by <c_i, f_i> for a gate that closes, to first order, c_i being the
cotangent of the branch's output: one backward pass for all blocks, where lesions take a forward pass each. Source: the
Taylor criterion of Molchanov et al. 2017 (arXiv 1611.06440), for whole branches. Of a gated block (a highway's) it is
the branch alone, while a deletion opens its carry gate, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from resect.engines.local import LOCAL
from resect.engines.work import Arrays, Engine, Progress
from resect.errors import InputError
from resect.figures.shown import Shown
from resect.measuring.batches import AnyTask, Batch, Batches, batches_of
from resect.measuring.results import require_alike
from resect.measuring.statistics import bootstrap_interval
from resect.network.unraveled import Unraveled
from resect.paths.passes import Passes
from resect.paths.settings import PathSettings, PathWork, Traces, concatenated
from resect.words import decimal

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class FirstOrder(Shown):
    """First-order changes of the scalar (the loss) by deleting each of n blocks, N samples.

    Attributes:
        names: of the blocks.
        changes: (N, n) float64; -<c_i, f_i> of every sample, in the unit of the scalar (nats for the loss).
    """

    names: tuple[str, ...]
    changes: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[FirstOrder]) -> FirstOrder:
        """The samples of several results as one; InputError if they do not fit."""
        require_alike(parts, "names")
        return cls(parts[0].names, np.concatenate([part.changes for part in parts]))

    @property
    def change(self) -> np.ndarray:
        """(n,) mean change; those of opposite signs cancel."""
        return np.asarray(self.changes.mean(0))

    @property
    def size(self) -> np.ndarray:
        """(n,) mean absolute change."""
        return np.asarray(np.abs(self.changes).mean(0))

    @property
    def table(self) -> pd.DataFrame:
        """One row a block: `block`, `name`, `change` and `size`, each with its studentised bootstrap interval."""
        columns: dict[str, object] = {"block": range(len(self.names)), "name": self.names}
        for name, values in (("change", self.changes), ("size", np.abs(self.changes))):
            low, high = bootstrap_interval(values.T)
            columns |= {name: values.mean(0), f"{name}_low": low, f"{name}_high": high}
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """Which block matters most and least, to first order."""
        most, least = int(self.size.argmax()), int(self.size.argmin())
        return (
            f"To first order {self.names[most]} matters most, {decimal(float(self.size[most]))} in the mean absolute "
            f"change, and {self.names[least]} least, {decimal(float(self.size[least]))}."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the mean absolute change of every block with its interval; returns the axes."""
        from resect.figures import carriers

        return carriers.blocks(self.table, ax, column="size", label="mean absolute first-order change", total=None)


def first_order(
    net: Unraveled,
    data: Batches,
    settings: PathSettings | None = None,
    *,
    task: AnyTask = None,
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> FirstOrder:
    """How much the scalar would change by deleting each block, to first order: one backward pass for all.

    Args:
        net, data, settings, task, progress, engine: as for `path_spectrum`; where gradients are measured (`at`)
            decides which blocks lie on the way, so leave it as it is to have all.

    Raises:
        InputError, DataError: as for `path_spectrum`; and `at` is a parameter.
    """
    traces = Traces(net, settings, task)
    if traces.target.kind == "parameter":
        raise InputError(f"`at` must be a place of the signal, got the parameter {traces.at}. Leave it out.")
    work = PathWork("first order", _changes, traces.settings, {})
    runs = engine.run(net, ((work, batch) for batch in batches_of(data, net, task)), progress)
    changes = np.concatenate([arrays["changes"] for arrays in runs])
    return FirstOrder(tuple(block.name for block in net.blocks), changes)


def _changes(traces: Traces, batch: Batch, progress: Progress) -> Arrays:
    parts = []
    for trace, advance in traces.of(batch, 2, progress, truth=False, keep=True):
        passes = Passes(trace, advance)
        passes.back()
        changes = np.zeros_like(passes.products)
        for part in trace.parts.values():
            for slot, gate in part.branches.items():
                if slot in passes.at_gates:
                    changes[:, slot] = -passes.dot(slot, part.at_ends[gate].detach())
        parts.append((changes,))
    return concatenated(parts, "changes")
