"""The front door."""

from __future__ import annotations

import subprocess
import sys

import pytest

import resect

PUBLIC = [
    "AccuracyError", "Arrangement", "ArrangementError", "Block", "CheckpointError", "DataError", "EnsembleResult",
    "ExportError", "InputError", "LesionResult", "LesionSettings", "Participation", "PathSamples", "PathSettings",
    "PathSpectrum", "PathSquares", "ResectError", "RunError", "Scheduled", "ShapleyResult", "SpecError",
    "StrongPaths", "Unraveled", "Variant", "__version__", "ensemble", "keep_freed_memory", "lesion", "participation",
    "path_spectrum", "path_squares", "plans", "sample_paths", "schedules", "shapley", "strongest_paths",
    "unravel",
]  # fmt: skip


def test_public_names() -> None:
    assert resect.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(resect, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lesions'"):
        _ = resect.lesions


def test_importing_is_light() -> None:
    code = "import sys, resect; assert not {'torch', 'pandas', 'matplotlib'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_data_may_be_a_spec(resnet) -> None:
    import torch

    net = resect.unravel(resnet, torch.zeros(1, 1, 8, 8))
    result = resect.lesion(net, "digits", resect.plans.explicit(net, [net.intact]))
    assert result.errors.shape == (1, 500)
    assert result.table["damage"][0] == 0


def test_errors_are_one_tree() -> None:
    for name in PUBLIC:
        if name.endswith("Error"):
            assert issubclass(getattr(resect, name), resect.ResectError)
