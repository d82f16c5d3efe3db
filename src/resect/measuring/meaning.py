"""What the numbers of a task mean, in words; known without torch, as reports are drawn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from resect.errors import InputError
from resect.words import decimal, percent

TASKS = ("classification", "next-token", "masked-token", "multi-label", "segmentation", "regression", "contrastive")


@dataclass(frozen=True)
class Meaning:
    """What error and loss of a task are.

    Attributes:
        task: its name.
        error: what the metric "error" is; "" where the task has none.
        loss: what the metric "loss" is, and its unit.
        rate: the error is the part of all outcomes that are wrong: it is told in percent, has score intervals, and,
            where every sample is one outcome, McNemar's test; any other error has bootstrap intervals.
        outcome: what is right or wrong, in the singular.
    """

    task: str = "classification"
    error: str = "error"
    loss: str = "cross-entropy, nats"
    rate: bool = True
    outcome: str = "sample"

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Meaning:
        """The meaning of the numbers of a record; those that do not say are of classification."""
        return cls(**found.get("task", {}))

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)

    def is_rate(self, metric: str) -> bool:
        """Whether a metric is the part of all outcomes for which something holds, told in percent."""
        return metric == "agreement" or (metric == "error" and self.rate)

    @property
    def main(self) -> str:
        """The metric in which lesions are told: the error, or else the loss."""
        return "error" if self.error else "loss"

    @property
    def name(self) -> str:
        """What that metric is called."""
        return self.error or self.loss

    def value(self, amount: float) -> str:
        """One of its values: "5.00 %", of labels "5.00 % of labels", "0.123"."""
        if not (self.rate and self.error):
            return number(amount)
        many = {"label": " of labels", "pixel": " of pixels", "query": " of queries"}
        return percent(amount, 2) + many.get(self.outcome, "")

    def change(self, amount: float) -> str:
        """A difference of two of its values, without a unit: in percentage points where it is a rate."""
        return decimal(amount * 100) if self.rate and self.error else number(amount)

    def unit(self, metric: str) -> str | None:
        """The unit of "error" or "loss" where it is neither a rate nor nats; None else."""
        own = {"error": "" if self.rate else self.error, "loss": "" if self.loss.endswith("nats") else self.loss}
        return own.get(metric) or None

    @property
    def points(self) -> str:
        """The unit of a change, with a space before it."""
        return " points" if self.rate and self.error else ""


CLASSIFIED = Meaning()


def require_task(text: str | None) -> str | None:
    """A task's name, with an output behind a colon or not; None for "auto". InputError if there is no such task."""
    name = "auto" if text is None else text.partition(":")[0] if isinstance(text, str) else ""
    if name not in ("auto", *TASKS):
        raise InputError(
            f"`task` must be one of {', '.join(TASKS)} (with an output, e.g. segmentation:aux), or in the library a "
            f"resect.Task or a function (outputs, targets) -> one loss a sample, got {text!r}."
        )
    return None if name == "auto" else text


def number(amount: float) -> str:
    """A value in a unit of its own, in three significant digits: −0.0123."""
    return f"{amount + 0.0:.3g}".replace("-", "−")
