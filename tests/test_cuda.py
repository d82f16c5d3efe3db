"""The library on a GPU, against the CPU. RESECT_TEST_DEVICE names another device: with `cpu` all of these pass, too."""

from __future__ import annotations

import copy
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn import functional as F

import resect
from networks import Frame, Residual
from on_device import (
    DATA,
    DEVICE,
    MODELS,
    Pair,
    _resnets,
    alike,
    both,
    classes,
    close,
    float32_means_float32,
    gradients,
    images,
    logits,
    needs_device,
    nets,
    placed,
    resnet,
)
from resect.measuring import memory, timing
from resect.measuring.batches import batches_of
from resect.pruning.refit import fitted, position_weights
from resect.sweep.batching import Choices

__all__ = ["_resnets", "float32_means_float32", "nets"]  # fixtures
pytestmark = needs_device
ON_GPU = torch.device(DEVICE).type == "cuda"


@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_the_model_to_the_bit_and_that_of_the_cpu(name: str) -> None:
    make, example, blocks = MODELS[name]
    torch.manual_seed(0)
    net, cpu = both(make(), example)
    assert len(net.blocks) == len(cpu.blocks) == blocks
    here = placed(example)
    for arrangement in (net.intact, net.intact.without(1), net.intact.without(0, -1)):
        close(logits(net(here, arrangement)), logits(cpu(example, str(arrangement))), what=str(arrangement))
    small = net.without(1)
    assert {tensor.device.type for tensor in small.state_dict().values()} == {net.device.type}
    args, named = ((), here) if isinstance(here, dict) else ((here,), {})
    close(logits(small(*args, **named)), logits(net(here, net.intact.without(1))), 1e-6)
    check = net.check(here)
    assert check.identical, check  # last: what is not to the bit may be right all the same


def test_image_sizes_stay_free(nets: Pair) -> None:
    net, cpu = nets
    assert net.inputs[0].shape == cpu.inputs[0].shape == (None, 1, None, None)
    close(net(placed(images(2, size=12))), cpu(images(2, size=12)))


@pytest.mark.parametrize(
    "plan",
    [
        *("single", "pairs", "windows", "random", "shuffled", "reversed", "parallel"),
        *("skips", "repeated", "random_repeated", "bypassed"),
    ],
)
def test_sweeps(nets: Pair, plan: str) -> None:
    settings = resect.LesionSettings(metrics=("error", "loss", "agreement", "kl"))
    got, wanted = (resect.lesion(net, DATA, getattr(resect.plans, plan)(net), settings) for net in nets)
    alike(got.table, wanted.table)
    close(got.losses, wanted.losses)


def test_a_sweep_has_the_bits_of_whole_passes(nets: Pair) -> None:
    net = nets[0]
    plan = resect.plans.pairs(net)
    losses = resect.lesion(net, DATA[:1], plan).losses
    with torch.no_grad():
        for row, arrangement in zip(losses, plan.arrangements, strict=True):
            each = F.cross_entropy(net(placed(images()), arrangement), placed(classes()), reduction="none")
            assert np.array_equal(row, each.cpu().numpy())


@pytest.mark.parametrize("removal", ["mean", "other sample"])
def test_what_stands_for_deleted_branches(nets: Pair, removal: Any) -> None:
    got, wanted = (resect.lesion(net, DATA, resect.plans.single(net).removing(removal)) for net in nets)
    alike(got.table, wanted.table)


def test_sweeps_in_another_layout_and_fused(nets: Pair) -> None:
    net, cpu = nets
    wanted = resect.lesion(cpu, DATA, resect.plans.single(cpu))
    for settings in (resect.LesionSettings(channels_last=True), resect.LesionSettings(compile=True)):
        close(resect.lesion(net, [*DATA, *DATA], resect.plans.single(net), settings).losses[:, :9], wanted.losses)


