"""The front door."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import resect

PUBLIC = [
    "AccuracyError", "Arrangement", "ArrangementError", "Block", "Budget", "CheckpointError", "DataError",
    "EnsembleResult", "ExportError", "Exported", "FairShares", "FirstOrder", "Generation", "GenerationSettings", "Gram",
    "HealSettings", "Healing", "InputError", "LesionResult", "LesionSettings",
    "Participation", "PathDraws", "PathEnergy", "PathSettings", "PathSpectrum", "PathSquares",
    "PruneSettings", "Pruning", "Record",
    "ResectError", "RunError", "Samples", "Scheduled", "Scores", "ShapleyResult", "SpecError", "StrongPaths", "Task",
    "Unraveled", "Variant", "__version__", "calibrate", "compare", "ensemble", "evaluate", "export", "fair_shares",
    "first_order", "generation", "keep_freed_memory", "lesion", "load_model", "load_samples", "multiplicity",
    "participation", "path_energy", "path_spectrum", "path_squares", "plans", "prune", "reproduce", "robustness",
    "sample_paths", "schedules", "scores", "shapley", "strongest_paths", "study", "train", "unravel",
]  # fmt: skip


def test_public_names() -> None:
    assert resect.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(resect, name) is not None
    with pytest.raises(AttributeError, match="No resect attribute lesions"):
        _ = resect.lesions
    with pytest.raises(AttributeError, match=r"resect.PathSamples is now resect.PathDraws"):
        _ = resect.PathSamples


@pytest.mark.parametrize("first", ["import resect", "from resect.schedules import FixedCount; import resect"])
def test_modules_are_there_whatever_was_imported_before(first: str) -> None:
    code = f"{first}; print(resect.plans.single.__name__, resect.schedules.FixedCount.__name__)"
    code += "; from resect.plans import single; from resect.schedules import FixedCount, StochasticDepth"
    code += "; print(single is resect.plans.single, FixedCount is resect.schedules.FixedCount)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["single", "FixedCount", "True", "True"], done.stderr


def test_public_modules_hold_all_that_is_public() -> None:
    for public, module in ((resect.plans, "sweep.plans"), (resect.schedules, "network.schedules")):
        source = importlib.import_module(f"resect.{module}")
        own = {name for name, value in vars(source).items() if getattr(value, "__module__", None) == source.__name__}
        assert {name for name in own if name[0] != "_"} - {"is_number"} <= set(vars(public))


MEASURES = (
    "lesion", "scores", "shapley", "ensemble", "path_spectrum", "sample_paths", "path_squares", "participation",
    "strongest_paths", "fair_shares", "path_energy", "first_order",
    "generation", "prune",
)  # fmt: skip


def test_help_shows_the_documentation_and_the_signature_of_the_real_function() -> None:
    from resect.paths.sampled import sample_paths
    from resect.sweep.lesion import lesion

    assert inspect.signature(resect.lesion) == inspect.signature(lesion)
    assert resect.sample_paths.__doc__ == sample_paths.__doc__
    for name in MEASURES:
        function = getattr(resect, name)
        assert "Args:" in function.__doc__
        assert list(inspect.signature(function).parameters)[:2] == ["net", "data"]


def test_what_was_renamed_says_its_new_name(net) -> None:
    with pytest.raises(resect.InputError, match="`samples` of sample_paths is now `draws`"):
        resect.sample_paths(net, "digits", samples=3)
    with pytest.raises(resect.InputError, match="`arguments` of load_model is now `model_args`"):
        resect.load_model("resect:resnet8", arguments={"width": 4})
    with pytest.raises(resect.InputError, match="`arguments` of train is now `model_args`"):
        resect.train("digits", model="resnet8", arguments={"width": 4}, out="x.safetensors")


def test_what_the_command_line_does_the_library_does(tmp_path: Path) -> None:
    small = {"model_args": {"width": 4}, "limit": 30}
    record = resect.study(
        "resect:resnet8", "digits", **small, out=tmp_path / "run", repeats=1, draws=1, sweeps=1, gradient_samples=4,
        path_samples=4,
    )  # fmt: skip
    assert resect.Record.read(tmp_path / "run").found == record.found
    assert record.found["subject"]["blocks"] == 3
    card = resect.train("digits", model="resnet8", model_args={"width": 4}, epochs=1, out=tmp_path / "w.safetensors")
    assert resect.Record.read(tmp_path / "w.json").found == card.found
    networks = resect.evaluate("digits", f"resect:resnet8@{tmp_path / 'w.safetensors'}").tables["networks"]
    assert networks["error"][0] == card.found["test_error"]
    loaded = resect.load_model("resect:resnet8", checkpoint=tmp_path / "w.safetensors")
    assert sum(parameter.numel() for parameter in loaded.module.parameters()) == card.found["parameters"]
    assert len(resect.load_samples("digits", limit=7)) == 7
    with pytest.raises(resect.InputError, match="`epoch` must be an option of train"):
        resect.train("digits", model="resnet8", epoch=1, out=tmp_path / "v.safetensors")


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


def test_data_are_batches_a_spec_or_samples(net, batch) -> None:
    samples = resect.Samples("some", *batch, 10)
    plan = resect.plans.single(net)
    assert resect.lesion(net, samples, plan).table.equals(resect.lesion(net, [batch], plan).table)
