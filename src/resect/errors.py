"""Every exception that resect raises on purpose.

ResectError
└── InputError (also a ValueError)      what the caller passed cannot be used
    ├── ExportError                     a model cannot be captured, or not be written in a format
    ├── ArrangementError                an arrangement cannot run on this network
    ├── SpecError                       a model or data specification is not understood
    ├── CheckpointError                 weights that do not fit, are damaged or are not finite
    ├── DataError                       samples that are empty, malformed or do not fit the model
    ├── RunError                        a run folder that belongs to another configuration, or is damaged
    │   └── DamagedError                a file of a finished run is missing or cannot be read
    └── AccuracyError                   a result that its own check refutes

ResectWarning (a UserWarning) says what was mended, and went on; a DoubtfulWarning what was probably not meant.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar

LIKE = 0.7  # how alike two names must be for one to be suggested in the place of the other
_P = ParamSpec("_P")
_R = TypeVar("_R")
_C = TypeVar("_C")


class ResectError(Exception):
    """Base of all exceptions of resect."""


class ResectWarning(UserWarning):
    """Something was wrong and is mended: a damaged file, whose work is done again."""


class DoubtfulWarning(ResectWarning):
    """Data or outputs can be measured, but are probably not what was meant."""


class InputError(ResectError, ValueError):
    """Something the caller passed cannot be used; the message says what, why and what to do."""


class DivergedError(InputError):
    """The loss of a training is no longer finite."""


class ExportError(InputError):
    """A model cannot be captured, neither by `torch.export` nor by recording a pass; or a format cannot hold it."""


class ArrangementError(InputError):
    """An arrangement cannot run on this network."""


class SpecError(InputError):
    """A model or data specification is not understood or cannot be built."""


class CheckpointError(InputError):
    """Weights do not fit the model, are damaged or are not finite."""


class DataError(InputError):
    """Samples are empty, malformed or do not fit the model."""


class RunError(InputError):
    """A run folder belongs to another configuration, or is damaged."""


class DamagedError(RunError):
    """A file of a finished run is missing or cannot be read; the command that made the run makes it anew."""


class AccuracyError(InputError):
    """A result fails its own check: in this precision it cannot be computed."""


@contextmanager
def said_of(name: str) -> Iterator[None]:
    """Have an InputError be about the argument that holds what is wrong: "`recipe`: batch_size must be ...".

    Raises:
        InputError: of the same kind, with the name before it.
    """
    try:
        yield
    except InputError as error:
        # names between backticks are parameters of what was called, and those within `name` are none
        raise type(error)(f"`{name}`: {str(error).replace('`', '')}") from error


Settings = TypeVar("Settings")


def settings_or_default(settings: Settings | None, kind: type[Settings]) -> Settings:
    """The settings given, or those by default; InputError if they are no `kind`."""
    if settings is None:
        return kind()
    if not isinstance(settings, kind):
        raise InputError(f"`settings` must be resect.{kind.__name__}(...), got {type(settings).__name__}.")
    return settings


def require_text(what: str, value: object, example: str, own: str) -> None:
    """Raise SpecError unless a spec is text.

    Args:
        own: what to do with an object of one's own.
    """
    if not isinstance(value, str):
        raise SpecError(f"{what} must be text such as {example!r}, got {type(value).__name__}. {own}")


def whole_number(value: object) -> int | None:
    """A whole number of any kind, NumPy's or a tensor's, too; None for what is none, as True."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # it says so
    except TypeError:
        return None


def require_whole(name: str, value: object, least: int = 1, error: type[InputError] = InputError) -> None:
    """Raise `error` unless `value` is a whole number from `least` to the largest of 64 bits."""
    number = whole_number(value)
    if number is None or not least <= number < 2**63:
        most = ", below 2^63" if number is not None and number >= 2**63 else ""
        raise error(f"`{name}` must be a whole number of at least {least}{most}, got {value!r}.")


def require_one_of(name: str, value: object, known: Collection[str], error: type[InputError] = InputError) -> None:
    """Raise `error` unless an argument called `name` is one of the known words."""
    if value not in known:
        raise error(f"`{name}` must be one of {', '.join(known)}, got {value!r}.")


def closest(name: str, known: Iterable[str]) -> str:
    """A sentence that names what is nearest, or nothing."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=LIKE)
    return f" Close: {', '.join(close)}." if close else ""


def require_known(owner: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise InputError unless all keyword arguments are known; it names what is nearest."""
    for name in names:
        if name not in known:
            raise InputError(f"`{name}` is no argument of {owner}.{closest(name, known) or f' It has {_list(known)}.'}")


def _list(names: Iterable[str]) -> str:
    return ", ".join(name for name in names if name != "self")


def suggesting(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function that refuses unknown keyword arguments with a sentence."""
    known = signature(function).parameters

    @wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        require_known(function.__qualname__.removesuffix(".__init__"), kwargs, known)
        return function(*args, **kwargs)

    return wrapped


def suggesting_settings(settings: type[_C]) -> type[_C]:
    """A class that is made of keyword arguments and refuses unknown ones with a sentence."""
    settings.__init__ = suggesting(settings.__init__)  # type: ignore[method-assign]  # same arguments
    return settings