@pytest.mark.parametrize("at", ["device", "cpu"])
def test_batches_may_lie_on_either_device(nets: Pair, at: str, own_accelerate: None) -> None:
    net, cpu = nets
    data = placed(DATA, DEVICE if at == "device" else "cpu")
    alike(
        resect.lesion(net, data, resect.plans.single(net)).table,
        resect.lesion(cpu, DATA, resect.plans.single(cpu)).table,
    )
    close(resect.path_spectrum(net, data).share, resect.path_spectrum(cpu, DATA).share)
    healing = resect.HealSettings(epochs=1, refit=True, recalibrate=True, candidates=1)
    learned = [(images(24) * 0.5, classes(24))]
    found = []
    for each, batches in ((net, data), (cpu, DATA)):
        AcceleratorState._reset_state(reset_partial_state=True)  # a process has one kind of device
        there = placed(learned, batches[0][0].device)
        found.append(resect.prune(each, batches, resect.Budget(remove=1), heal=healing, training=there))
    got, wanted = found
    assert got.arrangement == wanted.arrangement
    close(got.healing.table["healed"], wanted.healing.table["healed"], 1e-2)


TIMED = ("latency", "latency_low", "latency_high", "milliseconds", "intact_milliseconds", "processor")


def test_shapley_ensembles_and_scores(nets: Pair) -> None:
    alike(*(resect.shapley(net, DATA).table for net in nets))
    alike(*(resect.ensemble(net, DATA, 1, members=4).table for net in nets))
    alike(*(resect.scores(net, DATA).table for net in nets))


@pytest.mark.parametrize("search", ["greedy", "one-shot", "beam", "evolution", "pairwise", "exhaustive"])
def test_searches_find_the_same(nets: Pair, search: Any) -> None:
    settings = resect.PruneSettings(search=search)
    got, wanted = (resect.prune(net, DATA, resect.Budget(remove=2), settings) for net in nets)
    assert got.arrangement == wanted.arrangement
    alike(got.table, wanted.table, but=TIMED)


def test_a_budget_of_latency_is_timed_on_the_device(nets: Pair) -> None:
    found = resect.prune(nets[0], DATA, resect.Budget(latency=0.9))
    assert found.table["latency"].iloc[-1] < 1
    assert found.table["milliseconds"].iloc[-1] > 0


def test_timing_waits_for_the_device() -> None:
    device = torch.device(DEVICE)
    value = torch.randn(2048, 2048, device=device) / 2048**0.5
    products = 40 if ON_GPU else 1

    def run() -> None:
        nonlocal value
        for _ in range(products):
            value = value @ value
            value = value / value.norm()

    run()
    least = 2 * 2048**3 * products / 200e12  # no such device is faster in float32
    assert timing.seconds_of(run, device) > least
    assert timing.shortest(run, device) > least


def test_batches_fit_into_the_memory_of_the_device(nets: Pair) -> None:
    free = memory.free_bytes(torch.device(DEVICE))
    if ON_GPU:
        assert 0 < free <= torch.cuda.mem_get_info()[1]
        held = torch.empty(2**28, dtype=torch.uint8, device=DEVICE)
        assert memory.free_bytes(torch.device(DEVICE)) < free + 2**20
        del held  # PyTorch keeps it, and would give it again
        assert memory.free_bytes(torch.device(DEVICE)) > free - 2**27
    assert Choices.of(nets[0], 100, 2).sizes
    with pytest.raises(resect.InputError, match="`memory` must hold a batch of"):
        Choices.of(nets[0], 100, 2, memory=10)


def test_batch_norms_are_measured_on_the_device() -> None:
    here, cpu = placed(resnet()), resnet()
    data = [(images(8), classes(8)), (images(8) * 2, classes(8))]
    assert resect.calibrate(here, data) == resect.calibrate(cpu, data) > 0
    for name, value in cpu.state_dict().items():
        close(here.state_dict()[name], value, what=name)


