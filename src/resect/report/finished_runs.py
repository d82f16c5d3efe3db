"""Finished runs, read from their folders as far as a comparison by path length needs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import yaml

from resect.errors import InputError, RunError
from resect.runs.folder import CONFIGURATION

LENGTHS = "lengths.parquet"
MOST = 8  # runs that a reader can tell apart in one figure
_NEEDED = ("length", "layers", "log2_paths", "share", "norm")


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        name: what tables and figures call it; no two runs of a comparison have the same.
        model, data: the specs it was made with.
        folder: where it lies, as the user wrote it.
        lengths: one row a path length 0..n, in order, as `Study.lengths`. Shares beyond `known` are NaN.
    """

    name: str
    model: str
    data: str
    folder: Path
    lengths: pd.DataFrame

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return len(self.lengths) - 1

    @property
    def longest(self) -> int:
        """The length of the longest path: all blocks, unless some are parallel and exclude each other."""
        return int(self.paths["length"].max())

    @property
    def known(self) -> int:
        """The greatest length whose share was measured."""
        return int(np.flatnonzero(np.isfinite(self.lengths["share"]))[-1])

    @property
    def truncated(self) -> bool:
        """Whether there are paths longer than those measured."""
        return self.known < self.longest

    @property
    def paths(self) -> pd.DataFrame:
        """The lengths of which there are paths."""
        return self.lengths[self.lengths["log2_paths"] > -np.inf]


def read_runs(folders: Sequence[Path], labels: Sequence[str] = ()) -> tuple[Run, ...]:
    """Read the runs of a comparison.

    Args:
        folders: 2 to 8 different run folders that hold `lengths.parquet`.
        labels: their names; by default the model, with the folder where two models are the same.

    Raises:
        InputError: too few or too many folders, a folder twice, or labels that do not fit.
        RunError: a folder holds no such run, or a damaged one.
    """
    if not 2 <= len(folders) <= MOST:
        raise InputError(f"`RUN` must be given 2 to {MOST} times, got {len(folders)}. Name folders of finished runs.")
    places = [folder.resolve() for folder in folders]
    for i, folder in enumerate(folders):
        if places[i] in places[:i]:
            raise InputError(f"`RUN` must name different folders, got {folder} twice.")
    if labels and (len(labels) != len(folders) or len({*labels, ""}) <= len(labels)):
        raise InputError(
            f"`--label` must be given once a run, {len(folders)} times, with names that differ, got "
            f"{', '.join(map(repr, labels))}."
        )
    read = [(_read_lengths(folder), _read_configuration(folder)) for folder in folders]
    names = labels or _names([model for _, (model, _) in read], folders)
    return tuple(
        Run(name, model, data, folder, lengths)
        for name, folder, (lengths, (model, data)) in zip(names, folders, read, strict=True)
    )


def _names(models: list[str], folders: Sequence[Path]) -> list[str]:
    """Each run's model, with the folder's name where models are the same, and the whole path where those are, too."""
    names = models
    for tails in ([folder.resolve().name for folder in folders], [str(folder) for folder in folders]):
        seen = Counter(names)
        named = zip(names, models, tails, strict=True)
        names = [f"{model} ({tail})" if seen[name] > 1 else name for name, model, tail in named]
    return names


def _read_lengths(folder: Path) -> pd.DataFrame:
    """The table of a run, its columns of numbers."""
    file = folder / LENGTHS
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise RunError(f"`RUN` must be the folder of a finished run, but {folder} {what}.")
    if not file.is_file():
        raise RunError(
            f"{folder} must hold {LENGTHS}, but does not. `resect study` and `resect paths --out` write it when they "
            "end, for networks with residual joins."
        )
    try:
        table = pd.read_parquet(file).select_dtypes("number")
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise RunError(f"{file} is damaged. Make the run again.") from error
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise RunError(f"{file} must have numbers in a column `{missing[0]}`, but has none. Make the run again.")
    if not _sound(table):
        raise RunError(
            f"{file} must have one row for each length 0, 1, ..., and shares of the gradient up to some length, but "
            "does not. Make the run again."
        )
    return table


def _sound(table: pd.DataFrame) -> bool:
    """Whether a table is what the measures of a comparison take for granted."""
    share = table["share"].to_numpy(float)
    known = np.isfinite(share)
    return bool(
        table["length"].tolist() == list(range(len(table)))
        and np.isfinite(table["log2_paths"]).any()
        and known[: known.sum()].all()
        and not np.isinf(share).any()
        and (share > 0).any()
    )


def _read_configuration(folder: Path) -> tuple[str, str]:
    """`model` and `data` of a run."""
    file = folder / CONFIGURATION
    if not file.is_file():
        raise RunError(f"{folder} must hold {CONFIGURATION} beside {LENGTHS}, but does not. Make the run again.")
    try:
        found = yaml.safe_load(file.read_text())
        return str(found["model"]), str(found["data"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise RunError(f"{file} is damaged: it must name `model` and `data`. Make the run again.") from error


def long_table(runs: Sequence[Run]) -> pd.DataFrame:
    """All lengths of all runs: `run`, then the columns of their tables; NaN where a run lacks one."""
    tables = [run.lengths.assign(run=run.name) for run in runs]
    table = pd.concat(tables, ignore_index=True)
    return table[["run", *(name for name in table if name != "run")]]
