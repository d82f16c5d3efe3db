"""Everything about the paths of one network: what `resect paths` measures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from resect.errors import DataError
from resect.jobs.environment import environment
from resect.jobs.measure import Bench
from resect.jobs.measure_paths import (
    lengths_table,
    measure_participation,
    measure_paths,
    measure_spectrum,
    measure_squares,
    measure_strongest,
)
from resect.network.unraveled import Unraveled
from resect.paths.participation import Participation
from resect.paths.samples import PathSamples
from resect.paths.settings import PathSettings
from resect.paths.spectrum import PathSpectrum
from resect.paths.squares import PathSquares
from resect.paths.strongest import StrongPaths
from resect.weights import load_checkpoint

_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class PathRequest:
    """What to measure.

    Attributes:
        samples: sampled single paths of each length and batch; 0 for none.
        sweeps: random signs a batch; 0 for none.
        strongest: how many of the strongest paths to search for; 0 for none.
        pairs: the share through each pair of blocks, too.
        max_length: the longest paths that are told apart.
        batch_size: samples at a time; the strongest paths are those of the first batch.
    """

    samples: int = 10
    sweeps: int = 4
    strongest: int = 10
    pairs: bool = False
    max_length: int | None = None
    batch_size: int = 32


@dataclass(frozen=True)
class PathsFound:
    """What was found; None for what was not asked for."""

    spectrum: PathSpectrum
    participation: Participation
    samples: PathSamples | None
    squares: PathSquares | None
    strongest: StrongPaths | None
    environment: dict[str, Any]

    @property
    def lengths(self) -> pd.DataFrame:
        """One row a path length, from all measures; root mean squares are those of all paths where signs were drawn."""
        return lengths_table(self.spectrum, self.samples, self.squares)


def run_paths(net: Unraveled, bench: Bench, request: PathRequest, settings: PathSettings) -> PathsFound:
    """Measure the paths of a network, or what a killed run has left to do.

    Raises:
        InputError: the network has no joins, or the request does not fit it.
        DataError: the samples do not fit the network, or the gradient is zero or not finite.
        AccuracyError: a result fails its own check.
    """
    spectrum = measure_spectrum(net, bench, "exact shares", settings, request.max_length)
    through = measure_participation(net, bench, request.pairs, "shares through blocks", settings)
    drawn, squares, strong = None, None, None
    if request.samples:
        drawn = measure_paths(net, bench, request.samples, "sampled single paths", settings)
    # Signs serve all lengths at once; where the shares stop early, there is no room for them.
    if request.sweeps and request.max_length is None:
        squares = measure_squares(net, bench, request.sweeps, "random signs", settings)
    if request.strongest:
        strong = measure_strongest(net, bench, request.strongest, "strongest paths", settings)
    return PathsFound(spectrum, through, drawn, squares, strong, environment())


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, in the order of the numbers in their names.

    Raises:
        DataError: there is none.
    """
    found = sorted((file for file in folder.glob("*") if file.suffix in _WEIGHTS), key=_natural)
    if not found:
        raise DataError(f"{folder} must hold checkpoints ({', '.join(_WEIGHTS)}), but there is none.")
    return found


def _natural(file: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", file.stem)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def over_training(
    net: Unraveled, checkpoints: list[Path], bench: Bench, settings: PathSettings, mass: float
) -> pd.DataFrame:
    """How the gradient's paths change over training.

    The network's own weights are put back at the end.

    Returns:
        One row a checkpoint: `checkpoint` (name), `low` and `high` (effective range, blocks), `effective_depth`,
        `log2_effective_paths`, `gradient` (root mean square norm over samples).
    """
    before = {name: value.clone() for name, value in net.model.state_dict().items()}
    rows = []
    try:
        for file in checkpoints:
            load_checkpoint(net.model, file)
            spectrum = measure_spectrum(net, bench, file.stem, settings)
            effective, size = spectrum.effective(mass), spectrum.multiplicity()
            rows.append(
                {
                    "checkpoint": file.stem,
                    "low": effective.low,
                    "high": effective.high,
                    "effective_depth": size.effective_depth,
                    "log2_effective_paths": size.log2_effective_paths,
                    "gradient": float((spectrum.squares.mean()) ** 0.5),
                }
            )
    finally:
        net.model.load_state_dict(before)
    return pd.DataFrame(rows)
