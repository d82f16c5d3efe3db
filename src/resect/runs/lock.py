"""One process at a time in a run folder, or at a file."""

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

    Temporary files that a killed process has left behind are removed.

    Args:
        wait: until it is free, for what takes seconds.

    Raises:
        RunError: another process is at work in the folder.
    """
    with held(folder / FILE, folder, wait=wait) as alone:
        for place in (folder, folder / "parts", folder / "networks") if alone else ():
            for file in place.glob("*.tmp"):
                if _LEFT_BEHIND.fullmatch(file.name):
                    file.unlink(missing_ok=True)
        yield


@contextmanager
def held(lock: Path, what: Path, *, wait: bool = False) -> Iterator[bool]:
    """Keep other processes off what a lock file stands for; its folder is made, and goes again if it is left empty.

    The system gives the lock back when its process ends, however it ends.

    Args:
        what: it is named to those that come too late.
        wait: until it is free.

    Yields:
        Whether no other process can be at work; not known where the system or the disk knows no locks.

    Raises:
        RunError: another process is at work.
    """
    made = [place for place in lock.parents if not place.exists()]
    handle, alone = _acquire(lock, what, wait)
    try:
        yield alone
    finally:
        if not alone:  # Windows removes no file that is open
            os.close(handle)
        with suppress(OSError):
            lock.unlink()
        if alone:  # only now: whoever waits for the lock must see that its file is gone
            os.close(handle)
        with suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


def _acquire(file: Path, what: Path, wait: bool) -> tuple[int, bool]:
    """An open lock file, with the number and machine of this process to read, and whether only this one holds it."""
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            alone = _lock(handle, wait)
        except BlockingIOError:
            holder = os.read(handle, 500).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise RunError(
                f"{what} must be free, but {holder} is at work on it. Wait until it is done, or choose another --out."
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), file.stat()):
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return handle, alone
        os.close(handle)  # whoever had it removed the file in between


def _lock(handle: int, wait: bool) -> bool:
    """Lock an open file; False where the system or the disk knows no locks."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True
