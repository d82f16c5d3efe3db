"""`resect compare`: finished runs side by side by path length. It reads records, and needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from resect.errors import InputError, RunError
from resect.jobs.environment import environment
from resect.paths.measures import log2_effective, shortest_range
from resect.runs import lock
from resect.runs.command import command_line
from resect.runs.record import Record, finished

MOST = 8  # runs that a reader can tell apart in one figure
_NEEDED = ("length", "layers", "log2_paths", "share", "norm")
_OWN = ("record.json", "comparison.parquet", "figures", lock.FILE)


@dataclass(frozen=True)
class Summary:
    """What a comparison says about one run.

    Attributes:
        run: what tables and figures call it; no two runs of a comparison have the same name.
        model, data: the specs it was made with.
        blocks: the number of blocks.
        longest, layers: the length of the longest path in blocks and in weight layers.
        known: the greatest length, in blocks, whose share was measured.
        known_share: the part of the gradient that the lengths up to `known` hold.
        share_range: shortest range of lengths (low, high, inclusive) that holds the mass by exact share; None if the
            lengths up to `known` do not hold it.
        magnitude_range: the same by count x magnitude; None without sampled paths.
        effective_depth: mean length in blocks by share, of the lengths up to `known`.
        relative_depth: the same as a part of the longest path.
        log2_paths: binary logarithm of the number of all paths.
        log2_effective_paths: entropy, in bits, of the shares of single paths; see `resect.paths.measures`.
    """

    run: str
    model: str
    data: str
    blocks: int
    longest: int
    layers: float
    known: int
    known_share: float
    share_range: tuple[int, int] | None
    magnitude_range: tuple[int, int] | None
    effective_depth: float
    relative_depth: float
    log2_paths: float
    log2_effective_paths: float

    @classmethod
    def of(cls, run: str, record: Record, mass: float) -> Summary:
        """The numbers of one run; `mass`, 0 to 1 exclusive, is what its effective ranges hold."""
        table = record.tables["lengths"]
        share, log2_paths = table["share"].fillna(0).to_numpy(float), table["log2_paths"].to_numpy(float)
        parts = [name for name in ("share", "magnitude") if name in table]
        known = {name: np.where(log2_paths > -np.inf, table[name], 0.0) for name in parts}  # NaN where it is not
        longest = int(table["length"][log2_paths > -np.inf].max())
        depth = float(share @ np.arange(len(share)) / share.sum())
        return cls(
            run=run,
            model=str(record.asked["model"]),
            data=str(record.asked["data"]),
            blocks=len(table) - 1,
            longest=longest,
            layers=float(table["layers"][longest]),
            known=min(int(np.flatnonzero(np.isfinite(table["share"]))[-1]), longest),
            known_share=float(share.sum()),
            share_range=shortest_range(known["share"], mass, total=1.0),
            magnitude_range=shortest_range(known["magnitude"], mass, total=1.0) if "magnitude" in known else None,
            effective_depth=depth,
            relative_depth=depth / max(1, longest),
            log2_paths=float(np.logaddexp2.reduce(log2_paths)),
            log2_effective_paths=log2_effective(share, log2_paths),
        )


def change(first: Summary, other: Summary) -> dict[str, Any]:
    """How the first run of a comparison differs from another: its numbers minus those of the other."""
    here, there = first.share_range, other.share_range
    numbers = ("effective_depth", "relative_depth", "log2_effective_paths")
    return {
        "first": first.run,
        "other": other.run,
        "share_range": (here[0] - there[0], here[1] - there[1]) if here and there else None,
        **{name: getattr(first, name) - getattr(other, name) for name in numbers},
    }


@dataclass(frozen=True)
class CompareJob:
    """Runs to set side by side.

    Attributes:
        runs: 2 to 8 different folders of finished runs that hold a table `lengths`.
        labels: their names; by default the model, with the folder where two models are the same.
        mass: of the effective ranges.
    """

    runs: tuple[Path, ...]
    labels: tuple[str, ...] = ()
    mass: float = 0.95

    def run(self, out: Path | str | None = None) -> Record:
        """Compare them; an earlier comparison in `out` is replaced.

        Raises:
            InputError: too few or too many folders, a folder twice, or labels that do not fit.
            RunError: a folder holds no such run, or a damaged one; or `out` holds something else.
        """
        records = self._records()
        if out:
            require_own_folder(Path(out))
        names = self.labels or _names([str(record.asked["model"]) for record in records], self.runs)
        record = self.compared(dict(zip(names, records, strict=True)))
        if out:
            with lock.locked(Path(out), wait=True):
                record.write(Path(out))
        return record

    def compared(self, records: Mapping[str, Record]) -> Record:
        """The comparison of runs that have been read, by their names."""
        summaries = [Summary.of(name, record, self.mass) for name, record in records.items()]
        changes = [change(summaries[0], other) for other in summaries[1:]]
        warnings = [f"{name}: {warning}" for name, record in records.items() for warning in record.warnings]
        found = {"mass": self.mass, "runs": list(map(asdict, summaries)), "changes": changes, "warnings": warnings}
        folders = list(map(str, self.runs))
        asked = {"runs": folders, "labels": list(self.labels), "mass": self.mass}
        options = {"labels": self.labels, "mass": None if self.mass == CompareJob.mass else self.mass}
        command = command_line("compare", folders, options)
        made_of = {"runs": [record.made_of for record in records.values()]}
        # `run` comes first; a run lacks some columns, which are NaN
        lengths = pd.concat({name: record.tables["lengths"] for name, record in records.items()}, names=["run", None])
        table = lengths.reset_index(level="run").reset_index(drop=True)
        return Record("compare", asked, made_of, environment(), command, found, {"comparison": table})

    def _records(self) -> list[Record]:
        folders = self.runs
        if not 2 <= len(folders) <= MOST:
            raise InputError(f"`runs` must name 2 to {MOST} folders of finished runs, got {len(folders)}.")
        places = [folder.resolve() for folder in folders]
        for i, folder in enumerate(folders):
            if places[i] in places[:i]:
                raise InputError(f"`runs` must name different folders, got {folder} twice.")
        if self.labels and (len(self.labels) != len(folders) or len({*self.labels, ""}) <= len(self.labels)):
            raise InputError(
                f"`labels` must be given once a run, {len(folders)} times, with names that differ, got "
                f"{', '.join(map(repr, self.labels))}."
            )
        return [_with_lengths(folder) for folder in folders]


def require_own_folder(folder: Path) -> None:
    """Raise RunError if a folder holds anything but an earlier comparison, which may be replaced."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} must be a folder for the comparison, but is a file. Choose another --out.")
    others = sorted(file.name for file in folder.glob("*") if file.name not in _OWN and not file.name.endswith(".tmp"))
    if finished(folder) and Record.read(folder).kind != "compare":
        others.append("record.json")
    if others:
        raise RunError(
            f"{folder} must be empty or hold an earlier comparison, but holds other files ({others[0]}). "
            "Choose another --out."
        )


