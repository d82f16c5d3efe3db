"""The weights of a healed network in a run folder, and how they come back into the whole network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from resect.digest import file_digest
from resect.errors import CheckpointError, RunError
from resect.weights import read_tensors, save_weights

FILE = "healed.safetensors"


def keep_weights(network: nn.Module, folder: Path) -> str:
    """Write the weights of a healed stand-alone network; returns the digest of the file."""
    save_weights(network, folder / FILE)
    return file_digest(folder / FILE)


def put_back(model: nn.Module, folder: Path, digest: str) -> None:
    """Give the model that was cut the healed weights of all that stays, in place.

    Raises:
        RunError: they are not those of the run.
        CheckpointError: they do not fit the model.
    """
    file = folder / FILE
    if not file.is_file() or file_digest(file) != digest:
        raise RunError(
            f"{file} must hold the healed weights of the run, but {'others lie there' if file.is_file() else 'is gone'}"
            ". Put them back, or run the command again into a new folder."
        )
    there, healed = model.state_dict(), read_tensors(file)
    for name, value in healed.items():
        if name not in there or there[name].shape != value.shape:
            raise CheckpointError(f"{file} belongs to another network: its `{name}` does not fit.")
    model.load_state_dict(healed, strict=False)
