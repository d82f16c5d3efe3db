"""What the command line does to its process: interruptions, warnings, and libraries that are to be silent."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from resect.errors import ResectWarning

_KEPT = "resect.kept"
_SILENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}


def when_interrupted(kept: Callable[[], str]) -> None:
    """Have an interruption of this command say what is kept and what is lost."""
    click.get_current_context().meta[_KEPT] = kept


def what_is_kept() -> str:
    """What `when_interrupted` was told."""
    said: str = click.get_current_context().meta.get(_KEPT, str)()
    return said


_noted: list[int] = []


def stop_if_interrupted() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed, and Python has lost its first one in a callback of its own."""
    if _noted:
        raise KeyboardInterrupt


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """Give a list that holds an entry once Ctrl-C was pressed.

    Code that is interrupted while it imports may turn KeyboardInterrupt into any other error, or a RecursionError.
    """
    _noted.clear()

    def note(number: int, frame: FrameType | None) -> None:
        _noted.append(number)
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield _noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield _noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Show resect's own warnings as one sentence each, and those of others as they are."""
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, ResectWarning):
            click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {message}", err=True)
        else:
            others(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ResectWarning)
        warnings.showwarning = show
        yield


@contextmanager
def silent_libraries() -> Iterator[None]:
    """No warnings, logs or progress bars of libraries that are imported from now on; resect's own warnings stay."""
    level, before = logging.root.manager.disable, {name: os.environ.get(name) for name in _SILENT}
    os.environ.update(_SILENT)
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ResectWarning)
        try:
            yield
        finally:
            logging.disable(level)
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
