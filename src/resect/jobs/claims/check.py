"""What the test of a claim is: the runs that it needs, what the authors found, and the rule of its verdict."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from resect.measuring.ranks import LEAST, median_interval
from resect.runs.record import Record
from resect.words import points

HOLDS, PARTLY, FAILS, UNKNOWN, NOT_RUN = "holds", "holds in part", "does not", "cannot be said", "not run here"
DEPTHS = ("resnet20", "resnet32", "resnet44", "resnet56")  # beside ResNet-110
SIDE_BY_SIDE = (2, 4)  # blocks in a row
CHEAP = 0.02  # of error, below which a lesion hardly changes the network
Runs = Mapping[str, Record]


@dataclass(frozen=True)
class Check:
    """How a claim is tested: on which runs, by which rule; `on` says on what, if not on the data that are asked for.

    Attributes:
        alone: runs that do in the place of `runs`, and are less work where nothing else needs those.
    """

    runs: tuple[str, ...]
    theirs: str
    find: Callable[[Runs], tuple[str, str]]
    on: str = ""
    alone: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """When it holds, in a sentence or two."""
        return " ".join((self.find.__doc__ or "").split())

    def among(self, runs: Container[str]) -> tuple[str, ...] | None:
        """The runs to test it on, of those that there are; None if they do not suffice."""
        return next((names for names in (self.runs, self.alone) if names and all(name in runs for name in names)), None)


CHECKS: dict[str, Check] = {}  # by the number of the claim


def check(
    number: str, *runs: str, theirs: str, on: str = "", alone: tuple[str, ...] = ()
) -> Callable[[Callable[[Runs], tuple[str, str]]], None]:
    """Make a function the test of a claim. Its docstring is the rule; it gives what is found here, and the verdict.

    Args:
        runs: their names, as `resect reproduce` has them.
        theirs: what the authors found, in numbers.
        on: what the runs are of, where that is always the same.
        alone: runs that do in their place.
    """

    def add(find: Callable[[Runs], tuple[str, str]]) -> None:
        CHECKS[number] = Check(runs, theirs, find, on, alone)

    return add


def is_of_today(claim: Mapping[str, Any], runs: Container[str]) -> bool:
    """Whether a claim of a record was judged by the rule of today, on the runs that this asks for."""
    check = CHECKS[claim["number"]]
    return claim["rule"] == check.rule and (claim["verdict"] == NOT_RUN or check.among(runs) is not None)


def judged(true: Sequence[bool | None]) -> str:
    """The verdict on a claim of several parts, of which None cannot be told."""
    return HOLDS if all(true) else PARTLY if any(true) else UNKNOWN if None in true else FAILS


def below(interval: tuple[float, float], bound: float) -> bool | None:
    """Whether what an interval is of lies below a bound; None where the interval holds the bound."""
    low, high = interval
    return True if high < bound else False if low >= bound else None


def above(interval: tuple[float, float], bound: float) -> bool | None:
    """Whether it lies above, likewise."""
    low, high = interval
    return below((-high, -low), -bound)


def lesions_of(record: Record) -> pd.Series:
    """What every lesion of a sweep costs."""
    damage: pd.Series = record.tables["lesions"]["damage"]
    return damage


def median_of(damage: pd.Series) -> str:
    """The median of damages with its interval; of few with their range."""
    low, high = (points(end).partition(" ")[0] for end in median_interval(damage))
    return f"{points(float(damage.median()))} ({'range ' if len(damage) < LEAST else ''}{low} to {high})"
