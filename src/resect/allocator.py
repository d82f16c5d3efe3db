"""Memory that operators give back, kept by the process.

On Linux, glibc returns large blocks to the system as soon as they are freed, and has every page mapped and zeroed anew
when the next operator asks for one. On the CPU that can take as long as the operators themselves.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_NEVER = 2**31 - 1
_LARGEST_BLOCK = 2**30


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next operators; True where that is possible (Linux with glibc).

    The command line calls it; a script may, once, before its first tensors.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK) and mallopt(_TRIM_THRESHOLD, _NEVER))
