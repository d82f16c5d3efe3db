"""How the command line calls what messages of the library are about."""

from __future__ import annotations

import re

import click

_ELSEWHERE = {"recipe": "heal_settings", "training": "heal_data", "target": "exports"}
"""Parameters of the library that commands have under another name: that of theirs."""


def as_typed(message: str, command: click.Command | None) -> str:
    """A message about parameters of the library, `model_args`, as one about what is typed, `--model-arg`.

    Only names between backticks are meant, and of these only those that the command has; arguments are called as its
    usage calls them, `MODEL`.
    """
    typed = {} if command is None else {option.name: _typed(option) for option in command.params}
    typed |= {ours: typed[theirs] for ours, theirs in _ELSEWHERE.items() if theirs in typed and ours not in typed}
    return re.sub(r"`(\w+)`", lambda name: f"`{typed.get(name[1], name[1])}`", message)


def _typed(option: click.Parameter) -> str:
    if isinstance(option, click.Option):
        return max(option.opts, key=len)
    shown = re.search(r"[A-Z][A-Z|:]*", getattr(option, "metavar", None) or (option.name or "").upper())
    return shown[0] if shown else str(option.name)
