"""What the trainings of an experiment came to: cards, outcomes and paths, those that diverged, and the table of all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from resect.data.samples import SampleSet
from resect.errors import InputError, RunError
from resect.files import write_text
from resect.jobs.mediators import MEASURES, TrainedPaths, columns_of
from resect.jobs.outcomes import ImageOutcomes
from resect.jobs.train import TrainJob
from resect.models.specs import card_beside
from resect.runs.record import Record, plain

_TRAINING = ("arm", "seed", "error", "training_loss", "training_error", "seconds")


@dataclass(frozen=True)
class Trained:
    """The test images, cards, outcomes and paths by arm and seed, the table of the pilot, and what diverged."""

    samples: SampleSet
    cards: dict[tuple[str, int], Record]
    outcomes: dict[tuple[str, int], ImageOutcomes]
    paths: dict[tuple[str, int], TrainedPaths]
    pilot: pd.DataFrame
    diverged: tuple[tuple[str, int], ...] = ()
    capture_seconds: None = None

    @property
    def made_of(self) -> dict[str, Any]:
        """Digests of samples and weights, whose paths are known, and how many trainings of the pilot are over."""
        networks = [own.weights for own in self.outcomes.values()]
        pilot = {"pilot": len(self.pilot)} if len(self.pilot) else {}
        lost = {"diverged": [list(pair) for pair in self.diverged]} if self.diverged else {}
        paths = sorted(map(str, self.paths))
        return {"samples": self.samples.digest(), "networks": networks, "paths": paths, **pilot, **lost}


def trainings_table(
    cards: Mapping[tuple[str, int], Record],
    outcomes: Mapping[tuple[str, int], np.ndarray],
    paths: Mapping[tuple[str, int], TrainedPaths],
) -> pd.DataFrame:
    """One row a training."""
    rows = []
    for (arm, seed), card in cards.items():
        last, error = card.found["curve"][-1], float(outcomes[arm, seed].mean())
        seconds = card.environment["seconds"]
        rows.append(
            {
                "arm": arm,
                "seed": seed,
                "error": error,
                "training_loss": last["loss"],
                "training_error": last["error"],
                "seconds": seconds,
                **columns_of(paths.get((arm, seed))),
            }
        )
    return pd.DataFrame(rows, columns=[*_TRAINING, *MEASURES])


def card_of(job: TrainJob, proof: Path) -> Record | None:
    """The card of a training that is over: its weights are there, or `proof` is, which takes their place.

    Raises:
        RunError: there are weights, or the proof, but the card is not that of this training.
    """
    try:
        if (card := job.finished()) or not proof.is_file():
            return card
    except InputError as error:
        if (card := card_beside(job.out)) is not None:
            raise
        raise _lost(job, job.out, damaged=True) from error
    card = card_beside(job.out)
    if card is None or not job.made(card):
        raise _lost(job, proof, damaged=card is None)
    return card


def _lost(job: TrainJob, proof: Path, *, damaged: bool) -> RunError:
    return RunError(
        f"{job.card} must be the card of this training, which {proof.name} is of, but is "
        f"{'missing or damaged' if damaged else 'that of another'}. Take it from a copy, or delete {proof.name} to "
        "train the network again."
    )


def keep_diverged(job: TrainJob) -> None:
    """Keep that the loss of a training was no longer finite, which is an outcome, too."""
    job.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(_mark(job), json.dumps(plain(job.asked), indent=2) + "\n")
    job.checkpoint.unlink(missing_ok=True)


def _mark(job: TrainJob) -> Path:
    """The file that says that a training diverged."""
    return job.out.with_suffix(".diverged.json")


def has_diverged(job: TrainJob) -> bool:
    """Whether a training is known to have diverged."""
    try:
        return bool(json.loads(_mark(job).read_text(encoding="utf-8")) == plain(job.asked))
    except (OSError, ValueError):
        return False
