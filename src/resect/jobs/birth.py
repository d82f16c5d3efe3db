"""What an arm of an experiment is before training: its sizes, and the paths that it starts with."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Any

import numpy as np
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from resect.data.samples import SampleSet
from resect.engines.local import Local
from resect.jobs.design import START, Arm
from resect.measuring.calibration import calibrate
from resect.models.specs import load_model
from resect.network.entrance import unravel
from resect.paths.energy import path_energy
from resect.paths.settings import PathSettings

_CALIBRATED, _IMAGES, _DRAWS = 256, 16, 8


def born(arm: Arm, samples: SampleSet, seed: int, engine: Local | None) -> dict[str, Any]:
    """The row of an arm in the table of a design: its sizes, and what is to be equal within a size.

    Args:
        samples: that the paths at birth are measured on, and that batch norms are calibrated on.
        seed: of the weights.
        engine: keeps the mean lengths of paths by energy, as the arm starts and as it would start without that; None
            leaves them out.
    """
    module = _network(arm, samples, seed, START)
    with FlopCounterMode(display=False) as counter:
        module(samples.first(1)[0])
    lengths = np.full(2, nan)
    if engine:
        key = {"birth": arm.name, "seed": seed, "samples": samples.digest()}
        lengths = engine.kept(key, lambda: {"lengths": _lengths(module, arm, samples, seed)})["lengths"]
    return {
        **arm.row(),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "norms": sum(isinstance(part, nn.BatchNorm2d) for part in module.modules()),
        "operations": counter.get_total_flops() // 2,
        "length_at_birth": float(lengths[0]),
        "length_without_start": float(lengths[1]),
    }


def _lengths(module: nn.Module, arm: Arm, samples: SampleSet, seed: int) -> np.ndarray:
    """(2,) of one capture with the weights of either start."""
    net, lengths = unravel(module, samples.first(2)[0]), []
    data = samples.limited(_IMAGES).batches(_IMAGES)
    for start in (START, {}):
        net.model.load_state_dict(_network(arm, samples, seed, start).state_dict())
        calibrate(net.model, samples.limited(_CALIBRATED).batches(_CALIBRATED))
        lengths.append(path_energy(net, data, PathSettings(precision=None), draws=_DRAWS).effective_depth)
    return np.array(lengths)


def _network(arm: Arm, samples: SampleSet, seed: int, start: Mapping[str, bool]) -> nn.Module:
    return load_model(f"resect:{arm.name}", model_args=dict(start), samples=samples, seed=seed).module
