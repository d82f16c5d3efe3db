"""What a trained network answered on test images, in a small file beside its card that takes the place of its weights.

The file is JSON: which images it errs on, a bit an image, with the digests of the images and of the weights. It is the
same on every machine, and is used for these images and these weights alone.
"""

from __future__ import annotations

import base64
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resect.digest import file_digest, key_digest
from resect.errors import DamagedError, ResectWarning, RunError
from resect.files import write_text
from resect.runs.record import Record

SUFFIX = ".outcomes.json"
SCHEMA = 1


@dataclass(frozen=True)
class ImageOutcomes:
    """On which images a network errs.

    Attributes:
        wrong: (N,) bool.
        training: the digest of what its training was asked.
        samples: that of the images.
        weights: the SHA-256 of the weights file.
    """

    wrong: np.ndarray
    training: str
    samples: str
    weights: str

    def write(self, file: Path) -> None:
        """Write them; the file appears whole or not at all."""
        content = {
            "schema": SCHEMA,
            "training": self.training,
            "samples": self.samples,
            "weights": self.weights,
            "images": len(self.wrong),
            "errors": int(self.wrong.sum()),
            "wrong": base64.b64encode(np.packbits(self.wrong).tobytes()).decode(),
        }
        write_text(file, json.dumps({**content, "digest": key_digest(content)}, indent=2) + "\n")

    @classmethod
    def read(cls, file: Path) -> ImageOutcomes:
        """Read them back.

        Raises:
            DamagedError: the file is not as it was written.
            RunError: another version wrote it.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if (schema := content["schema"]) != SCHEMA:
                raise RunError(
                    f"{file} must have the schema {SCHEMA}, got {schema!r}: another version of resect wrote it."
                )
            if content.pop("digest") != key_digest(content):
                raise ValueError
            packed = np.frombuffer(base64.b64decode(content["wrong"]), dtype=np.uint8)
            wrong = np.unpackbits(packed, count=content["images"]).astype(bool)
            return cls(wrong, content["training"], content["samples"], content["weights"])
        except RunError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"{file} is damaged.") from error


def outcomes_file(weights: Path) -> Path:
    """Where the outcomes of a network lie, whether its weights do so or not."""
    return weights.with_suffix(SUFFIX)


def training_digest(card: Record) -> str:
    """The digest of what the training of a card was asked."""
    return key_digest(card.asked)


def kept_outcomes(weights: Path, card: Record, samples: str, data: str) -> ImageOutcomes | None:
    """The outcomes that are kept of a network; None if it must be tested, and can be.

    Args:
        weights: its file, which may be gone.
        card: that of its training.
        samples: the digest of the images.
        data: their name.

    Raises:
        RunError: it must be tested, as the file of outcomes is damaged, or of something else or another version, but
            has no weights.
    """
    file, there = outcomes_file(weights), weights.is_file()
    if not file.is_file():
        return None
    try:
        kept = ImageOutcomes.read(file)
    except RunError as error:
        if not there:
            first = "Take it from a copy" if isinstance(error, DamagedError) else "Go on with that version"
            raise RunError(f"{error} {_ways(file, weights, first)}") from error
        warnings.warn(f"{error} The network is tested again.", ResectWarning, stacklevel=2)
        return None
    told, here = (kept.training, kept.samples), (training_digest(card), samples)
    if there:
        return kept if (*told, kept.weights) == (*here, file_digest(weights)) else None
    if kept.training != here[0]:
        way = _ways(file, weights, "Take both from one place")
        raise RunError(f"{file} is of another training than the card beside it. {way}")
    if kept.samples != here[1]:
        raise RunError(f"{file} is of other images than the {data} that are here. {_ways(file, weights, 'Use those')}")
    return kept


def _ways(file: Path, weights: Path, first: str) -> str:
    return (
        f"{first}, bring back {weights.name} to have it tested again, or delete {file.name} to have the network "
        "trained again."
    )
