"""Maps of single operators and whole slices against autograd, in both directions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import resect
from networks import CUSTOM
from resect.calculus.maps import Recorded
from resect.calculus.rules import differentiate, record

aten = torch.ops.aten
WIDE = torch.float64


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=WIDE)


X = tensor(3, 4, 6, 6)
SEQUENCE = tensor(3, 5, 8)
MASK = torch.ones(5, 5, dtype=torch.bool).tril()
Q, K, V = (tensor(3, 2, 5, 4, seed=i) for i in range(3))
# operator, arguments, keywords, the argument that carries the signal, whether a closed form is expected
CASES = {
    "add": (aten.add.Tensor, [X, tensor(4, 1, 1)], {"alpha": 3}, 0, True),
    "add, alpha": (aten.add.Tensor, [X, X * 2], {"alpha": 3}, 1, True),
    "add, broadcast operand": (aten.add.Tensor, [X, tensor(4, 1, 1)], {}, 1, True),
    "sub": (aten.sub.Tensor, [X, X * 2], {"alpha": 0.5}, 1, True),
    "mul": (aten.mul.Tensor, [X, tensor(4, 1, 1)], {}, 0, True),
    "mul, broadcast operand": (aten.mul.Tensor, [X, tensor(3, 4, 1, 1)], {}, 1, True),
    "mul by a number": (aten.mul.Tensor, [X, 0.3], {}, 0, True),
    "div": (aten.div.Tensor, [X, tensor(4, 1, 1).abs() + 1], {}, 0, True),
    "div, divisor": (aten.div.Tensor, [X, X.abs() + 1], {}, 1, True),
    "relu": (aten.relu.default, [X], {}, 0, True),
    "gelu": (aten.gelu.default, [X], {"approximate": "tanh"}, 0, True),
    "silu": (aten.silu.default, [X], {}, 0, True),
    "hardswish": (aten.hardswish.default, [X], {}, 0, True),
    "power": (aten.pow.Tensor_Scalar, [X, 3], {}, 0, True),
    "rsqrt": (aten.rsqrt.default, [X.abs() + 1], {}, 0, True),
    "masked": (aten.masked_fill.Scalar, [X, X > 0, 1.0], {}, 0, True),
    "where": (aten.where.self, [X > 0, X * 2, X], {}, 2, True),
    "conv2d": (aten.conv2d.default, [X, tensor(7, 4, 3, 3), None, [1, 1], [1, 1]], {}, 0, True),
    "conv2d, strided": (
        aten.conv2d.default,
        [X, tensor(8, 2, 3, 3), tensor(8), [2, 2], [1, 1], [1, 1], 2],
        {},
        0,
        True,
    ),
    "conv2d, dilated": (aten.conv2d.default, [X, tensor(2, 4, 3, 3), None, [1, 1], [2, 2], [2, 2]], {}, 0, True),
    "conv1d": (aten.conv1d.default, [SEQUENCE, tensor(6, 5, 3)], {}, 0, True),
    "conv2d, weight": (aten.conv2d.default, [X, tensor(7, 4, 3, 3)], {}, 1, False),
    "transposed": (
        aten.convolution.default,
        [X, tensor(4, 5, 3, 3), None, [2, 2], [1, 1], [1, 1], True, [1, 1], 1],
        {},
        0,
        True,
    ),
    "batch norm, as on a GPU": (
        aten.batch_norm.default,
        [X, tensor(4), tensor(4), tensor(4), tensor(4).abs() + 1, False, 0.1, 1e-5, True],
        {},
        0,
        True,
    ),
    "linear": (aten.linear.default, [SEQUENCE, tensor(9, 8), tensor(9)], {}, 0, True),
    "linear, weight": (aten.linear.default, [SEQUENCE, tensor(9, 8)], {}, 1, False),
    "addmm": (aten.addmm.default, [tensor(9), tensor(5, 8), tensor(8, 9)], {}, 1, True),
    "bmm": (aten.bmm.default, [SEQUENCE, tensor(3, 8, 2)], {}, 1, True),
    "matmul": (aten.matmul.default, [Q, K.mT], {}, 0, True),
    "matmul of a vector": (aten.matmul.default, [SEQUENCE, tensor(8)], {}, 0, False),
    "layer norm": (aten.layer_norm.default, [SEQUENCE, [8], tensor(8), tensor(8), 1e-5], {}, 0, True),
    "layer norm, bare": (aten.layer_norm.default, [SEQUENCE, [5, 8]], {}, 0, True),
    "softmax": (aten.softmax.int, [X, 1], {}, 0, True),
    "softmax, last": (aten._softmax.default, [X, -1, False], {}, 0, True),
    "attention, query": (aten.scaled_dot_product_attention.default, [Q, K, V], {}, 0, True),
    "attention, key": (aten.scaled_dot_product_attention.default, [Q, K, V], {"is_causal": True}, 1, True),
    "attention, value": (aten.scaled_dot_product_attention.default, [Q, K, V, MASK], {"scale": 0.3}, 2, True),
    "attention, bias": (aten.scaled_dot_product_attention.default, [Q, K, V, tensor(5, 5)], {}, 0, True),
    "reshape": (aten.view.default, [X, [3, 4, 36]], {}, 0, True),
    "permute": (aten.permute.default, [X, [0, 2, 3, -3]], {}, 0, True),
    "transpose": (aten.transpose.int, [X, -1, 1], {}, 0, True),
    "unsqueeze": (aten.unsqueeze.default, [X, 1], {}, 0, True),
    "mean": (aten.mean.dim, [X, [2, 3]], {}, 0, False),
    "expand": (aten.expand.default, [tensor(3, 1, 6), [3, 4, 6]], {}, 0, False),
    "slice": (aten.slice.Tensor, [X, 1, 1, 3], {}, 0, False),
    "pool": (aten.max_pool2d.default, [X, 2], {}, 0, False),
    "roll": (aten.roll.default, [X, [1], [2]], {}, 0, False),
    "group norm": (aten.group_norm.default, [X, 2, tensor(4), tensor(4)], {}, 0, False),
}


@pytest.mark.parametrize("name", CASES)
def test_maps_are_the_jacobian_and_its_transpose(name: str) -> None:
    target, args, kwargs, place, closed = CASES[name]
    operand = args[place]

    def run(value: Tensor) -> Tensor:
        return target(*[value if i == place else a for i, a in enumerate(args)], **kwargs)

    with torch.no_grad():
        value, maps = differentiate(target, list(args), kwargs, [place])
    assert (maps is not None) == closed
    if maps is None:
        value, recorded = record(target, lambda leaves: run(leaves[0]), [operand])
        (each,) = recorded[None]
        assert isinstance(each, Recorded)
    else:
        each = maps[place]
    assert torch.equal(value, run(operand))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        output, pullback = torch.func.vjp(run, operand)
        cotangents, tangents = tensor(3, *output.shape, seed=5), tensor(3, *operand.shape, seed=6)
        pulled = torch.stack([pullback(c)[0] for c in cotangents])
        pushed = torch.stack([torch.func.jvp(run, (operand,), (t,))[1] for t in tangents])
    kept = cotangents.clone()
    found, _ = each.pull(cotangents, False)
    torch.testing.assert_close(found, pulled, rtol=1e-9, atol=1e-11)
    assert torch.equal(cotangents, kept)  # not owned, so not overwritten
    torch.testing.assert_close(each.push(tangents), pushed, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(each.pull(cotangents, True)[0], pulled, rtol=1e-9, atol=1e-11)


@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    size=st.integers(3, 7),
    stride=st.integers(1, 2),
    lanes=st.integers(1, 4),
)
@settings(max_examples=25, deadline=None)
def test_convolutions_of_any_shape(batch: int, channels: int, size: int, stride: int, lanes: int) -> None:
    x, weight = tensor(batch, channels, size, size), tensor(2, channels, 3, 3)
    with torch.no_grad():
        value, maps = differentiate(aten.conv2d.default, [x, weight, None, [stride, stride], [1, 1]], {}, [0])
    assert maps is not None
    v, t = tensor(lanes, *value.shape), tensor(lanes, *x.shape)
    # <v, J t> = <J^T v, t> for every lane
    left = (v * maps[0].push(t)).flatten(1).sum(1)
    right = (maps[0].pull(v, False)[0] * t).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-10)


def test_in_place_operators_on_the_signal_are_refused() -> None:
    x = X.clone()
    with pytest.raises(resect.InputError, match=r"aten.relu_.default writes into the signal"):
        record(aten.relu_.default, lambda leaves: aten.relu_.default(leaves[0]), [x])


class Mixed(nn.Module):
    """A block whose branch uses operators with and without a closed form, split tensors and a broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.f, self.out = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 12, 3, padding=1), nn.Linear(6, 10)
        self.back = nn.Conv2d(6, 6, 1)

    def block(self, x: Tensor) -> Tensor:
        one, two = self.f(F.max_pool2d(x, 3, 1, 1)).chunk(2, 1)
        gate = torch.sigmoid(one.mean((2, 3), keepdim=True))
        return x + self.back(torch.roll(two, 1, 2) * gate - torch.cat([one[:, :2], two[:, 2:]], 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.block(self.block(self.stem(images))).mean((2, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_branches_of_many_operators_sum_to_the_gradient(dtype: torch.dtype) -> None:
    model, images = Mixed().to(dtype).eval(), tensor(4, 1, 8, 8).to(dtype)
    net = resect.unravel(model, images)
    data = [(images, torch.tensor([3, 1, 4, 1]))]
    spectrum = resect.path_spectrum(net, data)
    assert spectrum.sum_error < (1e-5 if dtype == torch.float32 else 1e-12)
    depth = resect.participation(net, data, pairs=True).effective_depth
    assert depth == pytest.approx((spectrum.share * [0, 1, 2]).sum(), rel=1e-4)


@pytest.mark.parametrize("name", [name for name, (_, blocks) in CUSTOM.items() if blocks])
def test_shares_through_blocks_sum_to_the_effective_depth_of_every_network(name: str) -> None:
    model, images = CUSTOM[name][0]().double().eval(), tensor(4, 1, 8, 8)
    net, data = resect.unravel(model, images), [(images, torch.tensor([3, 1, 4, 1]))]
    spectrum = resect.path_spectrum(net, data)
    found = resect.participation(net, data, pairs=True)
    lengths = range(len(spectrum.share))
    assert found.effective_depth == pytest.approx((spectrum.share * lengths).sum(), rel=1e-8, abs=1e-10)
    pairs = found.pairs.sum() - found.effective_depth  # twice the mean of k (k - 1) / 2
    assert pairs == pytest.approx((spectrum.share * [k * (k - 1) for k in lengths]).sum(), rel=1e-8, abs=1e-10)
    every = resect.strongest_paths(net, data, count=10**6, limit=10**6)
    assert every.open == 0
    assert every.table["share"].sum() == pytest.approx(1, abs=1e-9)
    np_rows = found.products / found.squares[:, None]
    assert np_rows.sum(1) == pytest.approx((spectrum.shares * lengths).sum(1), rel=1e-7, abs=1e-9)


def test_complex_factors_go_back_conjugate() -> None:
    class Rotary(nn.Module):
        """A branch that turns pairs of channels, as rotary embeddings that are written with complex numbers do."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            turned = torch.view_as_complex(self.one(x).tanh().unflatten(-1, (3, 2)))
            turned = turned * torch.polar(torch.ones(3), torch.arange(3.0)) + turned * turned
            return x + self.two(torch.view_as_real(turned).flatten(-2).relu())

    torch.manual_seed(0)
    net = resect.unravel(nn.Sequential(nn.Linear(4, 6), Rotary(), Rotary(), nn.Linear(6, 3)), torch.randn(2, 4))
    data = [(torch.randn(5, 4), torch.randint(3, (5,)))]
    assert resect.path_spectrum(net, data).sum_error < 1e-6
