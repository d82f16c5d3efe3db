"""Blocks that come and go while a network trains: which run, what they leave alone, and what eval mode computes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import resect
from resect.models.resnet import CifarResNet
from resect.network.schedules import NAMES, FixedCount, Full, Progressive, Schedule, StochasticDepth, named
from resect.network.unraveled import Unraveled


def draws(schedule: Schedule, blocks: int, steps: range) -> list[frozenset[int]]:
    return [schedule.running(blocks, step, torch.Generator().manual_seed(step)) for step in steps]


@given(blocks=st.integers(1, 60), data=st.data())
def test_a_fixed_count_runs_exactly_that_many_blocks(blocks: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, blocks))
    for drawn in draws(FixedCount(keep), blocks, range(5)):
        assert len(drawn) == keep
        assert drawn <= set(range(blocks))
    assert FixedCount(keep).survival(blocks) == (keep / blocks,) * blocks


def test_every_block_runs_equally_often_under_a_fixed_count() -> None:
    counts = torch.zeros(9)
    for drawn in draws(FixedCount(4), 9, range(900)):
        counts[list(drawn)] += 1
    # binomial with p = 4/9: 5 standard deviations of 900 draws
    assert (counts - 400).abs().max() < 5 * (900 * 4 / 9 * 5 / 9) ** 0.5


def test_stochastic_depth_survives_as_the_paper_says() -> None:
    # Huang et al. 2016, section 3: p_l = 1 - l/L (1 - p_L); with L = 54 and p_L = 0.5 about 40 blocks run.
    survival = StochasticDepth(0.5).survival(54)
    assert survival[-1] == 0.5
    assert survival[0] == pytest.approx(1 - 0.5 / 54)
    assert sum(survival) == pytest.approx(40.25)
    counts = torch.zeros(54)
    for drawn in draws(StochasticDepth(0.5), 54, range(600)):
        counts[list(drawn)] += 1
    expected = torch.tensor(survival)
    assert ((counts / 600 - expected).abs() < 5 * (expected * (1 - expected) / 600).sqrt() + 1e-6).all()


@given(blocks=st.integers(1, 60), steps=st.integers(1, 50), data=st.data())
def test_progressive_grows_to_the_whole_network(blocks: int, steps: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, blocks))
    schedule = Progressive(keep, steps)
    sizes = [len(drawn) for drawn in draws(schedule, blocks, range(steps + 2))]
    assert sizes[0] == (keep if steps > 1 else blocks)
    assert sizes == sorted(sizes)
    assert sizes[steps - 1] == blocks
    assert sizes[steps:] == [blocks, blocks]
    assert schedule.survival(blocks) == (1.0,) * blocks


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fixed", {}, "one of full, fixed-count, stochastic-depth, progressive, got 'fixed'"),
        ("fixed-count", {}, "`keep` must say how many blocks run"),
        ("fixed-count", {"keep": 0}, "`keep` must be a whole number of at least 1, got 0"),
        ("full", {"keep": 3}, "`keep` belongs to the schedules fixed-count, progressive, but the schedule is full"),
        ("stochastic-depth", {"survival": 1.5}, "above 0 and at most 1, got 1.5"),
        ("progressive", {"keep": 2, "survival": 0.5}, "`survival` belongs to the schedule stochastic-depth"),
    ],
)
def test_what_is_no_schedule(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(resect.InputError, match=message):
        named(name, **settings)


def test_all_names_make_a_schedule() -> None:
    needs = {"fixed-count": {"keep": 2}, "progressive": {"keep": 2}}
    made = [type(named(name, **needs.get(name, {}), steps=9)) for name in NAMES]
    assert made == [Full, FixedCount, StochasticDepth, Progressive]


class Convolutions(torch.overrides.TorchFunctionMode):
    """Counts the convolutions that run."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if "conv" in getattr(function, "__name__", str(function)):
            self.weights.append(args[1])
        return function(*args, **(kwargs or {}))


