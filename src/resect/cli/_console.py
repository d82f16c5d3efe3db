"""Where the command line writes."""

from __future__ import annotations

from rich.console import Console


def console(*, stderr: bool = False) -> Console:
    """A console that shows names as they are: `x[b].safetensors` is no markup, and `py:m:net` no emoji."""
    return Console(stderr=stderr, markup=False, emoji=False)
