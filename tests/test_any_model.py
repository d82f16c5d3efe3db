"""Models as people write them: what is captured, what is refused and why."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import resect
from small_nets import TARGETS, Block, Net, X, mlp, plain, two


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


def test_what_is_random_is_refused_for_that_reason() -> None:
    for draw in (torch.rand_like, lambda x: x * random.random(), lambda x: x * np.random.rand()):
        with pytest.raises(resect.ExportError, match="is random then: it draws from"):
            resect.unravel(two(lambda b, x, draw=draw: x + b.f(x) * draw(x)), X)
    with pytest.raises(resect.ExportError, match="is random"):
        resect.unravel(two(lambda b, x: x + F.dropout(b.f(x))), X)
    assert len(resect.unravel(two(lambda b, x: x + b.f(x) * (random.random() < 2)), X).blocks) == 2  # draws in vain


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


@pytest.mark.parametrize(("batch_dim", "reason"), [(2, "a dimension of the inputs, 0 to 1"), ("1", "a whole number")])
def test_the_dimension_of_the_batch_is_one_of_the_inputs(batch_dim: int, reason: str) -> None:
    with pytest.raises(resect.InputError, match=f"`batch_dim` must be {reason}"):
        resect.unravel(two(), X, batch_dim=batch_dim)


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


@dataclass
class Scores:
    """What a model returns: a data class of its author's, which torch does not know."""

    logits: Tensor
    width: int


class Deciding(nn.Module):
    def forward(this, x: Tensor) -> Tensor:  # a line is found whatever its owner is called
        assert x.abs().max() < 9
        return x


def test_outputs_in_a_data_class_stay_what_they_are() -> None:
    model = Net(Block(lambda b, x: x + b.f(x)))
    model.forward = lambda x: Scores(model.blocks(x), 8)  # type: ignore[method-assign]
    net = resect.unravel(model, X)
    outputs = net(X)
    assert isinstance(outputs, Scores)
    assert outputs.width == 8
    assert outputs.logits.equal(model(X).logits)
    assert net(X, (None,)).logits.equal(X)
    assert resect.lesion(net, [(X, TARGETS)], resect.plans.single(net)).table.shape[0] == 1


def test_a_model_without_outputs_and_one_that_reads_its_inputs_are_refused_by_name() -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> None:
            x.sum()

    with pytest.raises(resect.ExportError, match=r"must return a tensor, .* but Silent returns none"):
        resect.unravel(Silent(), X)
    with pytest.raises(resect.ExportError, match=r"module `Deciding` \(test_any_model.py:\d+: `assert x.abs\(\)"):
        resect.unravel(Deciding(), X)


@pytest.mark.parametrize("batch", [X.to_sparse(), torch.nested.nested_tensor([X[0], X[1]])])
def test_only_dense_batches_are_taken(batch: Tensor) -> None:
    with pytest.raises(
        resect.InputError, match=r"must hold dense tensors, got (sparse_coo|a nested tensor) as input 0"
    ):
        resect.unravel(two(lambda b, x: x + b.f(x)), batch)
