"""The file of a plan: which blocks go, such that `resect prune MODEL DATA --plan FILE` removes them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from resect.errors import SpecError
from resect.pruning.options import OF_SEARCHES
from resect.runs.command import replaced_options
from resect.runs.record import Record

PLAN = "plan.yaml"
_SEARCHED = (
    *("remove", "params", "flops", "latency", "without", "plan", "export"),
    *OF_SEARCHES,
)  # what says what goes, and what does not go twice to the same place


def plan_text(record: Record) -> str:
    """The plan that a run of `resect prune` found."""
    content = {
        "model": record.asked["model"],
        "arrangement": record.found["arrangement"],
        "removed": record.found["removed"],
    }
    said = f"# {record.found['what']}; to remove them again: resect prune MODEL DATA --plan {PLAN}\n"
    return said + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=2**20)


def plan_command(record: Record, plan: Path) -> str:
    """The command that removes what a run did and measures it as the run did, without its search."""
    return replaced_options(record.command, _SEARCHED, {"plan": plan})


def read_plan(path: Path) -> str:
    """The arrangement of a plan's file, as text; whether a network can run it shows later.

    Raises:
        SpecError: there is no such file, or it is none of a plan.
    """
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"the plan {path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"the plan {path} must be a file in YAML with an `arrangement:`, but is none.") from error
    text = content.get("arrangement") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(text, str):
        raise SpecError(
            f"the plan {path} must name an `arrangement:` such as '0..2,-,4..53', as the {PLAN} of a run does, but "
            "names none."
        )
    return text
