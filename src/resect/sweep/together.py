"""What a sweep's lesions say when they are read together: many tests at once, and the worst of many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from resect.errors import InputError
from resect.measuring.clusters import clustered_rate_interval
from resect.measuring.many import held_out_largest, least_seen, may_be_worst
from resect.measuring.statistics import bootstrap_interval, paired_error_interval
from resect.sweep.result import LesionResult


@dataclass(frozen=True)
class Together:
    """L lesions of one sweep at once, at a level of confidence of 95 % or another.

    Attributes:
        limits: one row a lesion: `damage_low` and `damage_high`, `loss_change_low` and `loss_change_high`, as far as
            they were measured: intervals that hold all true effects at once.
        needed: (L,) booleans; whether deleting raises the error, by Holm's test or, where a sample has several
            outcomes, by these intervals.
        harmful: (L,) booleans; whether deleting lowers the error.
        worst: (L,) booleans; the lesions that no other is shown to be worse than.
        held_out: the lesion that is worst on every other sample, its damage on the samples between, and its interval;
            None where a sample has several outcomes.
        least: the smallest damage that could have been shown, 0 to 1; None where a sample has several outcomes.
        level: of confidence.
    """

    limits: pd.DataFrame
    needed: np.ndarray
    harmful: np.ndarray
    worst: np.ndarray
    held_out: tuple[int, float, float, float] | None
    least: float | None
    level: float

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, but for the limits."""
        lesions = {name: np.flatnonzero(getattr(self, name)).tolist() for name in ("needed", "harmful", "worst")}
        return {**lesions, "held_out": self.held_out, "least": self.least, "level": self.level, "of": len(self.worst)}


def together(result: LesionResult, level: float = 0.95) -> Together:
    """Read all lesions of a sweep at once.

    Args:
        result: of any plan; its error must be a rate.
        level: of confidence.

    Raises:
        InputError: the error was not measured or is no rate, lesions ran on different samples, or there is none.
    """
    if "error" not in result.values or not result.meaning.rate or not len(result.plan):
        raise InputError("`result` must have at least one lesion, and an error that is a rate, to be read together.")
    errors, intact, some = result.errors, result.intact["error"], result.weights > 0
    if result.cut_short:
        raise InputError("`result` must have all lesions on the same samples; with a precision some stop earlier.")
    errors, intact, weights = errors[:, some], intact[some], result.weights[some]
    changes, lesions = errors - intact, len(errors)
    own = 1 - (1 - level) / lesions
    if result.targets is None:
        low, high = clustered_rate_interval(changes, weights, own)
        needed, harmful = low > 0, high < 0
        between = clustered_rate_interval(changes - changes[_largest(changes, weights)], weights, own)[1]
        worst, held_out, least = ~(between < 0), None, None
    else:
        low, high = paired_error_interval((changes > 0).sum(1), (changes < 0).sum(1), len(intact), own)
        shown = result.table["p_holm"].to_numpy(float) < 1 - level
        needed, harmful = shown & (changes.mean(1) > 0), shown & (changes.mean(1) < 0)
        wrong, before = errors > 0.5, intact > 0.5
        worst = may_be_worst(wrong, level)
        held_out = held_out_largest(wrong, before, level) if len(intact) > 1 else None
        least = least_seen(lesions, len(intact), level)
    limits = {"damage_low": low, "damage_high": high}
    if "loss" in result.values:
        losses = (result.losses - result.intact["loss"])[:, some]
        ends = bootstrap_interval(losses, weights, level, simultaneous=True)
        limits |= dict(zip(("loss_change_low", "loss_change_high"), ends, strict=True))
    return Together(pd.DataFrame(limits), needed, harmful, worst, held_out, least, level)


def _largest(changes: np.ndarray, weights: np.ndarray) -> int:
    return int((changes @ weights).argmax())
