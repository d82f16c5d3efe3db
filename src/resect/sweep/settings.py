"""What a sweep measures and how it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from resect.errors import InputError, suggesting_settings

if TYPE_CHECKING:  # the command line shows these settings without torch
    from torch import Tensor

UserMetric: TypeAlias = "Callable[[Any, Tensor], Tensor]"
METRICS = ("error", "loss", "agreement", "kl")
PLANS = (
    *("single", "pairs", "random", "windows", "shuffled", "reversed", "parallel"),
    *("skips", "repeated", "random-repeated", "bypassed", "shapley", "ensemble"),
)
_OVER_SPANS = ("windows", "reversed", "parallel")
_LESIONS = tuple(plan for plan in PLANS if plan != "ensemble")
PLANS_OF = {  # options of a sweep that some plans make nothing of
    "removal": ("single", "pairs", "random", "windows", "shapley"),
    "counts": ("random", "windows", "shuffled", "reversed", "parallel", "random-repeated"),
    "unit": _OVER_SPANS,
    "middle": _OVER_SPANS,
    "combine": ("parallel",),
    "repeats": ("random", "shuffled", "random-repeated"),
    "orders": ("shapley",),
    "removed": ("ensemble",),
    "members": ("ensemble",),
    "metrics": _LESIONS,
    "precision": _LESIONS,
}


@suggesting_settings
@dataclass(frozen=True)
class LesionSettings:
    """Settings of `resect.lesion`, `resect.shapley` and `resect.ensemble`.

    Attributes:
        metrics: one or some of "error", "loss", "agreement" (with the intact network's predictions) and "kl"
            (divergence from its output distribution, one forward pass more), and functions (outputs, targets) -> (B,)
            values.
        precision: half the width, in percentage points, of the 95 % interval of a lesion's damage at which the lesion
            is stopped; None runs every lesion on all data.
        channels_last: images and convolution weights in the memory format NHWC; changes the last bits.
        compile: fuse every slice with torch.compile; changes the last bits.
        seed: of what is drawn at random: the samples whose branches stand for deleted ones (removal "other sample"),
            the orders of `shapley` and the members of `ensemble`. Plans have seeds of their own.

    Raises:
        InputError: a metric is unknown or named twice, or the precision cannot be reached.
    """

    metrics: Sequence[str | UserMetric] = ("error", "loss", "agreement")
    precision: float | None = None
    channels_last: bool = False
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        one = isinstance(self.metrics, str) or callable(self.metrics) or not isinstance(self.metrics, Iterable)
        object.__setattr__(self, "metrics", (self.metrics,) if one else tuple(self.metrics))
        unknown = [m for m in self.metrics if not callable(m) and m not in METRICS]
        if unknown or not self.metrics or len(set(self.names)) < len(self.names):
            raise InputError(
                f"`metrics` must name some of {', '.join(METRICS)}, each once, or be functions (outputs, targets) -> "
                f"per-sample values, got {list(self.metrics)}."
            )
        precise = isinstance(self.precision, (int, float)) and 0 < self.precision < 100
        if self.precision is not None and not precise:
            raise InputError(f"`precision` must lie between 0 and 100 percentage points, got {self.precision!r}.")
        if self.precision is not None and "error" not in self.metrics:
            raise InputError("`precision` is that of the damage, so `metrics` must hold 'error'.")

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics' names; that of a function is its own."""
        return self.names_of(self.metrics)

    @staticmethod
    def names_of(metrics: Sequence[str | UserMetric]) -> tuple[str, ...]:
        """The names of some metrics."""
        return tuple(m if isinstance(m, str) else getattr(m, "__name__", type(m).__name__) for m in metrics)

    def metrics_of(self, task: str, known: Sequence[str]) -> tuple[str | UserMetric, ...]:
        """The metrics as far as a task has them: by default those that it has.

        Raises:
            InputError: others are asked for by name.
        """
        missing = [m for m in self.metrics if not callable(m) and m not in known]
        if missing and self.metrics != type(self).metrics:
            raise InputError(f"`metrics` of the task {task} must be of {', '.join(known)}, got {missing[0]!r}.")
        return tuple(m for m in self.metrics if m not in missing)
