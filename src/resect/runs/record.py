"""A run as a value: what was asked, what it was made of, and what was found. It is written, and read back, as a folder.

Everything that shows results reads records and nothing else; neither this module nor they need torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow

from resect.errors import DamagedError, RunError
from resect.figures.shown import first_rows
from resect.files import whole, write_text
from resect.runs.older import refuse_older
from resect.words import plural

SCHEMA = 1
FILE = "record.json"
_AGAIN = "The command that made the run makes it anew."
_PARTS = ("kind", "asked", "made_of", "environment", "command", "found")


@dataclass(frozen=True)
class Record:
    """One finished run.

    All values but the tables are plain: text, numbers, None (also for what is not finite), lists and mappings. Errors,
    damages, shares and fractions are fractions of 1, losses are in nats.

    Attributes:
        kind: the verb, e.g. "lesion".
        asked: the whole configuration; the same configuration makes the same run.
        made_of: digests of samples and networks.
        environment: machine, threads, versions, the seconds it took, and those of captures alone.
        command: makes the run again.
        found: the answers, and as "warnings" what makes them doubtful, in sentences.
        tables: frames by name.
    """

    kind: str
    asked: Mapping[str, Any]
    made_of: Mapping[str, Any]
    environment: Mapping[str, Any]
    command: str
    found: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _PARTS:
            object.__setattr__(self, name, plain(getattr(self, name)))
        tables = {name: table.reset_index(drop=True).map(_cell) for name, table in self.tables.items()}
        object.__setattr__(self, "tables", tables)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the answers doubtful, in sentences: random weights, an error at chance."""
        return tuple(self.found.get("warnings", ()))

    def __repr__(self) -> str:
        return f"<Record of {self.kind}: {self.command}>"

    def _repr_html_(self) -> str:
        tables = ", ".join(f"{name} ({plural(len(table), 'row')})" for name, table in self.tables.items())
        said = [self.command, str(self.found.get("summary", "")), f"Tables: {tables or 'none'}"]
        first = first_rows(next(iter(self.tables.values()))) if self.tables else ""
        return "".join(f"<p>{escape(line)}</p>" for line in said if line) + first

    def json(self, *, tables: bool = True) -> str:
        """The record as JSON, its tables as lists of rows."""
        content = {"schema": SCHEMA} | {name: getattr(self, name) for name in _PARTS}
        if tables:
            content["tables"] = {name: plain_rows(table) for name, table in self.tables.items()}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> None:
        """Write `record.json` and one parquet file a table; `record.json` comes last and marks the run as finished."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).unlink(missing_ok=True)  # of tables that are replaced
        for name, table in self.tables.items():
            with whole(folder / f"{name}.parquet") as temporary:
                table.to_parquet(temporary, index=False)
        content = json.loads(self.json(tables=False)) | {"tables": list(self.tables)}
        write_text(folder / FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path | str) -> Record:
        """Read a finished run back.

        Args:
            path: a run folder, or a model card, the .json file beside weights, which is the record of their training.

        Raises:
            RunError: there is none, it is damaged, or was written by another version.
        """
        folder = Path(path).parent if Path(path).name == FILE else Path(path)
        if folder.suffix == ".json" and folder.is_file():
            content = _content(folder)
            return cls(**{name: content[name] for name in _PARTS})
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise RunError(f"the run must be the folder of a finished run, or a model card, but {folder} {what}.")
        refuse_older(folder)
        file = folder / FILE
        if not file.is_file():
            raise RunError(
                f"{folder} must hold {FILE}, but does not: no run has finished there. Every verb writes it when it "
                "ends (`resect study`, others with --out)."
            )
        content = _content(file)
        tables = {name: _table(folder / f"{name}.parquet") for name in content["tables"]}
        return cls(**{name: content[name] for name in _PARTS}, tables=tables)


def finished(folder: Path) -> bool:
    """Whether a folder holds a finished run."""
    return (folder / FILE).is_file()


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        schema = content["schema"]
        missing = [name for name in (*_PARTS, "tables") if name not in content]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{file} is damaged. {_AGAIN}") from error
    if schema != SCHEMA:
        raise RunError(f"{file} must have the schema {SCHEMA}, got {schema!r}: another version of resect wrote it.")
    if missing:
        raise DamagedError(f"{file} is damaged: `{missing[0]}` is missing. {_AGAIN}")
    return dict(content)


def _table(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise DamagedError(f"there is no file {file}, which belongs to the run. {_AGAIN}")
    try:
        return pd.read_parquet(file)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DamagedError(f"{file} is damaged. {_AGAIN}") from error


def plain(value: Any) -> Any:
    """A value that JSON has: numbers keep all their digits, and those that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not isfinite(value) else value


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One mapping of plain values a row."""
    return [{str(name): plain(value) for name, value in row.items()} for row in table.to_dict("records")]


def _cell(value: Any) -> Any:
    """Lists in cells as tuples, as whoever wrote them had them; parquet gives arrays."""
    return tuple(np.asarray(value).tolist()) if isinstance(value, (list, tuple, np.ndarray)) else value
