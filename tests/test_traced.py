"""Models that torch.export does not accept: recorded where that is the model, refused with the line where it is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import resect
from resect.errors import ExportError

Branch = Callable[["Odd", Tensor], Tensor]


class Odd(nn.Module):
    """x + f(x), where `odd` says what becomes of f(x)."""

    def __init__(self, odd: Branch) -> None:
        super().__init__()
        self.layer, self.norm, self.odd = nn.Linear(8, 8), nn.BatchNorm1d(8), odd
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x + self.odd(self, torch.relu(self.norm(self.layer(x))))


class Two(nn.Module):
    def __init__(self, odd: Branch) -> None:
        super().__init__()
        self.a, self.b, self.head = Odd(odd), Odd(odd), nn.Linear(8, 3)

    def forward(self, x: Tensor, twice: bool = False) -> dict[str, Tensor]:
        return {"logits": self.head(self.b(self.a(x)))}


def _by_weight(self: Odd, y: Tensor) -> Tensor:
    return y * int(self.scale.item()) if self.scale > 1 else y


def _by_numpy(self: Odd, y: Tensor) -> Tensor:
    kept = np.flatnonzero(self.layer.weight.detach().numpy().sum(1) > 0)
    return torch.zeros_like(y).index_copy(1, torch.from_numpy(kept), y[:, kept])


def _remembered(self: Odd, y: Tensor) -> Tensor:
    self.last = y[:1] * (2 if self.scale > 1 else 1)
    y[:, :2].mul_(0.5)
    return y + 0 * self.last


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("odd", [_by_weight, _by_numpy, _remembered])
def test_what_python_makes_of_weights_is_frozen(odd: Branch, x: Tensor) -> None:
    model = Two(odd).eval()
    net = resect.unravel(model, x)
    assert [(block.name, block.kind) for block in net.blocks] == [("a", "identity"), ("b", "identity")]
    assert net.recorded
    assert net.batch_size == 4
    assert "recorded at batch size 4" in repr(net)
    check = net.check(x.flip(0) * 2)
    assert check.identical
    assert check.recorded
    assert not vars(x)
    assert model.a.last is None
    with torch.no_grad():
        assert torch.equal(net(x, net.intact.without(0, 1))["logits"], model.head(x))
        assert torch.equal(net.without(0)(x)["logits"], model.head(model.b(x)))
    with pytest.raises(resect.ResectError, match="shape \\(4, 8\\)"):
        net(x[:3])


def test_a_recording_has_the_gradient_of_the_model_and_its_batch_statistics(x: Tensor) -> None:
    def odd(self: Odd, y: Tensor) -> Tensor:
        with torch.no_grad():
            still = torch.sigmoid(y)
        return still * y if self.scale > 1 else y

    model = Two(odd).eval()
    net = resect.unravel(model, x)
    net.require_own_gradient()
    leaf = x.clone().requires_grad_()
    ours = torch.autograd.grad(net(leaf)["logits"].sum(), leaf)[0]
    assert torch.equal(ours, torch.autograd.grad(model(leaf)["logits"].sum(), leaf)[0])
    train = net.train_graph
    assert train.recorded
    before = model.a.norm.running_mean.clone()
    got = train(x)["logits"]
    after = model.a.norm.running_mean.clone()
    assert not torch.equal(before, after)
    model.a.norm.running_mean.copy_(before)
    assert torch.equal(model.train()(x)["logits"], got)
    assert torch.equal(model.a.norm.running_mean, after)


def _count(self: Odd, y: Tensor) -> Tensor:
    return sum((y for _ in range(int(y.argmax()))), y)


def _if(self: Odd, y: Tensor) -> Tensor:
    return y if y.max() > 0.1 else 2 * y


def _numpy(self: Odd, y: Tensor) -> Tensor:
    return y * float(y.detach().numpy().sum())


def _shape(self: Odd, y: Tensor) -> Tensor:
    return y * len(y[y > 0])


def _in_place(self: Odd, y: Tensor) -> Tensor:
    kept = torch.zeros(4)
    kept[:2].copy_(y.detach()[0, :2])
    return y * float(kept.max())


def _list(self: Odd, y: Tensor) -> Tensor:
    return y * sum(y.detach().flatten().tolist())


@pytest.mark.parametrize("odd", [_count, _if, _numpy, _shape, _in_place, _list])
def test_what_depends_on_the_inputs_is_refused_with_module_and_line(odd: Branch, x: Tensor) -> None:
    with pytest.raises(ExportError, match=r"module `a` \(test_traced\.py:\d+: `") as error:
        resect.unravel(Two(odd).eval(), x)
    assert f"test_traced.py:{odd.__code__.co_firstlineno + 1 + (odd is _in_place) * 2}:" in str(error.value)
    assert "torch.where" in str(error.value)


def test_what_only_another_batch_shows_is_refused(x: Tensor) -> None:
    class Hidden(torch.autograd.Function):
        """Reads a value where no mode looks."""

        @staticmethod
        def forward(ctx: object, y: Tensor) -> Tensor:
            return y * (1 + int(torch.utils.dlpack.from_dlpack(y.detach())[0, 0] > 0))

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return gradient

    with pytest.raises(ExportError, match="`model` must"):
        resect.unravel(Two(lambda self, y: Hidden.apply(y) * (2 if self.scale > 1 else 1)).eval(), x)


def test_an_example_is_as_before_and_bears_no_marks(x: Tensor) -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2) + self.layer(x)

    before = x.clone()
    with pytest.raises(ExportError, match="must not change its inputs"):
        resect.unravel(Writes().eval(), x)
    assert torch.equal(x, before)
    resect.unravel(Two(lambda self, y: y).eval(), x)
    assert not vars(x)
