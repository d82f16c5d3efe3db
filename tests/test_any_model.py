"""Models as people write them: what is captured, what is refused and why, and that nothing is left behind."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.checkpoint import checkpoint

import resect
from resect.models.resnet import CifarResNet
from resect.network.gradients import require_own_gradient
from resect.weights import load_checkpoint

X = torch.linspace(-1, 1, 40).reshape(5, 8).cos()
TARGETS = torch.arange(5) % 4
Way = Callable[["Block", Tensor], Tensor]


def mlp(width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, width))


class Block(nn.Module):
    """Whatever `way` makes of the branches `f` and `g` and of the input."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.f, self.g, self.way = mlp(), mlp(), way
        self.weight = nn.Parameter(torch.randn(8, 8) * 0.2)
        self.cell = nn.GRUCell(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(8, 8), nn.Sequential(*blocks), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def plain(block: Block, x: Tensor) -> Tensor:
    return x + block.f(x)


def two(way: Way = plain) -> Net:
    torch.manual_seed(0)
    return Net(Block(way), Block(way)).eval()


def copied(block: Block, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[:, :4].copy_(block.f(x)[:, :4])
    y[:, 4:].copy_(x.double()[:, 4:])
    return x + y


SPELLINGS: dict[str, tuple[Way, int]] = {
    "x + (f + g)": (lambda b, x: x + (b.f(x) + b.g(x)), 4),
    "x + (f + g), reshaped": (lambda b, x: x + (b.f(x) + b.g(x)).reshape(len(x), 2, 4).reshape(len(x), 8), 4),
    "relu(x) + f(relu(x))": (lambda b, x: F.relu(x) + b.f(F.relu(x)), 2),
    "copies into slices": (copied, 2),
    "a scaled skip": (lambda b, x: 0.5 * x + b.f(x), 2),
    "x + (f - g)": (lambda b, x: x + (b.f(x) - b.g(x)), 4),
    "x + half of (f + g)": (lambda b, x: x + 0.5 * (b.f(x) + b.g(x)), 4),
    "x - f, spelt with alpha": (lambda b, x: torch.sub(x, b.f(x), alpha=-1), 2),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_block_is_found_however_it_is_written(name: str) -> None:
    way, blocks = SPELLINGS[name]
    net = resect.unravel(two(way), X)
    assert len(net.blocks) == blocks
    assert {b.kind for b in net.blocks} == {"scaled" if name == "a scaled skip" else "identity"}
    assert net.check(X).identical
    assert resect.path_spectrum(net, [(X, TARGETS)]).sum_error < 1e-5


WORDS: dict[str, tuple[Way, str]] = {
    "lerp": (lambda b, x: torch.lerp(x, b.f(x), 0.5), "interpolated"),
    "addmm": (lambda b, x: torch.addmm(x, b.f(x).relu(), b.weight), "inside a matrix product"),
    "baddbmm": (
        lambda b, x: torch.baddbmm(x[:, None], b.f(x).relu()[:, None], b.weight.expand(len(x), -1, -1))[:, 0],
        "inside a matrix product",
    ),
    "stack and sum": (lambda b, x: torch.stack([x, b.f(x)]).sum(0), "sum over stacked values"),
    "index_add": (lambda b, x: x.index_add(0, torch.arange(len(x)), b.f(x)), "at chosen places"),
    "where": (lambda b, x: torch.where(x > 0, x, b.f(x)), "neither is added"),
    "complex": (lambda b, x: (lambda z: z + torch.complex(b.f(z.real), z.imag))(torch.complex(x, x)).real, "complex"),
    "gru cell": (lambda b, x: b.cell(b.f(x), x), "inside one operator"),
    "cond": (
        lambda b, x: torch.cond(x.sum() > -1e9, lambda x: x + b.f(x), lambda x: x.clone(), (x,)),
        "inside one operator",
    ),
}


@pytest.mark.parametrize("word", WORDS)
def test_a_sum_in_other_words_is_listed_with_its_reason(word: str) -> None:
    way, reason = WORDS[word]
    net = resect.unravel(two(way), X)
    assert not net.blocks
    assert [reason in entry.reason for entry in net.rejected] == [True, True]


def test_a_number_divided_by_the_signal_is_no_skip() -> None:
    net = resect.unravel(two(lambda b, x: b.weight.mean() / x + b.f(x)), X)
    assert not net.blocks
    assert ["with a non-linearity" in entry.reason for entry in net.rejected] == [True, True]


class LongSkip(nn.Module):
    """Residual blocks under a long skip, in one forward()."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.ModuleList(mlp() for _ in range(4)), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for f in self.inner:
            y = y + f(y)
        return x + self.last(y)


class Cascade(nn.Module):
    """Each part is added to what the one before it gave (Res2Net, EfficientViT)."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(4, -1)
        ends = [self.parts[0](parts[0])]
        for f, part in zip(self.parts[1:], parts[1:], strict=True):
            ends.append(f(ends[-1] + part))
        return torch.cat(ends, -1)


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class CascadeAround(Cascade):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Projected(nn.Module):
    """The skip has a projection behind an activation of its own (DPN)."""

    def __init__(self) -> None:
        super().__init__()
        self.skip = nn.Sequential(nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
        self.f = nn.Sequential(nn.BatchNorm1d(8), nn.ReLU(), *mlp())

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.f(x)


class Pooled(nn.Module):
    """A learned scale on the skip, a branch without weights that mix (PoolFormer V2)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.norm = nn.Parameter(torch.rand(8) + 0.5), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x * self.scale + (F.avg_pool1d(y, 3, 1, 1) - y)


DATA_FLOW = {
    "a long skip": (LongSkip, 5),
    "a cascade in a module of its own": (lambda: Around(Cascade()), 1),
    "a cascade in the module of the addition": (CascadeAround, 1),
    "a projection behind an activation": (Projected, 1),
    "a scaled skip around pooling": (Pooled, 1),
}


@pytest.mark.parametrize("name", DATA_FLOW)
def test_blocks_are_a_matter_of_data_flow(name: str) -> None:
    build, blocks = DATA_FLOW[name]
    net = resect.unravel(Net(build()).eval(), X)
    assert len(net.blocks) == blocks, [b.name for b in net.blocks]
    assert net.check(X).identical


class ClassAttention(nn.Module):
    """A class token of parameters to which attention over the patches is added (CaiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.attention, self.f = nn.MultiheadAttention(8, 2, batch_first=True), mlp()
        self.head, self.extra = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        token = self.token.expand(len(x), -1, -1)
        everything = torch.cat([token, x], 1)
        token = token + self.attention(token, everything, everything, need_weights=False)[0]
        token = token + self.f(token)
        both = torch.cat([token, x], 1)
        return self.head(both[:, 0]) + 0.5 * self.extra(both[:, 1:]).max(1)[0]  # two heads are no block


def test_a_class_token_is_a_skip_and_a_second_head_is_no_branch() -> None:
    tokens = torch.randn(3, 5, 8)
    net = resect.unravel(ClassAttention().eval(), tokens)
    assert [b.name for b in net.blocks] == ["attention", "f"]
    token = net.model.token.expand(3, -1, -1)
    bare = torch.cat([token + net.model.f(token), tokens], 1)
    expected = net.model.head(bare[:, 0]) + 0.5 * net.model.extra(bare[:, 1:]).max(1)[0]
    assert torch.equal(net(tokens, net.intact.without(0)), expected)


class Timed(Net):
    """A float for every sample, and a factor without dimensions."""

    def __init__(self) -> None:
        super().__init__(Block(plain))
        self.alpha = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.head(self.blocks(self.alpha * self.stem(x) + time[:, None]))


@pytest.mark.parametrize("at", ["input", "alpha", "stem"])
def test_inputs_and_parameters_may_be_single_numbers(at: str) -> None:
    net = resect.unravel(Timed().eval(), (X, X[:, 0]))
    data, settings = [((X, X[:, 0]), TARGETS)], resect.PathSettings(at=at)
    spectrum = resect.path_spectrum(net, data, settings)
    assert spectrum.sum_error < 1e-5
    table = resect.participation(net, data, settings).table
    assert table["share"].sum() == pytest.approx(float(spectrum.share[1]), abs=1e-5)
    strongest = resect.strongest_paths(net, data, settings=settings)
    assert sorted(strongest.table["share"]) == pytest.approx(sorted(spectrum.share), abs=1e-5)
    assert len(resect.sample_paths(net, data, settings, draws=2).table) == 2
    assert np.isfinite(resect.path_squares(net, data, settings, sweeps=2).rms).all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_measured_whatever_is_switched_off_around(mode: Callable[[], torch.no_grad]) -> None:
    net = resect.unravel(two(), X)
    expected = resect.path_spectrum(net, [(X, TARGETS)])
    with mode():
        measured = resect.path_spectrum(net, [(X.clone(), TARGETS)])
        assert len(resect.strongest_paths(net, [(X.clone(), TARGETS)]).table) == 4
    assert (measured.share == expected.share).all()
    with pytest.raises(resect.InputError, match="`of` must be differentiable"):
        resect.path_spectrum(net, [(X, TARGETS)], resect.PathSettings(of=lambda out, targets: out.argmax(1).float()))


def test_half_precision_streams_with_float32_branches_keep_the_types_of_the_addition() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.f, self.g, self.head = nn.Linear(8, 8).half(), mlp(), mlp(), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = x + self.f(x.float())
            return self.head(x + self.g(x))

    model, x = Mixed().eval(), X.half()
    net = resect.unravel(model, x)
    stem = model.stem(x).float()
    assert torch.equal(net(x, net.intact.without(0)), model.head(stem + model.g(stem)))
    assert torch.equal(net.without(0, 1)(x), model.head(stem))


class Stopped(Net):
    """Stem and first block run without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.blocks[0](self.stem(x))
        return self.head(self.blocks[1](x))


def _step(model: nn.Module, net: resect.Unraveled | None = None) -> dict[str, Tensor | None]:
    """The gradients of one training step of the model, with `net` under a schedule that runs all blocks."""
    model = model.train()
    model.zero_grad()
    if net is None:
        F.cross_entropy(model(X), TARGETS).backward()
    else:
        with net.schedule(resect.schedules.FixedCount(len(net.blocks)), correction=False):
            F.cross_entropy(model(X), TARGETS).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


GRADIENTS: dict[str, Callable[[], nn.Module]] = {
    "a part under no_grad": lambda: Stopped(Block(plain), Block(plain)),
    "detached": lambda: two(lambda b, x: x + b.f(x.detach())),
    "straight through": lambda: two(lambda b, x: x + (lambda y: y + (y.round() - y).detach())(b.f(x))),
    "checkpointed": lambda: two(lambda b, x: x + checkpoint(b.f, x, use_reentrant=False)),
    "checkpointed, reentrant": lambda: two(lambda b, x: x + checkpoint(b.f, x, use_reentrant=True)),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_scheduled_step_has_the_gradients_of_the_model(name: str) -> None:
    model = GRADIENTS[name]()
    net = resect.unravel(model, X)
    wanted, got = _step(model), _step(model, net)
    assert {n for n, g in wanted.items() if g is None} == {n for n, g in got.items() if g is None}
    assert all(torch.allclose(got[n], g, atol=1e-6) for n, g in wanted.items() if g is not None)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return -gradient


def _hooked(x: Tensor) -> Tensor:
    if x.requires_grad:
        x.register_hook(lambda gradient: 0.5 * gradient)
    return x


def _with_module_hook() -> Net:
    model = two()
    model.blocks[0].f.register_full_backward_hook(lambda module, given, out: (2 * given[0],))
    return model


OTHER_GRADIENTS: dict[str, Callable[[], nn.Module]] = {
    "a custom backward": lambda: two(lambda b, x: x + Reversed.apply(b.f(x))),
    "a hook on a tensor": lambda: two(lambda b, x: x + _hooked(b.f(x))),
    "a hook on a module": _with_module_hook,
}


@pytest.mark.parametrize("name", OTHER_GRADIENTS)
def test_a_gradient_that_no_graph_holds_is_refused(name: str) -> None:
    model = OTHER_GRADIENTS[name]()
    net = resect.unravel(model, X)
    assert net.check(X).identical
    assert len(resect.lesion(net, [(X, TARGETS)], resect.plans.single(net)).table) == 2
    with pytest.raises(resect.ExportError, match=r"must have the gradient of the operators.*stem\.weight"):
        resect.path_spectrum(net, [(X, TARGETS)])
    with pytest.raises(resect.ExportError, match="in train mode"):
        _step(model, net)
    assert all(parameter.grad is None for parameter in model.parameters())


RECORDED: list[Tensor] = []


def _drawing_in_vain(block: Block, x: Tensor) -> Tensor:
    if block.training:
        torch.rand(3)  # not in the graph, whose dropout draws otherwise
    return x + F.dropout(Reversed.apply(block.f(x)), 0.5, block.training)


def test_random_numbers_do_not_hide_another_gradient_in_training() -> None:
    model = two(_drawing_in_vain)
    net = resect.unravel(model, X)
    assert not require_own_gradient(net.train_graph, X)
    with pytest.raises(resect.ExportError, match="in eval mode"):
        _step(model, net)


def test_a_model_that_was_cast_since_is_not_taken_for_compared() -> None:
    model = two(lambda b, x: x + Reversed.apply(b.f(x)))
    net = resect.unravel(model, X)
    model.double()
    with pytest.raises(resect.ExportError, match="cast or changed since it was unravelled"):
        resect.path_spectrum(net, [(X, TARGETS)])
    model.float()
    with pytest.raises(resect.ExportError, match="must have the gradient"):
        resect.path_spectrum(net, [(X, TARGETS)])


def test_nothing_is_left_behind() -> None:
    class Busy(Net):
        """Caches, counts, keeps what it computed, and says so in train()."""

        def __init__(self) -> None:
            super().__init__(Block(plain), Block(plain))
            self.cache: dict[int, Tensor] = {}
            self.calls, self.modes = 0, [0]

        def train(self, mode: bool = True) -> Busy:
            if hasattr(self, "modes"):
                self.modes.append(int(mode))
            return super().train(mode)

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.last = super().forward(x)
            self.cache[len(self.cache)] = self.last
            return self.last

    model, seen = Busy(), {}
    model.blocks[0].register_forward_hook(lambda module, given, out: seen.update(out=out))
    model.blocks[1].register_forward_hook(lambda module, given, out: RECORDED.append(out))
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    net = resect.unravel(model, X)
    net.check(X)
    assert (model.cache, model.calls, model.modes, seen, RECORDED) == ({}, 0, [0], {}, [])
    assert model.training
    assert "last" not in vars(model)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()


def test_objects_of_a_script_are_put_back_and_loggers_left_alone() -> None:
    code = """
import logging, sys, torch, resect
from torch import nn
class Recorder:
    def __init__(self): self.items = []
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.f, self.recorder = nn.Linear(4, 4), nn.Linear(4, 4), Recorder()
        self.log = logging.getLogger("mine")
    def forward(self, x):
        x = self.stem(x)
        self.recorder.items.append(x)
        return x + self.f(x).relu()
net = Net().eval()
before = set(logging.root.manager.loggerDict)
assert len(resect.unravel(net, torch.randn(2, 4)).blocks) == 1
assert net.recorder.items == [], net.recorder.items
assert before <= set(logging.root.manager.loggerDict)
for name, module in list(sys.modules.items()):
    log = getattr(module, "log", None)
    if isinstance(log, logging.Logger) and log.name.startswith("torch."):
        assert logging.getLogger(log.name) is log, log.name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_awkward_to_put_back_hides_nothing() -> None:
    class Fixed(OrderedDict):
        def update(self, *args: object, **kwargs: object) -> None:
            raise TypeError("not this way")

    class Awkward(Net):
        def __init__(self) -> None:
            super().__init__(Block(plain))
            self.kept = Fixed(out=1)
            self.register_buffer("last", torch.tensor([float("nan"), 1.0]))
            self.fails = False

        def forward(self, x: Tensor) -> Tensor:
            self.kept["out"] = x
            self.last.zero_()
            return super().forward(x) + (float(x.sum()) if self.fails else 0)

    model = Awkward().eval()
    assert len(resect.unravel(model, X).blocks) == 1
    assert dict(model.kept) == {"out": 1}
    assert torch.equal(model.last.isnan(), torch.tensor([True, False]))
    model.fails = True
    with pytest.raises(resect.ExportError, match=r"float\(x.sum"):
        resect.unravel(model, X)
    model.fails = False
    model.register_buffer("edges", torch.eye(8).to_sparse())
    with pytest.raises(resect.ExportError, match="Sparse"):  # which torch.export cannot hold
        resect.unravel(model, X)


def test_weights_that_eval_changes_are_refused_and_restored() -> None:
    class Merging(Net):
        merged = False

        def train(self, mode: bool = True) -> Merging:
            if not mode and not self.merged:
                self.stem.weight.data += 1
                self.merged = True
            return super().train(mode)

    model = Merging(Block(plain))
    weight = model.stem.weight.clone()
    with pytest.raises(resect.ExportError, match=r"changes weights \(`stem.weight`\).*Call model.eval\(\) first"):
        resect.unravel(model, X)
    assert torch.equal(model.stem.weight, weight)
    assert not model.merged
    assert len(resect.unravel(model.eval(), X).blocks) == 1


def test_what_is_random_is_refused_for_that_reason() -> None:
    for draw in (torch.rand_like, lambda x: x * random.random(), lambda x: x * np.random.rand()):
        with pytest.raises(resect.ExportError, match="is random then: it draws from"):
            resect.unravel(two(lambda b, x, draw=draw: x + b.f(x) * draw(x)), X)
    with pytest.raises(resect.ExportError, match="is random"):
        resect.unravel(two(lambda b, x: x + F.dropout(b.f(x))), X)
    assert len(resect.unravel(two(lambda b, x: x + b.f(x) * (random.random() < 2)), X).blocks) == 2  # draws in vain


def test_a_coin_is_refused_in_training() -> None:
    model = two(lambda b, x: x if b.training and random.random() < 0.5 else x + b.f(x))
    net = resect.unravel(model, X)
    with pytest.raises(resect.ExportError, match=r"draws from random in forward.*LayerDrop"):
        _step(model, net)


def test_models_without_values_or_modules() -> None:
    meta = resect.unravel(two().to("meta"), X.to("meta"))
    assert len(meta.blocks) == 2
    for use in (lambda: meta(X.to("meta")), meta.fingerprint, lambda: resect.path_spectrum(meta, [(X, TARGETS)])):
        with pytest.raises(resect.InputError, match="meta device, where its blocks can be counted only"):
            use()
    assert len(resect.unravel(torch.compile(two()), X).blocks) == 2
    for scripted in (torch.jit.script(nn.Sequential(nn.Linear(8, 8))), torch.jit.trace(two(), X)):
        with pytest.raises(resect.ExportError, match="is or holds TorchScript"):
            resect.unravel(scripted, X)
    with pytest.raises(resect.InputError, match="at least one sample"):
        resect.unravel(two(), X[:0])
    with pytest.raises(resect.InputError, match=r"must be a torch.nn.Module, got ExportedProgram"):
        resect.unravel(torch.export.export(two(), (X,)), X)
    with pytest.raises(resect.ExportError, match="exported program"):
        resect.unravel(torch.export.export(two(), (X,)).module(), X)


def test_a_sequence_is_not_taken_for_the_batch() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=False)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with pytest.raises(resect.InputError, match=r"batch_first=False and takes dimension 0 \(7\) for the sequence"):
        resect.unravel(model, torch.randn(7, 2, 16))

    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.transpose(0, 1)).transpose(0, 1)

    net = resect.unravel(Transposed().eval(), torch.randn(2, 7, 16))
    assert len(net.blocks) == 4
    assert net.check(torch.randn(3, 7, 16)).identical


def test_batches_that_do_not_divide_are_refused_and_left_out_of_a_check() -> None:
    class Clips(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.reshape(-1, 4, 8).transpose(1, 2).reshape(-1, 8))

    net = resect.unravel(Clips(Block(plain)).eval(), torch.randn(8, 8))
    assert set(net.check(torch.randn(12, 8), sizes=(1, 4, 5)).differences) == {4, 12}
    with pytest.raises(resect.InputError, match="a multiple of the example's"):
        net(torch.randn(6, 8))


def test_what_the_graph_holds_is_not_given_anew() -> None:
    class Optional(Net):
        def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
            return super().forward(x if mask is None else x * mask) * scale

    net = resect.unravel(Optional(Block(plain)).eval(), {"x": X, "mask": None, "scale": 2.0})
    assert torch.equal(net({"x": X, "mask": None, "scale": 2.0}), net.model(X, scale=2.0))
    with pytest.raises(resect.InputError, match=r"must have None where the example has it.*got a tensor"):
        net({"x": X, "mask": torch.ones_like(X), "scale": 2.0})
    with pytest.raises(resect.InputError, match=r"must have 2\.0 where the example has it.*got 3\.0"):
        net({"x": X, "mask": None, "scale": 3.0})


def test_views_do_not_depend_on_the_strides_of_the_example() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Conv2d(8, 48, 1), nn.Conv2d(16, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            n, _, h, w = x.shape
            q, k, v = self.qkv(x).reshape(n, 2, 24, h * w).permute(0, 1, 3, 2).chunk(3, 3)
            attended = F.scaled_dot_product_attention(q, k, v)
            return x + self.out(attended.permute(0, 1, 3, 2).reshape(n, 16, h, w))

    net = resect.unravel(Attention().eval(), torch.randn(2, 8, 4, 4))
    assert net.check(torch.randn(3, 8, 4, 4)).identical


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_in_any_order(prefix: str, tmp_path: Path) -> None:
    source, path = CifarResNet(8, width=4), tmp_path / "weights.pt"
    torch.save({"model_ema": {f"{prefix}{name}": value for name, value in source.state_dict().items()}}, path)
    target = CifarResNet(8, width=4)
    load_checkpoint(target, path)
    assert torch.equal(target.stem.weight, source.stem.weight)


def test_a_child_named_module_and_averaged_weights(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = CifarResNet(8, width=4)

    path, source = tmp_path / "weights.pt", Wrapped()
    torch.save(source.state_dict(), path)
    target = Wrapped()
    load_checkpoint(target, path)
    assert torch.equal(target.module.stem.weight, source.module.stem.weight)
    torch.save(AveragedModel(source.module).state_dict(), path)
    averaged = CifarResNet(8, width=4)
    load_checkpoint(averaged, path)
    assert torch.equal(averaged.stem.weight, source.module.stem.weight)


@pytest.mark.parametrize("momentum", [None, 0.3])
def test_the_batch_norms_of_a_stand_alone_network_can_be_measured_again(momentum: float | None) -> None:
    model = CifarResNet(8, width=4, channels=1).eval()
    loader = [torch.randn(6, 1, 8, 8) * 2 + 1 for _ in range(3)]
    small, by_hand = resect.unravel(model, loader[0]).without(0), copy.deepcopy(model)
    by_hand.blocks[0] = nn.Identity()
    if momentum is None:
        for network in (small, by_hand):
            update_bn(loader, network)
    else:
        for network in (small, by_hand):
            for part in network.train().modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.momentum = momentum
            for images in loader:
                network(images)
    measured, wanted = small.state_dict(), by_hand.state_dict()
    changed = [name for name in measured if name.endswith(("running_mean", "running_var"))]
    assert not torch.equal(measured[changed[-1]], model.state_dict()[changed[-1]])
    for name in changed:
        torch.testing.assert_close(measured[name], wanted[name], atol=1e-4, rtol=1e-4)
