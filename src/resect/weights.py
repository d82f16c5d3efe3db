"""Read and write weights: safetensors, or PyTorch state dicts read with `weights_only=True`."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from resect.errors import CheckpointError
from resect.files import DAMAGED, whole

_NESTED = ("state_dict", "model", "model_state_dict", "module", "model_ema", "state_dict_ema", "ema")
_SHOWN = 3
CARD = "card"
"""The entry beside the tensors of a file that says, as JSON, what network they are of."""


def load_checkpoint(module: nn.Module, path: Path) -> None:
    """Load weights into `module`, which is unchanged if they do not fit.

    Args:
        path: a safetensors file, or a state dict saved by torch; it may be nested under "state_dict", "model",
            "module" (a training's .checkpoint) or "model_ema", and carry the prefixes "module." and "_orig_mod." in
            any order. Half precision is cast to the module's dtypes.

    Raises:
        CheckpointError: the file is missing or damaged, belongs to another network, or holds NaN or infinity.
    """
    expected = dict(module.state_dict().items())
    given = _bare(read_tensors(path), expected)
    given |= {name: given[other] for name, other in _tied(expected, given).items()}
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = [name for name in expected if name not in given and name not in counters]
    unexpected = [name for name in given if name not in expected]
    shapes = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in given and given[name].shape != expected[name].shape
    ]
    if missing or unexpected or shapes:
        problems = [
            f"{len(names)} {what}: {_some(names)}"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
            if names
        ]
        raise CheckpointError(
            f"{path} belongs to another network than {type(module).__name__}: {'; '.join(problems)}. "
            "Give the model spec and arguments that the checkpoint was made with."
        )
    _require_finite(given, str(path))
    module.load_state_dict({name: value.to(expected[name].dtype) for name, value in given.items()}, strict=False)


def _bare(given: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what DataParallel, averaging and torch.compile put into names; the form that fits best."""
    given = {name: value for name, value in given.items() if name != "n_averaged" or name in expected}
    forms = [given, {re.sub(r"(^|\.)_orig_mod\.", r"\1", name): value for name, value in given.items()}]
    while forms[-1] and all(name.startswith("module.") for name in forms[-1]):
        forms.append({name.removeprefix("module."): value for name, value in forms[-1].items()})
    return max(reversed(forms), key=lambda form: len(form.keys() & expected.keys()))


def _tied(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """For names that are missing because their tensor is another's, too (safetensors keeps one name): that other."""
    stored = {_place(value): name for name, value in expected.items() if name in given and value.numel()}
    keys = {name: _place(value) for name, value in expected.items() if name not in given}
    return {name: stored[key] for name, key in keys.items() if key in stored}


def _place(value: Tensor) -> tuple[Any, ...] | None:
    """Which memory a tensor shows, the same for tied ones; None if it has no values."""
    return (value.data_ptr(), value.shape, value.stride()) if value.numel() else None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name; CheckpointError if it is missing, damaged or no state dict."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder. Give the path of a safetensors file or a state dict.")
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}. Give the path of a safetensors file or a state dict.")
    try:
        if _is_torch_file(path):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            return load_file(path)
    except DAMAGED as error:
        # what torch says fills a page and advises to read it unsafely
        reason = f": {error}" if isinstance(error, SafetensorError) else ""
        raise CheckpointError(
            f"{path} must be a safetensors file or a state dict that torch can read safely, but it is damaged, "
            f"truncated or of another kind, such as a whole model{reason}. Save model.state_dict() again."
        ) from error
    return _state_dict(content, path)


def read_metadata(path: Path) -> dict[str, str]:
    """What was written beside the tensors of a safetensors file; nothing if it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except DAMAGED:
        return {}


def check_finite(module: nn.Module) -> None:
    """Raise CheckpointError if a parameter or buffer of `module` holds NaN or infinity."""
    _require_finite(module.state_dict(), type(module).__name__)


def save_weights(
    module: nn.Module, path: Path, dtype: torch.dtype | None = None, metadata: dict[str, str] | None = None
) -> None:
    """Write the state dict as safetensors; the file appears whole or not at all.

    Floating-point tensors are written in `dtype`, but as they are where a value is too large for it. Of tied ones, the
    first name is written; `load_checkpoint` finds the others.

    Raises:
        CheckpointError: with a `dtype`, a weight is not finite.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[Any, ...] | None] = set()
    for name, value in module.state_dict().items():
        if (place := _place(value)) in seen:
            continue
        seen |= {place} - {None}
        cast = value.to(dtype) if dtype and value.is_floating_point() else value
        tensors[name] = (cast if cast.isfinite().all() else value).detach().cpu().contiguous()
    if dtype:
        _require_finite(tensors, path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
        temporary.chmod(0o644)  # safetensors makes files that only their owner can read


def _is_torch_file(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # after the length of a header of safetensors, which may have the bytes of any other kind
        return False
    return zipfile.is_zipfile(path) or start[:1] == b"\x80" or start[:2] == b"PK"


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        others = (
            [str(k) for k, v in content.items() if not isinstance(v, Tensor)] if isinstance(content, Mapping) else []
        )
        which = f" with other entries: {_some(others)}" if others else ""
        raise CheckpointError(f"{path} must hold a state dict (names to tensors), got {type(content).__name__}{which}.")
    return dict(content)


def _require_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, value in tensors.items():
        bad = int((~torch.isfinite(value)).sum()) if value.is_floating_point() else 0
        if bad:
            raise CheckpointError(
                f"the weights of {where} must be finite, but `{name}` holds {bad} NaN or infinite "
                f"value{'s' if bad > 1 else ''} of {value.numel()}."
            )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
