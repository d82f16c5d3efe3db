"""resect takes trained residual networks apart.

The system behind Veit, Wilber, Belongie, "Residual Networks are Exponential Ensembles of Relatively Shallow Networks"
(arXiv 1605.06431), for any PyTorch model. `__init__.pyi` lists the public names; each is imported when it is first
used, so that `resect --help` does not wait for torch.
"""

from __future__ import annotations

from typing import Any

import lazy_loader

__version__ = "0.1.0"
_RENAMED = {"PathSamples": "PathDraws"}

_public, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = sorted([*_names, "__version__"])  # the stub has them


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        raise AttributeError(f"resect.{name} is now resect.{_RENAMED[name]}.")
    return _public(name)
