"""resect takes trained residual networks apart.

The system behind Veit, Wilber, Belongie, "Residual Networks are Exponential Ensembles of Relatively Shallow Networks"
(arXiv 1605.06431), for any PyTorch model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resect._front import (
        ensemble,
        lesion,
        participation,
        path_spectrum,
        path_squares,
        sample_paths,
        shapley,
        strongest_paths,
    )
    from resect.allocator import keep_freed_memory
    from resect.data.samples import Samples
    from resect.data.specs import load_samples
    from resect.errors import (
        AccuracyError,
        ArrangementError,
        CheckpointError,
        DataError,
        ExportError,
        InputError,
        ResectError,
        RunError,
        SpecError,
    )
    from resect.graph.decisions import Variant
    from resect.jobs.compare import compare
    from resect.jobs.evaluate import evaluate
    from resect.jobs.study import study
    from resect.jobs.train import train
    from resect.models.specs import load_model
    from resect.network import schedules
    from resect.network.arrangement import Arrangement
    from resect.network.blocks import Block
    from resect.network.scheduled import Scheduled
    from resect.network.unraveled import Unraveled, unravel
    from resect.paths.participation import Participation
    from resect.paths.sampled import PathDraws
    from resect.paths.settings import PathSettings
    from resect.paths.spectrum import PathSpectrum
    from resect.paths.squares import PathSquares
    from resect.paths.strongest import StrongPaths
    from resect.runs.record import Record
    from resect.sweep import plans
    from resect.sweep.ensemble import EnsembleResult
    from resect.sweep.result import LesionResult
    from resect.sweep.settings import LesionSettings
    from resect.sweep.shapley import ShapleyResult

__version__ = "0.1.0"

_HOME = {
    "AccuracyError": "resect.errors",
    "Arrangement": "resect.network.arrangement",
    "ArrangementError": "resect.errors",
    "Block": "resect.network.blocks",
    "CheckpointError": "resect.errors",
    "DataError": "resect.errors",
    "EnsembleResult": "resect.sweep.ensemble",
    "ExportError": "resect.errors",
    "InputError": "resect.errors",
    "LesionResult": "resect.sweep.result",
    "LesionSettings": "resect.sweep.settings",
    "Participation": "resect.paths.participation",
    "PathDraws": "resect.paths.sampled",
    "PathSettings": "resect.paths.settings",
    "PathSpectrum": "resect.paths.spectrum",
    "PathSquares": "resect.paths.squares",
    "Record": "resect.runs.record",
    "ResectError": "resect.errors",
    "RunError": "resect.errors",
    "Samples": "resect.data.samples",
    "Scheduled": "resect.network.scheduled",
    "ShapleyResult": "resect.sweep.shapley",
    "SpecError": "resect.errors",
    "StrongPaths": "resect.paths.strongest",
    "Unraveled": "resect.network.unraveled",
    "Variant": "resect.graph.decisions",
    "compare": "resect.jobs.compare",
    "ensemble": "resect._front",
    "evaluate": "resect.jobs.evaluate",
    "keep_freed_memory": "resect.allocator",
    "lesion": "resect._front",
    "load_model": "resect.models.specs",
    "load_samples": "resect.data.specs",
    "participation": "resect._front",
    "path_spectrum": "resect._front",
    "path_squares": "resect._front",
    "plans": "resect.sweep.plans",
    "sample_paths": "resect._front",
    "schedules": "resect.network.schedules",
    "shapley": "resect._front",
    "strongest_paths": "resect._front",
    "study": "resect.jobs.study",
    "train": "resect.jobs.train",
    "unravel": "resect.network.unraveled",
}
_RENAMED = {"PathSamples": "PathDraws"}

__all__ = [
    "AccuracyError",
    "Arrangement",
    "ArrangementError",
    "Block",
    "CheckpointError",
    "DataError",
    "EnsembleResult",
    "ExportError",
    "InputError",
    "LesionResult",
    "LesionSettings",
    "Participation",
    "PathDraws",
    "PathSettings",
    "PathSpectrum",
    "PathSquares",
    "Record",
    "ResectError",
    "RunError",
    "Samples",
    "Scheduled",
    "ShapleyResult",
    "SpecError",
    "StrongPaths",
    "Unraveled",
    "Variant",
    "__version__",
    "compare",
    "ensemble",
    "evaluate",
    "keep_freed_memory",
    "lesion",
    "load_model",
    "load_samples",
    "participation",
    "path_spectrum",
    "path_squares",
    "plans",
    "sample_paths",
    "schedules",
    "shapley",
    "strongest_paths",
    "study",
    "train",
    "unravel",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `resect --help` does not wait for torch."""
    if name in _RENAMED:
        raise AttributeError(f"resect.{name} is now resect.{_RENAMED[name]}.")
    if name not in _HOME:
        raise AttributeError(f"module 'resect' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(_HOME[name])
    return module if name in ("plans", "schedules") else getattr(module, name)


def __dir__() -> list[str]:
    return list(__all__)
