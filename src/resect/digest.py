"""What tells tensors, networks, and the keys of pieces of work, from others."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the keys of run folders do without
    from torch import Tensor, nn


def tensors_digest(*tensors: Tensor) -> str:
    """SHA-256 of the tensors' dtypes, shapes and bytes."""
    import torch

    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        # numpy has no bfloat16, but every dtype can be read as bytes
        total.update(tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def fingerprint(module: nn.Module) -> str:
    """A hash of the names, dtypes, shapes and bytes of all weights and buffers, 32 hexadecimal digits."""
    state = module.state_dict() | dict(module.named_buffers(remove_duplicate=False))  # some are not in the state
    return hashlib.sha256(f"{list(state)}{tensors_digest(*state.values())}".encode()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else os.fspath(value)  # NumPy's numbers; paths


def key_digest(key: Mapping[str, Any]) -> str:
    """A hash of plain values (those that JSON has, and paths), 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=_plain).encode()).hexdigest()[:32]
