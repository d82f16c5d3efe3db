"""The file that a stopped training goes on from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from resect.errors import RunError
from resect.files import DAMAGED, whole


class Stateful(Protocol):
    """A module, an optimizer or a scheduler of the learning rate."""

    def state_dict(self) -> dict[str, Any]:
        """Its state as plain values and tensors."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Take up a state."""


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        step: steps done.
        seconds: of training, earlier sittings included.
        totals: summed loss, wrong answers and answers of the epoch that is not yet over.
        curve: for every epoch that is over its number, mean loss and error of its training batches, and seconds.
    """

    step: int = 0
    seconds: float = 0.0
    totals: tuple[float, float, float] = (0.0, 0.0, 0.0)
    curve: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Kept:
    """Where and how often a training is kept.

    Attributes:
        path: the file; None to keep nothing.
        every: seconds after which it is written at the next multiple of ten steps; after every epoch it is anyway.
        network: what tells the network from others with the same shapes (its spec and arguments).
    """

    path: Path | None = None
    every: float = 30.0
    network: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """One file that holds everything a training needs to go on, to the same bits.

    Order of the samples, augmentation, dropout and schedule depend on the recipe's seed and the number of the step
    alone, so that no state of a generator has to be kept.

    Attributes:
        path: None to keep nothing.
        made_with: recipe, digest of the data and so on, which a checkpoint must share to be gone on from.
    """

    path: Path | None
    made_with: dict[str, Any]

    def save(self, parts: dict[str, Stateful], progress: Progress) -> None:
        """Write the file; it changes as a whole or not at all."""
        if self.path is None:
            return
        content = {name: part.state_dict() for name, part in parts.items()} | self.made_with | vars(progress)
        import torch

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole(self.path) as temporary, temporary.open("wb") as file:  # a file says what the disk refuses
            torch.save(content, file)

    def resume(self, parts: dict[str, Stateful]) -> Progress:
        """Take up the file, if there is one.

        Raises:
            RunError: it is damaged, or was made with another recipe, network or data.
        """
        if self.path is None or not self.path.exists():
            return Progress()
        content = _read(self.path)
        for what, wanted in self.made_with.items():
            there = content.get(what)
            if there != wanted:
                said = "" if what == "data" else f", {wanted}, got {there}"
                if isinstance(wanted, dict) and isinstance(there, dict):
                    different = [name for name in wanted if there.get(name) != wanted[name]]
                    said = " with " + ", ".join(f"{name} {wanted[name]}, got {there.get(name)}" for name in different)
                raise RunError(f"{self.path} must belong to this {what}{said}. Delete it to start anew.")
        try:
            for name, part in parts.items():
                part.load_state_dict(content[name])
            return Progress(**{name: content[name] for name in vars(Progress())})
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"{self.path} must belong to this network; it does not fit. Delete it to start anew."
            ) from error


def _read(path: Path) -> dict[str, Any]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:  # of the disk, which may be read again
        raise
    except DAMAGED as error:
        raise RunError(
            f"{path} must be a checkpoint of a training, but cannot be read: it is cut short, damaged or of another "
            "kind. Delete it to start anew."
        ) from error
    if not isinstance(content, dict):
        raise RunError(
            f"{path} must be a checkpoint of a training, got {type(content).__name__}. Delete it to start anew."
        )
    return content
