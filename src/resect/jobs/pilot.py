"""The learning rate of an arm: of some that are tried, the best on training images that were held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from resect.errors import RunError
from resect.jobs.design import Arm
from resect.jobs.train import TrainJob
from resect.models.specs import card_beside
from resect.runs.record import Record

_COLUMNS = ("arm", "learning_rate", "seed", "loss", "error", "training_loss")


@dataclass(frozen=True)
class Pilot:
    """The trainings that choose; their cards count, their weights may be deleted.

    Attributes:
        jobs: by arm, seed and learning rate; none if nothing is tried.
    """

    jobs: Mapping[tuple[Arm, int, float], TrainJob]

    def missing(self) -> list[TrainJob]:
        """Those that are not over."""
        return [job for job in self.jobs.values() if not _card(job)]

    def table(self) -> pd.DataFrame:
        """One row for each that is over: its loss and error on the images that were held out."""
        rows = []
        for (arm, seed, rate), job in self.jobs.items():
            if card := _card(job):
                measured = card.found["test_loss"], card.found["test_error"], card.found["curve"][-1]["loss"]
                rows.append((arm.name, rate, seed, *measured))
        return pd.DataFrame(rows, columns=[*_COLUMNS])

    def chosen(self) -> dict[str, float] | None:
        """The learning rate of each arm, of equals the lower; none if nothing is tried, None until all are over."""
        table = self.table()
        if len(table) < len(self.jobs):
            return None
        rates, tried = {}, sorted({rate for _, _, rate in self.jobs})
        for arm, own in table.groupby("arm"):
            losses = [own.loc[own["learning_rate"] == rate, "loss"].mean() for rate in tried]
            rates[str(arm)] = tried[int(np.argmin(losses))]
        return rates


def _card(job: TrainJob) -> Record | None:
    """The card of a training that is over, with its weights or without.

    Raises:
        InputError, RunError: the weights or the card are those of another.
    """
    if (card := job.finished()) or job.checkpoint.exists() or not job.card.is_file():
        return card
    card = card_beside(job.out)
    if card is None or not job.made(card):
        raise RunError(
            f"{job.card} must be the card of this training, but is {'damaged' if card is None else 'that of another'}. "
            "Take it from a copy, or delete it to train the network again."
        )
    return card
