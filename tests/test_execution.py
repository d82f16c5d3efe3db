"""How sweeps run: compiled, in another memory format, in batches that fit; never changing the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import resect
from conftest import randomise_norms
from networks import Encoder
from resect.models.resnet import CifarResNet
from resect.sweep import plans
from resect.sweep.batching import Choices, Trial, best, bytes_per_sample, trials
from resect.sweep.walk import Tour

IMAGES = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(8))
TARGETS = torch.randint(0, 10, (24,), generator=torch.Generator().manual_seed(9))
DATA = list(zip(IMAGES.split(10), TARGETS.split(10), strict=True))  # 10, 10, 4


@pytest.fixture
def small() -> CifarResNet:
    """A ResNet-8 of width 4: 3 blocks, 2 of them with projections."""
    return randomise_norms(CifarResNet(8, width=4, channels=1))


@pytest.mark.parametrize("name", ["resnet", "encoder"])
def test_compiled_and_channels_last_sweeps_agree(name: str, small: CifarResNet) -> None:
    net = resect.unravel(small if name == "resnet" else Encoder(1).eval(), IMAGES[:2])
    before = {key: (value.clone(), value.stride()) for key, value in net.model.state_dict().items()}
    plain = resect.lesion(net, DATA, plans.single(net))
    for settings in (
        resect.LesionSettings(channels_last=True),
        resect.LesionSettings(compile=True),
        resect.LesionSettings(compile=True, channels_last=True),
    ):
        other = resect.lesion(net, DATA, plans.single(net), settings)
        np.testing.assert_allclose(other.losses, plain.losses, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(other.intact["loss"], plain.intact["loss"], rtol=1e-3, atol=1e-4)
    after = net.model.state_dict()
    assert all(torch.equal(after[k], value) and after[k].stride() == stride for k, (value, stride) in before.items())


def test_compiled_means_and_other_samples(small: CifarResNet) -> None:
    net = resect.unravel(small, IMAGES[:2])
    for removal in ("mean", "other sample"):
        plan = plans.single(net).removing(removal)
        plain = resect.lesion(net, DATA, plan)
        other = resect.lesion(net, DATA, plan, resect.LesionSettings(compile=True))
        np.testing.assert_allclose(other.losses, plain.losses, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(small: CifarResNet, dtype: torch.dtype) -> None:
    single = resect.unravel(small, IMAGES[:2])
    expected = resect.lesion(single, DATA, plans.single(single))
    net = resect.unravel(small.to(dtype), IMAGES[:2].to(dtype))
    found = resect.lesion(net, [(x.to(dtype), y) for x, y in DATA], plans.single(net).removing("mean").removing("zero"))
    tolerance = 1e-4 if dtype is torch.float64 else 0.5
    np.testing.assert_allclose(found.losses, expected.losses, rtol=0.1 * tolerance, atol=tolerance)
    means = resect.lesion(net, [(x.to(dtype), y) for x, y in DATA], plans.single(net).removing("mean"))
    assert np.isfinite(means.losses).all()


@pytest.mark.parametrize(
    ("plan", "most"),
    [
        (plans.single, 2),
        (plans.pairs, 3),
        (plans.windows, 3),
        # A lesion decides 9 slots in two ways each, and the smaller part is run first: log2(number), rounded up.
        (lambda net: plans.random(net, range(1, 9), 40), 9),
    ],
)
def test_memory_does_not_grow_with_the_number_of_lesions(net, plan, most: int) -> None:
    made = plan(net)
    tour = Tour.of(net.programs, [*made.arrangements, net.intact])
    assert tour.states <= most
    visited = sorted(i for stop in tour.stops if not stop.ways for i in stop.group)
    assert visited == list(range(len(made) + 1))


def test_single_deletions_run_half_the_slices(net) -> None:
    n = len(net.blocks)
    tour = Tour.of(net.programs, [*plans.single(net).arrangements, net.intact])
    # Prelude; slot i is run by the intact network and by every deletion before it, and once without its branch; tails.
    assert len(tour.stops) == 1 + n + n * (n + 1) // 2 + (n + 1)


def test_an_estimate_of_memory_covers_what_a_slice_holds(net) -> None:
    # The first stage holds 4 channels of 8x8 floats: 1 KiB a value. At least the state and two values are alive.
    assert 3 * 1024 <= bytes_per_sample(net, states=1) <= 20 * 1024
    assert bytes_per_sample(net, states=5) == bytes_per_sample(net, states=1) + 4 * 1024


def test_batches_are_chosen_among_those_that_fit(net) -> None:
    each = bytes_per_sample(net, 2)
    choices = Choices.of(net, 500, states=2, memory=40 * each)
    assert set(choices.sizes) == {8, 16, 32}
    assert choices.formats == (False, True)
    assert Choices.of(net, 20, states=2).sizes == (20, 16, 8)
    settled = Choices.of(net, 500, states=2, size=7, channels_last=False)
    assert settled.settled and settled.sizes == (7,)
    with pytest.raises(resect.InputError, match="`memory` must hold a batch of 8"):
        Choices.of(net, 500, states=2, memory=each)
    found = list(trials(net, IMAGES, Choices.of(net, 24, states=2), states=2, budget=1e9))
    assert {(trial.batch_size, trial.channels_last) for trial in found} == {
        (size, layout) for size in (24, 16, 8) for layout in (False, True)
    }
    assert all(trial.seconds > 0 and trial.bytes == trial.batch_size * each for trial in found)
    assert list(trials(net, IMAGES, Choices.of(net, 24, states=2), states=2, budget=71)) == []


def test_the_smallest_of_equally_fast_batches_is_best() -> None:
    made = [Trial(64, False, 1.0, 1), Trial(32, False, 1.02, 1), Trial(16, True, 1.1, 1)]
    assert best(made) is made[1]
