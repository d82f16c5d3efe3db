"""The learning rate of an arm: of some that are tried, the best on training images that were held out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd

from resect.errors import RunError
from resect.files import write_text
from resect.jobs.design import Arm
from resect.jobs.train import TrainJob
from resect.jobs.trained import card_of, has_diverged

_COLUMNS = ("arm", "learning_rate", "seed", "loss", "error", "training_loss")


@dataclass(frozen=True)
class Pilot:
    """The trainings that choose; their cards count, their weights may be deleted.

    Attributes:
        jobs: by arm, seed and learning rate; none if nothing is tried.
        file: where what was chosen is kept, so that cards may be lost later.
    """

    jobs: Mapping[tuple[Arm, int, float], TrainJob]
    file: Path

    def missing(self) -> list[TrainJob]:
        """Those that are not over; none once it is chosen."""
        return [] if self.file.exists() else [job for job in self.jobs.values() if not _over(job)]

    def table(self) -> pd.DataFrame:
        """One row for each that is over: its loss and error on the images that were held out, NaN where it diverged."""
        rows = []
        for (arm, seed, rate), job in self.jobs.items():
            if card := card_of(job, job.card):
                found = card.found["test_loss"], card.found["test_error"], card.found["curve"][-1]["loss"]
                rows.append((arm.name, rate, seed, *(nan if value is None else value for value in found)))
            elif has_diverged(job):
                rows.append((arm.name, rate, seed, nan, nan, nan))
        return pd.DataFrame(rows, columns=[*_COLUMNS])

    def chosen(self) -> dict[str, float] | None:
        """The learning rate of each arm, of equals the lower; none if nothing is tried, None until all are over and
        where an arm diverged with every rate.

        Raises:
            RunError: what was kept is damaged.
        """
        if self.file.exists():
            return self._kept()
        table = self.table()
        if len(table) < len(self.jobs) or self.hopeless(table):
            return None
        rates, tried = {}, sorted({rate for _, _, rate in self.jobs})
        for arm, own in table.groupby("arm"):
            losses = [own.loc[own["learning_rate"] == rate, "loss"].mean(skipna=False) for rate in tried]
            rates[str(arm)] = tried[int(np.nanargmin(losses))]
        return rates

    def keep(self) -> None:
        """Write down what was chosen, once it is.

        Raises:
            RunError: an arm diverged with every rate.
        """
        if lost := self.hopeless(self.table()):
            raise RunError(f"{said_hopeless(lost)} Try lower ones, with another --out.")
        if not self.file.exists() and (rates := self.chosen()):
            write_text(self.file, json.dumps(rates, indent=2) + "\n")

    def at_edges(self) -> tuple[str, ...]:
        """One sentence for each arm whose rate is the lowest or the highest that was tried."""
        tried = sorted({rate for _, _, rate in self.jobs})
        said = "The {} learning rate that was tried, {:g}, is the best for {}: {} ones may be better."
        return tuple(
            said.format(*(("lowest", rate, arm, "lower") if rate == tried[0] else ("highest", rate, arm, "higher")))
            for arm, rate in (self.chosen() or {}).items()
            if rate in (tried[0], tried[-1])
        )

    def hopeless(self, table: pd.DataFrame) -> list[str]:
        """The arms that diverged with every rate that was tried, by the table; with one seed of each is enough."""
        lost = table[table["loss"].isna()].groupby("arm")["learning_rate"].nunique()
        return [
            str(arm) for arm in dict.fromkeys(table["arm"]) if lost.get(arm, 0) == len({r for _, _, r in self.jobs})
        ]

    def _kept(self) -> dict[str, float]:
        arms, tried = {arm.name for arm, _, _ in self.jobs}, {rate for _, _, rate in self.jobs}
        try:
            rates: dict[str, float] = json.loads(self.file.read_text(encoding="utf-8"))
            if {*rates} == arms and {*rates.values()} <= tried:
                return rates
        except (ValueError, TypeError, AttributeError):
            pass
        raise RunError(
            f"{self.file} is damaged or of another experiment. Take it from a copy, or delete it to have the rates "
            "chosen again."
        )


def said_hopeless(arms: Sequence[str]) -> str:
    """That some arms have no rate."""
    return f"{' and '.join(arms)} diverged with every learning rate."


def _over(job: TrainJob) -> bool:
    return bool(card_of(job, job.card)) or has_diverged(job)