@pytest.mark.parametrize("name", ["resnet", "encoder"])
def test_a_schedule_has_the_gradients_of_the_cpu(name: str) -> None:
    make, example, _ = MODELS[name]
    torch.manual_seed(0)
    nets = both(make().train(), example)
    for step in range(3):
        found = []
        for net in nets:
            inputs, targets = placed((images(), classes()), net.device)
            schedule = net.schedule(resect.schedules.FixedCount(2), seed=step)
            with schedule:
                found.append(
                    gradients(net.model, lambda net=net, x=inputs, y=targets: F.cross_entropy(net.model(x), y))
                )
        assert found[0].keys() == found[1].keys()
        whole = max(float(value.norm()) for value in found[1].values())
        for key, value in found[1].items():
            assert float((found[0][key] - value).norm()) < 1e-3 * max(whole * 1e-2, float(value.norm())), key


def test_a_schedule_on_what_accelerate_prepared(own_accelerate: None) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=not ON_GPU)
    model = resnet().train()
    net = resect.unravel(model.to(accelerator.device), images(2).to(accelerator.device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    inputs, targets = placed((images(), classes()), str(accelerator.device))
    before = copy.deepcopy(model.state_dict())
    with net.schedule(resect.schedules.StochasticDepth(0.5)) as scheduled:
        for _ in range(3):
            optimizer.zero_grad()
            accelerator.backward(F.cross_entropy(prepared(inputs), targets))
            optimizer.step()
        scheduled.fold()
    assert not torch.equal(before["fc.weight"], model.state_dict()["fc.weight"])
    model.eval()
    close(net(inputs), model(inputs), 1e-6)


def test_stand_alone_networks_train_move_and_are_saved(nets: Pair, tmp_path: Path) -> None:
    small, other = (net.without(1) for net in nets)
    for each, data in ((small, placed(DATA[0])), (other, DATA[0])):
        each.train()
        optimizer = torch.optim.SGD(each.parameters(), lr=0.01)
        F.cross_entropy(each(data[0]), data[1]).backward()
        optimizer.step()
        each.eval()
    close(small(placed(images())), other(images()), 1e-3)
    torch.save(small, tmp_path / "small.pt")
    back = torch.load(tmp_path / "small.pt", weights_only=False)
    assert torch.equal(back(placed(images())), small(placed(images())))
    close(small.cpu()(images()), back(placed(images())))
    assert resect.calibrate(back, [(images(8), classes(8))]) > 0


def test_a_network_is_copied_pickled_and_read_elsewhere(nets: Pair) -> None:
    net, cpu = nets
    twin = copy.deepcopy(net)
    assert twin.device == net.device
    assert torch.equal(twin(placed(images())), net(placed(images())))
    assert twin.fingerprint() == net.fingerprint()
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    read = torch.load(file, map_location="cpu", weights_only=False)
    assert read.device.type == "cpu"
    close(read(images()), cpu(images()), 1e-6)


@pytest.mark.parametrize("name", ["resnet", "encoder", "highway"])
def test_a_network_follows_its_model_to_another_device(name: str) -> None:
    make, example, _ = MODELS[name]
    torch.manual_seed(0)
    net, cpu = both(make(), example)
    here, wanted = net(placed(example)), cpu(example)
    net.model.cpu()
    cpu.model.to(DEVICE)
    assert cpu.device.type == torch.device(DEVICE).type
    close(net(example), wanted, 1e-6)
    close(cpu(placed(example)), here, 1e-6)


def test_inputs_elsewhere_are_refused(nets: Pair) -> None:
    elsewhere = "cpu" if ON_GPU else "meta"
    with pytest.raises(resect.InputError, match="`example` must be a batch that the model can run, got input 0"):
        resect.unravel(placed(resnet()), images(2).to(elsewhere))
    if ON_GPU:
        for call in (nets[0], nets[0].without(1)):
            with pytest.raises(resect.InputError, match="`inputs` must lie on the device of the network"):
                call(images(2))
        with pytest.raises(resect.InputError, match="`example` must be a batch that the model can run, got input 0"):
            resect.unravel(resnet(), images(2).to(DEVICE))


def test_autocast_is_followed_where_a_network_is_called(nets: Pair) -> None:
    net, inputs = nets[0], placed(images())
    with torch.no_grad(), torch.autocast(torch.device(DEVICE).type, torch.bfloat16):
        got, wanted = net(inputs), net.model(inputs)
    assert got.dtype == wanted.dtype
    close(got.float(), wanted.float(), 1e-2)
    assert not torch.equal(got.float(), net(inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    data = [(inputs.to(dtype), targets) for inputs, targets in DATA]
    net = resect.unravel(placed(resnet().to(dtype)), placed(data[0][0]))
    assert net.check(placed(data[0][0])).identical
    wide = resect.unravel(resnet().double(), images(2).double())
    wanted = resect.lesion(wide, [(x.double(), y) for x, y in DATA], resect.plans.single(wide))
    relative = {torch.bfloat16: 5e-2, torch.float16: 1e-2, torch.float64: 1e-6}[dtype]
    close(resect.lesion(net, data, resect.plans.single(net)).losses, wanted.losses, relative)
    if dtype == torch.float64:
        exact = resect.path_spectrum(wide, [(x.double(), y) for x, y in DATA]).share
        close(resect.path_spectrum(net, data).share, exact, 1e-8)


class Seen(nn.Module):
    """Random in train mode, and with a generator of its own on its device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.body, self.dropout = Frame(Residual(), Residual()), nn.Dropout(0.3)
        self.draws = torch.Generator(device).manual_seed(7)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.dropout(x))


def states(model: nn.Module) -> list[Any]:
    drawn = [torch.get_rng_state(), model.draws.get_state()] if hasattr(model, "draws") else [torch.get_rng_state()]
    drawn += [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [random.getstate(), np.random.get_state()[1].tolist(), *(state.tolist() for state in drawn)]  # type: ignore[index]


@pytest.mark.parametrize("device", sorted({DEVICE, "cpu"}))
def test_random_states_are_left_alone(device: str, own_accelerate: None) -> None:
    model = Seen(device).to(device).train()
    torch.rand(3, device=DEVICE)
    before = states(model)
    net = resect.unravel(model, images(2).to(device))
    resect.lesion(net, DATA, resect.plans.single(net).removing("other sample"))
    resect.path_spectrum(net, DATA)
    with net.schedule(resect.schedules.FixedCount(1)):
        pass
    if device == DEVICE:
        resect.prune(
            net,
            DATA,
            resect.Budget(remove=1),
            heal=resect.HealSettings(epochs=1),
            training=[(images(24) * 0.5, classes(24))],
        )
    assert states(model) == before


@pytest.mark.parametrize("name", ["resnet", "torchvision ViT"])
def test_fits_are_those_of_the_cpu(name: str) -> None:
    make, example, blocks = MODELS[name]
    torch.manual_seed(0)
    found = []
    for net in both(make(), example):
        shape = example.shape[1:]
        draws = torch.Generator().manual_seed(1)
        data = [(torch.randn(8, *shape, generator=draws), torch.randint(0, 3, (8,), generator=draws)) for _ in range(4)]
        batches = [*batches_of(placed(data, net.device), net)]
        arrangement = net.intact.without(blocks // 2)
        weights = position_weights(net, arrangement, batches)
        found.append((fitted(net, arrangement, batches, 0.1, weights=weights), weights))
    (got, counts), (wanted, others) = found
    assert set(got) == set(wanted)
    assert wanted
    for tensor, value in wanted.items():
        close(got[tensor], value, 1e-3, tensor)
    assert any(counts) == any(others) == (name != "resnet")
