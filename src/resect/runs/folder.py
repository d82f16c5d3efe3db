"""A run folder: `run.yaml`, `parts/*.npz`, `record.json`, a parquet file a table, `figures/`, `report.html`.

Every finished piece of work is one immutable file whose name is a hash of all that determines it. A killed run started
again finds the finished pieces and does the rest.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from resect.digest import key_digest
from resect.engines.work import Arrays
from resect.errors import DamagedError, ResectWarning, RunError
from resect.files import whole, write_text
from resect.runs import lock
from resect.runs.older import refuse_older
from resect.runs.record import SCHEMA, Record, finished, plain

CONFIGURATION, _PIECES = "run.yaml", "parts"


class RunFolder:
    """One run on disk, and the store of its pieces of work. Nothing is written before the first piece is done.

    Args:
        path: the folder; it need not exist.
        kind: the verb.
        asked: everything that determines the results, as plain values.
        also: a file that makes a folder one of such runs, too, as its maker checks it.

    Raises:
        RunError: the folder holds a run with another configuration, or something else.
    """

    def __init__(self, path: Path, kind: str, asked: Mapping[str, Any], *, also: str = CONFIGURATION) -> None:
        self.path = path
        self.configuration = {"schema": SCHEMA, "kind": kind, "asked": plain(asked)}
        file = path / CONFIGURATION
        if path.is_dir():
            refuse_older(path)
        if file.exists():
            self._check_same(file)
        elif path.exists() and not path.is_dir():
            raise RunError(f"{path} must be a run folder, but is a file. Choose another --out.")
        elif (
            path.exists()
            and not (path / also).exists()
            and any(file.suffix not in (".tmp", ".lock") and file.name != _PIECES for file in path.iterdir())
        ):
            raise RunError(f"{path} must be a run folder or an empty one, but holds other files. Choose another --out.")
        existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if not existing.is_dir():
            raise RunError(f"{path} must be a folder that can be made, but {existing} is a file.")
        if not os.access(existing, os.W_OK) and not finished(path):
            raise RunError(f"{path} must be a folder that can be made, but {existing} cannot be written to.")

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes out; a finished run that cannot be written to is only read."""
        only_read = finished(self.path) and not os.access(self.path, os.W_OK)
        return nullcontext() if only_read else lock.locked(self.path)

    def open(self) -> None:
        """Make the folder and write its configuration, if that is still to be done."""
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / CONFIGURATION
        if not file.exists():
            write_text(file, yaml.safe_dump(self.configuration, sort_keys=False, allow_unicode=True))
        (self.path / _PIECES).mkdir(exist_ok=True)

    @property
    def begun(self) -> bool:
        """Whether it has the configuration of a run."""
        return (self.path / CONFIGURATION).exists()

    def give_up(self) -> None:
        """Forget what was asked for, as it cannot be done. Pieces that are done stay, for what is asked for next."""
        (self.path / CONFIGURATION).unlink(missing_ok=True)

    def _check_same(self, file: Path) -> None:
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise RunError(f"{file} is damaged. Delete the folder, or choose another --out.") from error
        if not isinstance(content, dict) or not isinstance(content.get("asked"), dict):
            raise RunError(f"{file} is damaged. Delete the folder, or choose another --out.")
        there, here = ({**run, **run["asked"], "asked": None} for run in (content, self.configuration))
        names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        names = [name for name in names if name in there or here[name]]  # an option that is newer than the run, and off
        if "kind" in names:  # of which the others follow
            names = ["kind"]
        if names:
            changes = ", ".join(f"{n}: {there.get(n)!r} there, {here.get(n)!r} here" for n in names[:3])
            raise RunError(f"{file.parent} holds a run with another configuration ({changes}). Choose another --out.")

    def get(self, key: Mapping[str, Any]) -> Arrays | None:
        """What was kept under a key; None if there is nothing, or a damaged file, whose piece is done again."""
        file = self._part(key)
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                kept = dict(arrays)  # reading checks the checksum of every array
        except FileNotFoundError:
            return None
        except Exception:  # numpy and zipfile raise nearly anything for bytes that are not theirs
            kept = {}
        if not kept:
            warnings.warn(f"{file} is damaged: its piece of work is done again.", ResectWarning, stacklevel=2)
        return kept or None

    def put(self, key: Mapping[str, Any], arrays: Arrays) -> None:
        """Keep a result; the file appears whole or not at all."""
        self.open()
        with whole(self._part(key)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def _part(self, key: Mapping[str, Any]) -> Path:
        return self.path / _PIECES / f"{key_digest(key)}.npz"

    def finished(self, made_of: Mapping[str, Any]) -> Record | None:
        """The record of this run if it is over.

        Raises:
            RunError: it was made of other samples or networks.
        """
        if not finished(self.path):
            return None
        try:
            record = Record.read(self.path)
        except DamagedError as error:
            warnings.warn(f"{error} It does so now.", ResectWarning, stacklevel=2)
            return None
        changed = [what for what in made_of if record.made_of.get(what) != plain(made_of[what])]
        if changed:
            raise RunError(
                f"{self.path} holds the {record.kind} of other {' and '.join(changed)} under the same names: a file "
                "has changed since. Choose another --out."
            )
        return record
