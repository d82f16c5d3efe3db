"""Batch statistics of networks that have none."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import resect
from resect.jobs.paths import PathsJob
from resect.measuring.calibration import calibrate
from resect.models.resnet import CifarResNet

TARGETS = torch.zeros(4, dtype=torch.long)


def test_statistics_are_those_of_the_data_and_all_else_stays() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10))
    model[1].momentum = 0.3
    model.eval()
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(12, 1, 8, 8)
    data = [(images[:6], torch.zeros(6)), (images[6:], torch.zeros(6))]
    assert calibrate(model, data) == 1
    halves = torch.stack([model[0](part).mean((0, 2, 3)) for part in images.split(6)])
    torch.testing.assert_close(model[1].running_mean, halves.mean(0))
    assert model[1].momentum == 0.3
    assert not any(part.training for part in model.modules())
    for name in before:
        assert ("running" in name or "tracked" in name) or torch.equal(before[name], model.state_dict()[name])
    assert calibrate(nn.Linear(2, 2), data) == 0
    with pytest.raises(resect.DataError, match="batches of at least 2 samples to measure batch norms on"):
        calibrate(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), [(images[:1], torch.zeros(1))])


def test_a_stand_alone_network_is_measured_as_update_bn_does(net: resect.Unraveled) -> None:
    small, other = (net.standalone(net.intact.without(2, 5)) for _ in range(2))
    data = [(torch.randn(6, 1, 8, 8), torch.zeros(6)) for _ in range(3)]
    assert calibrate(small, data) == 15  # 19 of the whole network, two of each block
    update_bn([images for images, _ in data], other)
    before = net.standalone(net.intact.without(2, 5)).state_dict()
    for name, value in small.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
        assert torch.equal(value, before[name]) != name.endswith(("running_mean", "running_var", "batches_tracked"))
    assert not any(part.training for part in small.modules())


def test_an_untrained_network_is_as_shallow_as_a_trained_one_once_its_norms_are_measured() -> None:
    """De & Smith 2020: batch norm makes branch l weigh about 1/l at birth; where it does nothing, all weigh alike."""
    torch.manual_seed(0)
    model = CifarResNet(56, width=4, channels=1).eval()
    data = list(resect.load_samples("digits", limit=32).batches(32))
    net = resect.unravel(model, data[0][0][:1])
    depth = resect.path_spectrum(net, data).multiplicity().effective_depth
    assert calibrate(model, data) == 55
    calibrated = resect.path_spectrum(net, data)
    assert calibrated.multiplicity().effective_depth < depth / 2
    kappa = resect.path_squares(net, data, sweeps=8).coherence(calibrated)
    assert (abs(kappa[:8] - 1) < 0.25).all()  # the paths of a length do not interfere yet


def test_the_command_line_measures_norms_first_and_warns_where_nobody_did() -> None:
    plain = PathsJob.from_options("resect:resnet8", "digits", {"limit": 16, "draws": 0, "sweeps": 0, "strongest": 0})
    said = plain.run(None).warnings
    assert any("Its batch norms have no statistics" in text and "--calibrate 256" in text for text in said)
    calibrated = PathsJob.from_options(
        "resect:resnet8", "digits", {"limit": 16, "calibrate": 16, "draws": 0, "sweeps": 0, "strongest": 0}
    )
    record = calibrated.run(None)
    assert not any("batch norms" in text for text in record.warnings)
    assert record.asked["calibrate"] == 16
    with pytest.raises(resect.InputError, match="`calibrate` must be"):
        PathsJob.from_options("resect:resnet8", "digits", {"calibrate": 1})


def test_what_has_no_statistics_to_measure_is_refused_by_name() -> None:
    model = CifarResNet(8, width=4, channels=1)
    with pytest.raises(
        resect.InputError, match=r"must be a torch.nn.Module, got Unraveled. Of a network, give net.model"
    ):
        resect.calibrate(resect.unravel(model, torch.zeros(2, 1, 8, 8)), [])
    resect.calibrate(model, [(torch.randn(4, 1, 8, 8), TARGETS)])
    before = copy.deepcopy(model.state_dict())
    for inputs in (torch.randn(4, 2, 8, 8), torch.randn(1, 1, 1, 1)):
        with pytest.raises(resect.DataError, match=r"`data` must (hold inputs that the model can run|have batches of)"):
            resect.calibrate(model, [(torch.randn(4, 1, 8, 8), TARGETS), (inputs, TARGETS)])
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    with pytest.raises(resect.DataError, match=r"^`data` must hold at least one .* batch, got none"):
        resect.calibrate(model, [])
