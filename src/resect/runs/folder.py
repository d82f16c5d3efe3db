"""A run folder: `run.yaml`, `environment.json`, `parts/*.parquet`, `results.parquet`, `figures/`, `report.html`.

Every finished piece of work is one immutable parquet file whose name is a hash of all that determines it. A killed run
started again finds the finished pieces and does the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow
import yaml

from resect.errors import RunError
from resect.files import whole, write_text

CONFIGURATION = "run.yaml"


class RunFolder:
    """One run on disk. Nothing is written before the first piece of work is done, or `open` is called.

    Args:
        path: the folder; it need not exist.
        configuration: everything that determines the results, as plain values.

    Raises:
        RunError: the folder holds a run with another configuration, or something else.
    """

    def __init__(self, path: Path, configuration: Mapping[str, Any]) -> None:
        self.path = path
        self.configuration = dict(configuration)
        file = path / CONFIGURATION
        if file.exists():
            self._check_same(file)
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"{path} must be a run folder or an empty one, but holds other files. Choose another --out.")
        existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if not os.access(existing, os.W_OK):
            raise RunError(f"{path} must be a folder that can be made, but {existing} cannot be written to.")

    def open(self) -> None:
        """Make the folder and write its configuration, if that is still to be done."""
        (self.path / "parts").mkdir(parents=True, exist_ok=True)
        file = self.path / CONFIGURATION
        if not file.exists():
            write_text(file, yaml.safe_dump(self.configuration, sort_keys=False))

    def _check_same(self, file: Path) -> None:
        try:
            found = yaml.safe_load(file.read_text())
        except yaml.YAMLError as error:
            raise RunError(f"{file} is damaged. Delete the folder, or choose another --out.") from error
        if not isinstance(found, dict):
            raise RunError(f"{file} is damaged. Delete the folder, or choose another --out.")
        names = [n for n in {**found, **self.configuration} if found.get(n) != self.configuration.get(n)]
        if names:
            changes = ", ".join(f"{n}: {found.get(n)!r} there, {self.configuration.get(n)!r} here" for n in names[:3])
            raise RunError(f"{file.parent} holds a run with another configuration ({changes}). Choose another --out.")

    def piece(self, key: Mapping[str, Any], compute: Callable[[], pd.DataFrame]) -> tuple[pd.DataFrame, bool]:
        """The table of one piece of work, computed only if it is not there yet.

        Args:
            key: all that determines the piece (weights, samples, plan, ...), as plain values.

        Returns:
            The table, and whether it was found.
        """
        file = self.path / "parts" / f"{digest(key)}.parquet"
        if file.exists():
            try:
                return pd.read_parquet(file), True
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                raise RunError(f"{file} is damaged. Delete it; only its piece of work is done again.") from error
        table = compute()
        self.open()
        write_parquet(file, table)
        return table, False


@contextmanager
def given_or_scratch(folder: RunFolder | None) -> Iterator[RunFolder]:
    """The given run folder, or one that is gone afterwards."""
    if folder is not None:
        yield folder
        return
    with TemporaryDirectory() as scratch:
        yield RunFolder(Path(scratch) / "run", {})


def digest(key: Mapping[str, Any]) -> str:
    """A hash of plain values, 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:32]


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table so that the file appears whole or not at all."""
    with whole(path) as temporary:
        table.to_parquet(temporary, index=False)