def _names(models: list[str], folders: Sequence[Path]) -> list[str]:
    """Each run's model, with the folder's name where models are the same, and the whole path where those are, too."""
    names = models
    for tails in ([folder.resolve().name for folder in folders], [str(folder) for folder in folders]):
        seen = Counter(names)
        named = zip(names, models, tails, strict=True)
        names = [f"{model} ({tail})" if seen[name] > 1 else name for name, model, tail in named]
    return names


def _with_lengths(folder: Path) -> Record:
    """The record of a run that has been measured by path length."""
    record = Record.read(folder)
    table = record.tables.get("lengths")
    if table is None:
        plain = record.kind in ("study", "paths")
        why = "a plain network, which has one path" if plain else f"`resect {record.kind}`, which measures no paths"
        raise RunError(
            f"{folder} holds a run of {why}. Compare runs of `resect study` and `resect paths --out`, of networks with "
            "residual joins."
        )
    file = folder / "lengths.parquet"
    numbers = table.select_dtypes("number")
    missing = [name for name in _NEEDED if name not in numbers]
    if missing:
        raise RunError(f"{file} must have numbers in a column `{missing[0]}`, but has none. Make the run again.")
    if not _sound(table):
        raise RunError(
            f"{file} must have one row for each length 0, 1, ..., and shares of the gradient up to some length, but "
            "does not. Make the run again."
        )
    return record


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


def compare(*runs: Path | str, labels: Sequence[str] = (), mass: float = 0.95, out: Path | str | None = None) -> Record:
    """Set finished runs side by side by path length, the first against every other.

    Args:
        runs: 2 to 8 folders of `resect study` or `resect paths --out`.
        labels: their names.
        mass: of the effective ranges, 0 to 1 exclusive.
        out: a folder for the record; an earlier comparison in it is replaced.

    Returns:
        A record: `found` has the numbers of `Summary` and `change`, the table `comparison` all lengths of all runs.

    Raises:
        ResectError: a run cannot be read, or is none by path length.
    """
    return CompareJob(tuple(map(Path, runs)), tuple(labels), mass).run(out)
