"""The command line. Verbs are imported when they are called, so that `resect --help` does not wait for torch."""

from __future__ import annotations

import errno
import signal
import sys
from importlib import import_module
from typing import Any

import click

import resect
from resect.allocator import keep_freed_memory
from resect.cli._names import as_typed
from resect.cli._process import noted_interrupts, warnings_shown, what_is_kept
from resect.errors import ResectError

_VERBS = {
    "study": "Everything about one network, into one run folder with a report.",
    "blocks": "List the residual blocks of a network.",
    "lesion": "Delete or reorder blocks, and measure what it does.",
    "scores": "What every block is worth, by several measures.",
    "prune": "Find the blocks that can go, and prove what that costs.",
    "paths": "The gradient by path length, exact and sampled.",
    "compare": "Overlay finished runs by path length.",
    "train": "Train a network, on all of its blocks or on some.",
    "reproduce": "The paper's claims, measured again, each with a verdict.",
    "multiplicity": "What the number of paths does to the error, all else equal.",
    "export": "Write a network without some blocks for other tools.",
    "evaluate": "Test error of networks side by side, with intervals.",
    "ls": "List runs.",
    "show": "Print the answers of a finished run.",
    "report": "Draw the figures and the page of a finished run again.",
}
_HOME = {"ls": "report", "show": "report"}  # verbs that share a module


class _Verbs(click.Group):
    """Imports a verb's module when it runs, and turns resect's errors into one sentence and exit status 2."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _VERBS:
            return None
        command: click.Command = getattr(import_module(f"resect.cli.{_HOME.get(name, name)}"), name)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))

    def invoke(self, context: click.Context) -> Any:
        keep_freed_memory()
        with warnings_shown(), noted_interrupts() as interrupts:
            try:
                return super().invoke(context)
            except BaseException as error:
                if interrupts or isinstance(error, KeyboardInterrupt):
                    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the impatient, while this is said
                    click.echo(f"Interrupted. {what_is_kept()}".rstrip(), err=True)
                    sys.exit(130)
                if (said := _explained(error)) is None:
                    raise
                if isinstance(error, ResectError) and context.invoked_subcommand:
                    said = as_typed(said, self.get_command(context, context.invoked_subcommand))
                click.echo(f"{click.style('error:', fg='red', bold=True)} {said}", err=True)
                sys.exit(2)


def _explained(error: BaseException) -> str | None:
    """One sentence for what users can mend; None for what is a fault of resect."""
    if isinstance(error, ResectError):
        return str(error)
    if not isinstance(error, OSError) or isinstance(error, BrokenPipeError):
        return None
    what = f"{error.filename} cannot be used: {error.strerror}" if error.filename else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{what}. Make room, and give the same command again."
    return f"{what}. Choose another path." if error.filename else f"{what}."


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(resect.__version__, prog_name="resect")
def main() -> None:
    """resect takes trained residual networks apart."""
