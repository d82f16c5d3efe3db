"""Gradients along paths on a GPU, against the CPU. With RESECT_TEST_DEVICE=cpu all of these pass, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import resect
from networks import CUSTOM
from on_device import (
    DATA,
    Pair,
    _resnets,
    alike,
    both,
    encoders,
    float32_means_float32,
    images,
    language_model,
    needs_device,
    nets,
    placed,
    tokens,
)

__all__ = ["_resnets", "encoders", "float32_means_float32", "nets"]  # fixtures
pytestmark = needs_device
PATHS: dict[str, Callable[[resect.Unraveled, Any], Any]] = {
    "spectrum": resect.path_spectrum,
    "spectrum, up to a length": lambda net, data: resect.path_spectrum(net, data, max_length=1),
    "spectrum at a parameter": lambda net, data: resect.path_spectrum(
        net, data, resect.PathSettings(at=next(name for name, p in net.model.named_parameters() if p.ndim > 1))
    ),
    "spectrum of the target": lambda net, data: resect.path_spectrum(net, data, resect.PathSettings(of="target", at=1)),
    "sampled paths": lambda net, data: resect.sample_paths(net, data, draws=4),
    "random signs": lambda net, data: resect.path_squares(net, data, sweeps=4),
    "participation": lambda net, data: resect.participation(net, data, pairs=True),
    "fair shares": resect.fair_shares,
    "energy": lambda net, data: resect.path_energy(net, data, draws=4),
    "first order": resect.first_order,
    "strongest": lambda net, data: resect.strongest_paths(net, data, count=5),
    "strongest, searched": lambda net, data: resect.strongest_paths(net, data, count=3, limit=12),
}


@pytest.mark.parametrize("name", PATHS)
def test_paths_through_convolutions(nets: Pair, name: str) -> None:
    got, wanted = (PATHS[name](net, DATA) for net in nets)
    alike(got.table, wanted.table)
    assert getattr(got, "sum_error", 0) < 1e-5


@pytest.mark.parametrize("name", ["spectrum", "sampled paths", "participation", "energy", "strongest, searched"])
def test_paths_through_attention(encoders: Pair, name: str) -> None:
    got, wanted = (PATHS[name](net, DATA) for net in encoders)
    alike(got.table, wanted.table)


@pytest.mark.parametrize("gates", ["differentiated", "frozen"])
def test_paths_through_gates(gates: Any) -> None:
    torch.manual_seed(5)
    settings = resect.PathSettings(gates=gates)
    made = [resect.path_spectrum(net, DATA, settings) for net in both(CUSTOM["highway"][0]().eval(), images(2))]
    alike(made[0].table, made[1].table)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_language_model_is_lesioned_taken_apart_by_length_and_continued(kind: str) -> None:
    ids = tokens(4)
    data, nets = [({"input_ids": ids}, ids)], both(language_model(kind), {"input_ids": ids[:2]})
    assert [net.inputs[0].shape for net in nets] == [(None, None)] * 2, "batch and length must be free on both devices"
    for made in (
        lambda net: resect.lesion(net, data, resect.plans.single(net), task="next-token").table,
        lambda net: resect.path_spectrum(net, data, task="next-token").table,
        lambda net: resect.scores(net, data, task="next-token").table,
    ):
        alike(*map(made, nets))
    small = [net.intact.without(1) for net in nets]
    asked = resect.GenerationSettings(samples=2, tokens=3)
    made = [
        resect.generation(net, data * 2, gone, asked, task="next-token") for net, gone in zip(nets, small, strict=True)
    ]
    alike(made[0].table, made[1].table)


def test_rounding_to_tf32_stays_out_of_paths() -> None:
    torch.backends.cudnn.allow_tf32 = True  # the default
    loaded = resect.load_model("resect:resnet110-digits", samples=resect.load_samples("digits", limit=4))
    data = resect.load_samples("digits", limit=4).batches(4)
    net = resect.unravel(placed(loaded.module), placed(next(iter(data))[0]))
    assert resect.path_spectrum(net, data, max_length=4).sum_error < 1e-5
    assert torch.backends.cudnn.allow_tf32
