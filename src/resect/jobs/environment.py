"""What a run was made with: machine, threads, versions."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "resect",
    "torch",
    "accelerate",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "torchvision",
    "timm",
    "transformers",
)


def environment() -> dict[str, Any]:
    """Machine, processor, threads and versions of the packages that matter, as plain values."""
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **_torch(),
        "packages": {name: number for name in _PACKAGES if (number := _version(name)) is not None},
    }


def _torch() -> dict[str, Any]:
    """What torch computes with; nothing in a run that did without."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"threads": torch.get_num_threads(), "cuda": cuda}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
