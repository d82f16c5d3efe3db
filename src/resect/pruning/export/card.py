"""The model card that lies in an exported folder: what was removed, why, by which command, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resect.files import write_text
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled
from resect.words import plural


@dataclass(frozen=True)
class Origin:
    """Where a pruned network comes from.

    Attributes:
        model: what it was made of, e.g. "hf:gpt2".
        command: that made it.
        measured: what is known of it before and after, in sentences or a table in Markdown.
        normalization: how pixels become its inputs, {"mean_std": "0.5/0.25"}; None if nothing says so.
    """

    model: str = ""
    command: str = ""
    measured: str = ""
    normalization: Mapping[str, Any] | None = None


def write_card(folder: Path, net: Unraveled, arrangement: Arrangement, proof: str, load: str, origin: Origin) -> None:
    """Write README.md; `load` are lines of Python that load the network."""
    gone = [name for name, decision in zip(arrangement.names, arrangement, strict=True) if decision is None]
    blocks = f"{len(gone)} of its {plural(len(arrangement), 'block')}"
    parts = [
        f"# {origin.model or type(net.model).__name__}, pruned",
        f"{type(net.model).__name__} without {blocks}:",
        "\n".join(f"- {name}" for name in gone),
        proof,
        f"## Load\n\n```python\n{load}\n```",
        f"## Measured\n\n{origin.measured}"
        if origin.measured
        else "How it compares with the whole network is not recorded.",
        f"## Made by\n\n    {origin.command}" if origin.command else "",
    ]
    write_text(folder / "README.md", "\n\n".join(part for part in parts if part) + "\n")
