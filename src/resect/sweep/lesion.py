"""Lesion a network by a plan and measure what every lesion does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import torch.utils._pytree as pytree
from torch import Tensor

from resect.errors import CheckpointError, DataError
from resect.network.unraveled import Unraveled
from resect.sweep.metrics import device_of, error_and_loss, logits_of
from resect.sweep.plans import Plan
from resect.sweep.walk import walk

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Batches = Iterable[tuple[Any, Tensor]]


@dataclass(frozen=True)
class LesionResult:
    """Outcomes of a plan, sample by sample.

    Attributes:
        plan: what was run.
        errors: (lesions, samples) float32; 1 where a sample is classified wrongly.
        losses: (lesions, samples) float32; cross-entropy in nats.
        intact_errors: (samples,) float32, of the intact network.
        intact_losses: (samples,) float32.
    """

    plan: Plan
    errors: np.ndarray
    losses: np.ndarray
    intact_errors: np.ndarray
    intact_losses: np.ndarray

    @property
    def intact_error(self) -> float:
        """Mean error of the intact network, 0 to 1."""
        return float(self.intact_errors.mean(dtype=np.float64))

    @property
    def intact_loss(self) -> float:
        """Mean cross-entropy of the intact network, in nats."""
        return float(self.intact_losses.mean(dtype=np.float64))

    @property
    def table(self) -> pd.DataFrame:
        """One row a lesion: the plan's labels, then `error`, `loss`, and `damage` (error minus intact error)."""
        table = pd.DataFrame(list(self.plan.labels))
        table["error"] = self.errors.mean(axis=1, dtype=np.float64)
        table["loss"] = self.losses.mean(axis=1, dtype=np.float64)
        table["damage"] = table["error"] - float(self.intact_errors.mean(dtype=np.float64))
        return table

    def summary(self) -> str:
        """One sentence: how many lesions, the intact error, the median and the largest damage."""
        damage = self.table["damage"]
        worst = self.plan.labels[int(damage.argmax())]
        label = ", ".join(f"{key} {value}" for key, value in worst.items())
        return (
            f"{len(self.plan)} lesions ({self.plan.name}) on {self.errors.shape[1]} samples: intact error "
            f"{self.intact_error:.2%}, median damage {damage.median() * 100:.2f} points, largest "
            f"{damage.max() * 100:.2f} points ({label})."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the error of every lesion over the plan's first label; returns the axes."""
        from matplotlib.figure import Figure

        if ax is None:
            ax = Figure(layout="constrained").subplots()
        table = self.table
        across = "kendall_tau" if "kendall_tau" in table else str(table.columns[0])
        ax.plot(table[across], table["error"] * 100, "o", markersize=4)
        ax.axhline(self.intact_error * 100, linewidth=1, color="grey")
        ax.annotate("intact", (0, self.intact_error * 100), xycoords=("axes fraction", "data"), va="bottom")
        ax.set(xlabel=across.replace("_", " "), ylabel="error (%)")
        ax.set_ylim(bottom=0)
        return ax

    def _repr_html_(self) -> str:
        return f"<p>{self.summary()}</p>{self.table.to_html(index=False, max_rows=20)}"


def lesion(
    net: Unraveled, data: Batches, plan: Plan, *, progress: Callable[[float], None] | None = None
) -> LesionResult:
    """Run every arrangement of `plan`, and the intact network, on `data`.

    Args:
        net: the unravelled network.
        data: (inputs, targets) batches; inputs as the network takes them, targets (B,) or (B, L) integers.
        progress: called with the number of lesioned samples since the last call.

    Raises:
        DataError: the data are empty or do not fit the network.
        CheckpointError: the intact network's outputs are not finite.
    """
    parts = [lesion_batch(net, inputs, targets, plan, progress) for inputs, targets in data]
    if not parts:
        raise DataError("`data` must hold at least one (inputs, targets) batch, got none.")
    return gather(plan, parts)


def gather(plan: Plan, parts: list[LesionResult]) -> LesionResult:
    """Join the outcomes of several batches."""
    return LesionResult(
        plan,
        np.concatenate([part.errors for part in parts], axis=1),
        np.concatenate([part.losses for part in parts], axis=1),
        np.concatenate([part.intact_errors for part in parts]),
        np.concatenate([part.intact_losses for part in parts]),
    )


def lesion_batch(
    net: Unraveled, inputs: Any, targets: Tensor, plan: Plan, progress: Callable[[float], None] | None = None
) -> LesionResult:
    """Outcomes of a plan on one batch."""
    device = device_of(net.model)
    inputs = pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, inputs)
    targets = targets.to(device)
    count = len(targets)
    if not count:
        raise DataError("every batch of `data` must hold at least one sample, got an empty one.")
    arrangements = [*plan.arrangements, net.intact]
    outcomes = torch.zeros(2, len(arrangements), count, device=device)

    def visit(positions: Any, outputs: Any) -> None:
        error, loss = error_and_loss(logits_of(outputs), targets)
        outcomes[0, positions], outcomes[1, positions] = error, loss
        if progress:
            progress(count * len(positions))

    walk(net, inputs, arrangements, visit)
    errors, losses = outcomes.cpu().numpy()
    _check_intact(net, losses[-1])
    return LesionResult(plan, errors[:-1], losses[:-1], errors[-1], losses[-1])


def _check_intact(net: Unraveled, losses: np.ndarray) -> None:
    if np.isfinite(losses).all():
        return
    bad = [name for name, value in net.model.state_dict().items() if not torch.isfinite(value).all()]
    cause = f"`{bad[0]}` holds NaN or infinity" if bad else "its weights are finite, so look at the inputs"
    raise CheckpointError(f"the intact network must give finite outputs, but its loss is not finite: {cause}.")
