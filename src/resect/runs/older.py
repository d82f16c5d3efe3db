"""Run folders of the layout before records: refused, with the command that makes them anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from resect.errors import RunError
from resect.runs.command import command_line
from resect.sweep.settings import PLANS_OF

# What each verb wrote last, and the verb.
_MARKS = {"answers.json": "study", "comparison.json": "compare", "summary.json": "lesion"}
_RENAMED = {"layout": "memory_format", "samples": "draws"}


def refuse_older(folder: Path) -> None:
    """Raise RunError if a folder holds a run of the older layout."""
    verb = next((verb for file, verb in _MARKS.items() if (folder / file).is_file()), None)
    if verb is None:
        return
    if verb == "lesion" and (folder / "lengths.parquet").is_file():
        verb = "paths"
    again = _command(verb, _configuration(folder), folder) if verb != "compare" else "resect compare RUN RUN"
    raise RunError(
        f"{folder} holds a run of an older version of resect, which this one does not read. Make it anew, in another "
        f"folder: {again}"
    )


def _configuration(folder: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _command(verb: str, asked: Mapping[str, Any], folder: Path) -> str:
    options = {_RENAMED.get(name, name): value for name, value in asked.items() if name not in ("model", "data")}
    if verb == "lesion":  # it kept the defaults of other plans, too
        plan = asked.get("plan", "single")
        options = {name: value for name, value in options.items() if plan in PLANS_OF.get(name, (plan,))}
    if verb == "study":  # these were no options
        options = {
            n: v for n, v in options.items() if n not in ("gradient_batch", "sweeps", "path_samples", "path_batch")
        }
    arguments = [str(asked.get("model", "MODEL")), str(asked.get("data", "DATA"))]
    return command_line(verb, arguments, {**options, "out": f"{folder}-new"})
