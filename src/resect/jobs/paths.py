"""`resect paths`: the gradient of one network by path length, through blocks, and along single paths."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from resect.data.normalization import how_read
from resect.digest import file_digest
from resect.errors import DataError, InputError
from resect.jobs.asked import PathsAsked
from resect.jobs.job import Answer, Job, Lab, Subject
from resect.measuring.batches import batches_of
from resect.measuring.calibration import calibrate, has_untouched_norms
from resect.network.unraveled import Unraveled
from resect.paths.carry import carry_gates
from resect.paths.energy import path_energy
from resect.paths.fair import NODES, fair_shares
from resect.paths.first_order import first_order
from resect.paths.measures import Effective, log2_effective
from resect.paths.participation import Participation, participation
from resect.paths.sampled import PathDraws, sample_paths
from resect.paths.settings import PathSettings, passing, require_paths
from resect.paths.spectrum import PathSpectrum, path_spectrum
from resect.paths.squares import PathSquares, path_squares
from resect.paths.strongest import strongest_paths
from resect.weights import load_checkpoint

_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")
_SIGNS = 4  # draws for the energy of blocks, of two passes each, for every sweep
_RMS_NAMES = {  # the columns of random signs under the names that sampled root mean squares have
    "rms": "path_norm_rms",
    "rms_low": "path_norm_rms_low",
    "rms_high": "path_norm_rms_high",
    "rms_magnitude": "magnitude_rms",
}


@dataclass(frozen=True)
class PathsJob(PathsAsked, Job):
    """Measurements along the paths of one network."""

    @property
    def settings(self) -> PathSettings:
        """What is differentiated, where, and in how much memory."""
        return PathSettings(self.at, self.of, self.memory, self.source.seed, self.gates, self.precision)

    def prepare(self, lab: Lab) -> Subject:
        """Load and unravel the network, and load the samples.

        Raises:
            InputError: the network has no skips.
            DataError: there are no checkpoints.
        """
        files = checkpoints_in(self.checkpoints) if self.checkpoints else []
        digests = {file.name: file_digest(file) for file in files}
        subject = replace(lab.subject(self.source), more={"checkpoints": digests} if files else {})
        require_paths(subject.net)
        return subject

    def answer(self, subject: Subject, lab: Lab) -> Answer:
        """Measure the paths.

        Raises:
            InputError: what is asked for does not fit the network.
            DataError: the samples do not fit the network, or the gradient is zero or not finite.
            AccuracyError: a result fails its own check.
        """
        samples = subject.samples
        bench = _Bench(subject.net, samples.batches(self.batch_size), self, lab)
        first = next(batches_of(bench.data, subject.net, self.task))
        spectrum = bench.measure(path_spectrum, "exact shares", max_length=self.max_length)
        through = bench.measure(participation, "shares through blocks", 2, pairs=self.pairs)
        draws = bench.measure(sample_paths, "sampled single paths", draws=self.draws) if self.draws else None
        fair = bench.measure(fair_shares, "fair shares of blocks", 2 * NODES + 2)
        slopes = bench.measure(first_order, "first-order changes")
        squares = energy = None
        # Signs serve all lengths at once: where shares stop, there is no room.
        if self.sweeps and self.max_length is None:
            squares = bench.measure(path_squares, "random signs", self.sweeps, sweeps=self.sweeps)
            signs = _SIGNS * self.sweeps
            energy = bench.measure(path_energy, "energy through blocks", 2 * signs, draws=signs)
        found, tables = self._numbers(spectrum, through, draws, squares)
        found["skip_share"] = fair.skip_share
        found |= {"sweeps": squares.draws, "sweeps_error": squares.error} if squares else {"sweeps": 0}
        for each in (fair.table.rename(columns=_fair_names), slopes.table, *([energy.table] if energy else [])):
            tables["blocks"] = tables["blocks"].merge(each.drop(columns="name"), on="block")
        carry = carry_gates(subject.net, bench.data, task=self.task, engine=lab.engine)
        if carry is not None:
            tables["blocks"]["carry"] = carry.mean(0)
        found["log2_paths_by_blocks"] = through.log2_effective_paths
        found["energy_depth"] = energy.effective_depth if energy else None
        if self.strongest:
            alone = replace(bench, data=[samples.first(self.batch_size)])
            paths = alone.measure(strongest_paths, "strongest paths", count=self.strongest)
            held = dict(zip(("held", "held_low", "held_high"), paths.held, strict=True))
            found["strongest"] = {
                "summary": paths.summary(),
                "proven": paths.proven,
                "open": paths.open,
                "bound": paths.bound,
                **held,
            }
            tables["strongest"] = paths.table
        if self.checkpoints:
            tables["training"] = bench.over_training(checkpoints_in(self.checkpoints))
        found |= {**how_read(samples), "task": first.task.meaning(first.targets).as_dict()}
        return Answer(found, tables, subject.warnings)

    def _numbers(
        self, spectrum: PathSpectrum, through: Participation, draws: PathDraws | None, squares: PathSquares | None
    ) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
        within = None if draws is None else log2_effective(spectrum.share, draws.log2_paths_within)
        found: dict[str, Any] = {
            "at": spectrum.at,
            "samples": len(spectrum.squares),
            "mass": self.mass,
            "longest": spectrum.longest,
            "known": int(np.isfinite(spectrum.share).sum()) - 1,
            "sum_of_shares": float(np.nansum(spectrum.share)),
            "rest": spectrum.rest_share,
            "sum_error": spectrum.sum_error,
            "effective": _range(lambda: spectrum.effective(self.mass)),
            "effective_interval": spectrum.effective_interval(self.mass),
            "effective_pooled": _range(lambda: spectrum.effective(self.mass, pooled=True)),
            "effective_samples": spectrum.effective_samples,
            "residual": _residual(spectrum, self.mass),
            "effective_by_energy": _range(lambda: squares.effective_energy(self.mass)) if squares else None,
            "effective_by_magnitude": _range(lambda: draws.effective(self.mass)) if draws else None,
            "effective_by_rms": _range(lambda: squares.effective(self.mass)) if squares else None,
            "multiplicity": vars(spectrum.multiplicity()),
            "log2_effective_paths_within": within,
        }
        tables = {"lengths": lengths_table(spectrum, draws, squares), "blocks": through.table}
        if through.pairs is not None:
            tables["pairs"] = pd.DataFrame(through.pairs, columns=list(map(str, range(len(through.names)))))
        return found, tables


def lengths_table(spectrum: PathSpectrum, draws: PathDraws | None, squares: PathSquares | None) -> pd.DataFrame:
    """One row a length, from all measures; root mean squares are those of all paths where signs were drawn."""
    table = spectrum.table
    if draws is not None:
        table = table.merge(draws.table, on="length")
    if squares is not None:
        table = table.drop(columns=["path_norm_rms", "magnitude_rms"], errors="ignore")
        table = table.merge(squares.table.rename(columns=_RMS_NAMES), on="length")
        table = table.merge(squares.coherence_table(spectrum), on="length")
    return table


def _fair_names(column: str) -> str:
    return column.replace("share", "fair_share")


def _residual(spectrum: PathSpectrum, mass: float) -> dict[str, float] | None:
    """What the effective range misses of a sample's gradient, as a part of its norm, and its cosine, on average."""
    ends = _range(lambda: spectrum.effective(mass))
    if ends is None:
        return None
    low, high = ends["low"], ends["high"]
    missed, cosine = (each(low, high) for each in (spectrum.gram.residual, spectrum.gram.cosine))
    return {"missed": float(np.nanmean(missed)), "cosine": float(np.nanmean(cosine))}