def test_deleted_branches_are_not_computed_and_get_no_gradient(net: Unraveled, resnet: CifarResNet, batch) -> None:
    with net.schedule(resect.schedules.FixedCount(4), seed=3) as scheduled:
        resnet.train()
        seen = set()
        for step in range(4):
            before = copy.deepcopy(resnet.state_dict())
            resnet.zero_grad(set_to_none=True)
            with Convolutions() as counted:
                loss = F.cross_entropy(resnet(batch[0]), batch[1])
            loss.backward()
            running = scheduled.running
            assert (scheduled.step, len(running)) == (step + 1, 4)
            ran = {id(weight) for weight in counted.weights}
            for i, block in enumerate(resnet.blocks):
                on = i in running
                assert (id(block.c1.weight) in ran, id(block.c2.weight) in ran) == (on, on)
                branch = [*block.bn1.parameters(), *block.c1.parameters(), *block.bn2.parameters()]
                assert all((parameter.grad is not None) == on for parameter in [*branch, block.c2.weight])
                assert torch.equal(before[f"blocks.{i}.bn1.running_mean"], block.bn1.running_mean) != on
            seen.add(running)
        assert len(seen) > 1
    assert "forward" not in resnet.__dict__


def test_a_step_computes_what_the_network_without_the_blocks_computes(
    net: Unraveled, resnet: CifarResNet, batch
) -> None:
    with net.schedule(FixedCount(5)) as scheduled:
        resnet.train()
        found = resnet(batch[0])
    x = resnet.stem(batch[0])
    for i, block in enumerate(resnet.blocks):
        x = block(x) if i in scheduled.running else block.sc(x)
    assert torch.equal(found, resnet.fc(F.relu(resnet.bn(x)).mean((2, 3))))


def test_draws_depend_on_seed_and_step_alone(net: Unraveled, resnet: CifarResNet, batch) -> None:
    def run(seed: int, first: int, count: int) -> list[tuple[int, ...]]:
        with net.schedule(FixedCount(4), seed=seed) as scheduled:
            scheduled.step = first
            resnet.train()
            found = []
            for _ in range(count):
                resnet(batch[0])
                found.append(scheduled.running)
            return found

    whole = run(0, 0, 6)
    assert run(0, 2, 4) == whole[2:]
    assert run(1, 0, 6) != whole


def test_eval_mode_scales_every_branch_by_its_survival(net: Unraveled, resnet: CifarResNet, batch) -> None:
    resnet.eval()
    plain = resnet(batch[0])
    with net.schedule(StochasticDepth(0.4)) as scheduled:
        found = resnet(batch[0])
        x = resnet.stem(batch[0])
        for block, factor in zip(resnet.blocks, StochasticDepth(0.4).survival(9), strict=True):
            branch = block.c2(F.relu(block.bn2(block.c1(F.relu(block.bn1(x))))))
            x = block.sc(x) + factor * branch
        expected = resnet.fc(F.relu(resnet.bn(x)).mean((2, 3)))
        assert torch.allclose(found, expected, atol=1e-5)
        assert not torch.allclose(found, plain, atol=1e-3)
        kept = copy.deepcopy(resnet.state_dict())
        scheduled.fold()
        scheduled.fold()
        assert torch.equal(resnet(batch[0]), found)
    assert torch.equal(resnet(batch[0]), found)
    changed = {name for name, value in resnet.state_dict().items() if not torch.equal(value, kept[name])}
    assert changed == {f"blocks.{i}.c2.weight" for i in range(9)}


def test_without_correction_eval_mode_is_the_model_itself(net: Unraveled, resnet: CifarResNet, batch) -> None:
    plain = resnet.eval()(batch[0])
    with net.schedule(FixedCount(3), correction=False):
        assert torch.equal(resnet(batch[0]), plain)


