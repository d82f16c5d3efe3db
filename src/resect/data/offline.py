"""What is asked of the Hub where it may not answer: its libraries would try again for half a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

UNREACHABLE = "the Hub does not answer, and nothing of that name was kept from before"
_PATIENCE = 3.0  # seconds for an answer
_LASTS = 60  # seconds that it is taken for true


@contextmanager
def hub_or_cache(name: str) -> Iterator[bool]:
    """Let Hugging Face's libraries read only what they kept where the Hub does not answer, which is then True.

    Args:
        name: of what is read; a path is there without the Hub.
    """
    if Path(name).expanduser().exists():
        yield False
        return
    constants: Any = import_module("huggingface_hub.constants")
    holders = [constants, *([config] if (config := sys.modules.get("datasets.config")) else [])]
    before = [holder.HF_HUB_OFFLINE for holder in holders]
    offline = any(before) or not _answers(constants.ENDPOINT, int(time.monotonic()) // _LASTS)
    try:
        for holder in holders:
            holder.HF_HUB_OFFLINE = offline
        yield offline
    finally:
        for holder, value in zip(holders, before, strict=True):
            holder.HF_HUB_OFFLINE = value


@lru_cache(maxsize=8)
def _answers(endpoint: str, _: int) -> bool:
    session: Any = import_module("huggingface_hub.utils").get_session()
    try:
        session.head(endpoint, timeout=_PATIENCE)
    except Exception:  # of whichever library it speaks HTTP with
        return False
    return True