@dataclass(frozen=True)
class _Bench:
    """One network, its samples in batches, and bars for what is measured on them."""

    net: Unraveled
    data: Any
    job: PathsJob
    lab: Lab

    def measure(self, function: Callable[..., Any], title: str, passes: int = 1, **options: Any) -> Any:
        """What a function finds, with a bar for so many passes through all joins a batch."""
        bar = self.lab.track(title, passing(self.net) * passes * len(self.data))
        options |= {"task": self.job.task, "progress": bar, "engine": self.lab.engine}
        return function(self.net, self.data, self.job.settings, **options)

    def over_training(self, checkpoints: list[Path]) -> pd.DataFrame:
        """How the gradient's paths change over training; the network's own weights are put back at the end.

        Returns:
            One row a checkpoint: `checkpoint` (name), `low` and `high` (effective range, blocks; NaN where the lengths
            told apart do not hold so much), `effective_depth`, `log2_effective_paths`, `gradient` (root mean square
            norm over samples). A checkpoint without batch statistics, that of before training, is calibrated first on
            these samples.
        """
        model = self.net.model
        before = {name: value.clone() for name, value in model.state_dict().items()}
        rows = []
        try:
            for file in checkpoints:
                load_checkpoint(model, file)
                if has_untouched_norms(model):
                    calibrate(model, self.data)
                spectrum = self.measure(path_spectrum, file.stem, max_length=self.job.max_length)
                size = spectrum.multiplicity()
                effective = _range(partial(spectrum.effective, self.job.mass)) or {"low": nan, "high": nan}
                rows.append(
                    {
                        "checkpoint": file.stem,
                        "low": effective["low"],
                        "high": effective["high"],
                        "effective_depth": size.effective_depth,
                        "log2_effective_paths": size.log2_effective_paths,
                        "gradient": float((spectrum.squares.mean()) ** 0.5),
                    }
                )
        finally:
            model.load_state_dict(before)
        return pd.DataFrame(rows)


def _range(effective: Callable[[], Effective]) -> dict[str, Any] | None:
    """An effective range; None where the lengths that were told apart do not hold so much."""
    try:
        return vars(effective())
    except InputError:
        return None


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, in the order of the numbers in their names.

    Raises:
        DataError: there is none.
    """
    files = sorted((file for file in folder.glob("*") if file.suffix in _WEIGHTS), key=_natural)
    if not files:
        raise DataError(f"{folder} must hold checkpoints ({', '.join(_WEIGHTS)}), but there is none.")
    return files


def _natural(file: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", file.stem)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
