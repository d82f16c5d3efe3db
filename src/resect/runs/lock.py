"""One process at a time in a run folder."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from resect.errors import RunError

if sys.platform != "win32":
    import fcntl

FILE = "run.lock"
_LEFT_BEHIND = re.compile(r".+\.\d+\.[0-9a-f]{8}\.tmp")  # what `files.whole` writes to


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if it is not there, and goes again if it is left empty.

    The system gives the lock back when its process ends, however it ends; temporary files that a killed one has left
    behind are removed.

    Args:
        wait: until it is free, for what takes seconds.

    Raises:
        RunError: another process is at work in the folder.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    handle = _acquire(folder / FILE, wait)
    try:
        for place in (folder, folder / "parts", folder / "networks"):
            for file in place.glob("*.tmp"):
                if _LEFT_BEHIND.fullmatch(file.name):
                    file.unlink(missing_ok=True)
        yield
    finally:
        (folder / FILE).unlink(missing_ok=True)
        os.close(handle)
        with suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


def _acquire(file: Path, wait: bool) -> int:
    """An open lock file that only this process holds, with its number and machine for others to read."""
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle, wait)
        except BlockingIOError:
            holder = os.read(handle, 500).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise RunError(
                f"{file.parent} must be free, but {holder} is at work in it. Wait until it is done, or choose another "
                "--out."
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), file.stat()):
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return handle
        os.close(handle)  # whoever had it removed the file in between


def _lock(handle: int, wait: bool) -> None:
    """Lock an open file; where the system or the disk knows no locks, nothing is locked."""
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return
