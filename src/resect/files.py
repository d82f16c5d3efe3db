"""Files that appear whole or not at all, and what is raised by those that do not."""

from __future__ import annotations

import os
import pickle
import re
import secrets
import shutil
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

# What safetensors, torch.load and pickle raise for files that are cut short or of another kind.
DAMAGED = (
    SafetensorError,
    RuntimeError,
    EOFError,
    ValueError,
    IndexError,
    KeyError,
    OSError,
    struct.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)


_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # as safetensors says it


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; at the end the file is synced and renamed to `path`, or else removed.

    Raises:
        OSError: it cannot be written; of `path`, whoever raised it.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")  # nobody else's
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError, RuntimeError) as error:
        if (number := _number(error)) is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to write to; at the end it is renamed to `path`, new or empty, or else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _number(error: BaseException) -> int | None:
    """The system's number of an error; torch raises another one while it closes the file."""
    if isinstance(error.__context__, OSError):
        error = error.__context__
    said = _OS_ERROR.search(str(error))
    number: int | None = int(said[1]) if said else getattr(error, "errno", None)
    return number


def write_text(path: Path, text: str) -> None:
    """Write text so that the file appears whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes so that the file appears whole or not at all."""
    with whole(path) as temporary:
        temporary.write_bytes(content)