class Ends(nn.Module):
    """x + a branch whose last operations are those of `tail`."""

    def __init__(self, tail: str) -> None:
        super().__init__()
        self.tail = tail
        self.one, self.other, self.gate = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.wide, self.norm = nn.Linear(8, 16), nn.BatchNorm1d(8)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.scale, self.shift = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))

    def branch(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.one(x))
        if self.tail == "squeeze and excitation":
            found = self.other(hidden)
            return found * torch.sigmoid(self.gate(found))
        if self.tail == "gated linear unit":
            value, gate = self.wide(hidden).chunk(2, -1)
            return value * torch.sigmoid(gate)
        if self.tail == "square":
            found = self.other(hidden)
            return found * found
        if self.tail == "own norm":
            found = self.other(hidden)
            return found * torch.rsqrt(found.square().mean(-1, keepdim=True)) * (1 + self.scale)
        if self.tail == "weight norm":
            return self.normed(hidden)
        if self.tail == "two scales":
            return hidden * (self.scale * self.shift)
        if self.tail == "inner block":
            found = self.other(hidden)
            return found + self.gate(torch.tanh(found))
        if self.tail == "batch norm":
            return self.norm(self.other(hidden))
        if self.tail == "linear with bias":
            return self.other(hidden).view(-1, 8)
        if self.tail == "layer scale":
            return torch.tanh(self.other(hidden)) * self.scale
        if self.tail == "sum":
            return self.other(hidden) + self.norm(hidden)
        return torch.relu(self.other(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


@pytest.mark.parametrize(
    "tail",
    [
        "squeeze and excitation", "gated linear unit", "square", "own norm", "weight norm", "two scales",
        "inner block", "relu",
    ],
)  # fmt: skip
def test_a_branch_that_no_weights_scale_is_refused(tail: str) -> None:
    net = resect.unravel(Ends(tail), torch.randn(4, 8))
    with pytest.raises(
        resect.InputError, match=r"`correction` must be off for this network: block \d .*correction=False"
    ):
        net.schedule(StochasticDepth(0.25))
    net.schedule(StochasticDepth(0.25), correction=False)


@pytest.mark.parametrize("tail", ["batch norm", "linear with bias", "layer scale", "sum"])
def test_tails_of_branches_are_found(tail: str) -> None:
    model, x = Ends(tail).eval(), torch.randn(4, 8)
    net = resect.unravel(model, x)
    expected = x + 0.25 * model.branch(x)
    with net.schedule(StochasticDepth(0.25)) as scheduled:
        found = model(x)
        scheduled.fold()
    assert torch.allclose(found, model(x), atol=1e-6)
    assert torch.allclose(found, expected, atol=1e-6)


def test_what_cannot_run_on_a_schedule_is_refused(net: Unraveled, resnet: CifarResNet, batch) -> None:
    with net.schedule(FixedCount(3)):
        resnet.train()
        resnet.blocks[2].bn1.eval()
        with pytest.raises(resect.InputError, match=r"`blocks\.2\.bn1` is in eval mode"):
            resnet(batch[0])
    hook = resnet.register_forward_pre_hook(lambda module, given: None)
    with pytest.raises(resect.InputError, match="must have no forward hooks of its own"):
        net.schedule(FixedCount(3))
    hook.remove()


def test_a_model_on_a_schedule_is_neither_copied_nor_put_on_another(net: Unraveled, resnet: CifarResNet) -> None:
    with net.schedule(FixedCount(3)):
        with pytest.raises(resect.InputError, match="must be copied or pickled before its schedule is opened"):
            copy.deepcopy(resnet)
        with pytest.raises(resect.InputError, match="one schedule at a time"), net.schedule(FixedCount(2)):
            pass
    assert copy.deepcopy(resnet).state_dict().keys() == resnet.state_dict().keys()
    with pytest.raises(resect.InputError, match=r"must be one of resect\.schedules, such as .*, got 'full'"):
        net.schedule("full")


def test_shared_weights_cannot_be_corrected() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.inner(torch.tanh(x))
            return x + self.inner(torch.tanh(x))

    net = resect.unravel(Twice(), torch.zeros(2, 8))
    with pytest.raises(resect.InputError, match="`correction` must be off"):
        net.schedule(FixedCount(1))


class Gate(nn.Module):
    """The branch and the skip share a gate; deleted, x stays: the mean over deletions is not a scaled branch."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.inner = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        open_by = torch.sigmoid(self.gate(x))
        return open_by * self.inner(x) + (1 - open_by) * x


@pytest.mark.parametrize(
    ("model", "plain"), [(Gate(), False), (nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), True)]
)
def test_what_is_not_added_to_a_skip_cannot_be_corrected(model: nn.Module, plain: bool) -> None:
    net = resect.unravel(model, torch.randn(4, 8), plain=plain)
    assert {block.kind for block in net.blocks} == {"layer" if plain else "gated"}
    with pytest.raises(resect.InputError, match="`correction` must be off for this network: block 0"):
        net.schedule(StochasticDepth(0.5))
    net.schedule(StochasticDepth(0.5), correction=False)


def test_more_blocks_than_there_are_cannot_be_kept(net: Unraveled) -> None:
    with pytest.raises(resect.InputError, match="at most the number of blocks, 9, got 10"):
        net.schedule(FixedCount(10))
    with pytest.raises(resect.InputError, match="`model` must have blocks to run on a schedule, but Linear has none"):
        resect.unravel(nn.Linear(8, 8), torch.randn(4, 8)).schedule(StochasticDepth())


class Tower(nn.Module):
    """Five blocks without batch norm, which would see a half of each batch in each of two processes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        branch = lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))  # noqa: E731
        self.blocks = nn.ModuleList(branch() for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def _own_loop(rank: int, folder: str, processes: int) -> None:
    """Three steps of a user's own loop; write the blocks and gradients of every step."""
    address = f"file://{folder}/meet{processes}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)
    model = Tower()
    net = resect.unravel(model, torch.zeros(2, 8))
    wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    inputs = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = []
    with net.schedule(FixedCount(2), seed=5) as scheduled:
        wrapped.train()
        for batch in inputs:
            wrapped.zero_grad(set_to_none=True)
            wrapped(batch[rank::processes]).square().mean().backward()
            gradients = {name: p.grad for name, p in model.named_parameters()}
            found.append({"running": list(scheduled.running), "gradients": gradients})
    torch.save(found, f"{folder}/{processes}-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_of_ones_own_loop_run_the_same_blocks(tmp_path: Path) -> None:
    _own_loop(0, str(tmp_path), 1)
    torch.multiprocessing.spawn(_own_loop, (str(tmp_path), 2), 2)
    alone, first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    assert len({tuple(step["running"]) for step in alone}) > 1
    for steps in zip(alone, first, second, strict=True):
        assert steps[0]["running"] == steps[1]["running"] == steps[2]["running"]
        for name, gradient in steps[0]["gradients"].items():
            others = [step["gradients"][name] for step in steps[1:]]
            if int(name.split(".")[1]) in steps[0]["running"]:
                assert all(torch.allclose(gradient, other, atol=1e-7) for other in others)
            else:
                assert gradient is None
                assert others == [None, None]


def test_what_all_sets_of_blocks_share_is_kept_once(net) -> None:
    arrangements = [net.intact.without(set(range(9)) - chosen) for chosen in draws(FixedCount(4), 9, range(60))]
    programs = net.train_graph.programs
    kept = {id(program) for arrangement in arrangements for program in programs.fold(arrangement, shared=True)}
    assert len(kept) <= 2 * net.slices  # each with its branch and without


class Chosen(Schedule):
    """Just these blocks in every step."""

    def __init__(self, *blocks: int | str) -> None:
        self.blocks = blocks

    def running(self, blocks: int, step: int, generator: torch.Generator) -> frozenset[int | str]:
        return frozenset(self.blocks)


def test_a_schedule_of_ones_own_may_choose_by_name_or_from_the_end(net, resnet, batch) -> None:
    with net.schedule(Chosen("blocks.2", -1)) as scheduled:
        resnet.train()(batch[0])
        assert scheduled.running == (2, 8)
    with pytest.raises(resect.InputError, match="one of the 9 blocks, 0 to 8, got 9"):
        net.schedule(Chosen(9))
