"""The gradient by path length: places, scalars, truncation, checks and scales."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import resect
from by_hand import IMAGES, TARGETS, Linear, chain
from networks import CUSTOM, Frame, Residual
from resect.paths.participation import participation
from resect.paths.polynomial import at_target, decompose
from resect.paths.settings import PathSettings
from resect.paths.target import resolve_target
from resect.paths.trace import Trace


def test_coefficients_themselves_by_brute_force() -> None:
    made = chain("CNN of 6 blocks")
    net, paths, n = made.net, made.paths, made.blocks
    trace = Trace(net, IMAGES.double(), TARGETS, resolve_target(net, "input"))
    degrees = decompose(trace, n, rest=False)
    for some, arrived in at_target(trace, degrees.lanes, n + 1):
        (found,) = arrived.values()
        for k, lane in zip(range(n + 1)[some], found, strict=True):
            expected = sum(g for taken, g in paths.items() if sum(taken) == k)
            torch.testing.assert_close(lane * 2.0 ** int(degrees.exponents[k]), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("longest", [0, 2, 5, 6])
def test_truncated_spectra_keep_the_exact_rest(longest: int) -> None:
    made = chain("CNN of 6 blocks")
    net, paths = made.net, made.paths
    data = [(IMAGES.double(), TARGETS)]
    full, cut = resect.path_spectrum(net, data), resect.path_spectrum(net, data, max_length=longest)
    np.testing.assert_allclose(cut.share[: longest + 1], full.share[: longest + 1], rtol=1e-9)
    assert np.isnan(cut.share[longest + 1 :]).all()
    rest = sum((g for taken, g in paths.items() if sum(taken) > longest), torch.zeros(4, 1, 8, 8))
    np.testing.assert_allclose(cut.rest_norms, rest.flatten(1).norm(dim=1), rtol=1e-8, atol=1e-13)
    assert np.nansum(cut.share) + cut.rest_share == pytest.approx(1.0, abs=1e-12)
    assert cut.sum_error < 1e-12
    if longest == 0:
        with pytest.raises(resect.InputError, match="`max_length` must be longer for a range that holds 99%"):
            cut.effective(0.99)


# where, the first block that a path to it can take, and whether it must: a parameter of block 3 lies on its branch
PLACES = [
    ("stem", 0, False),
    (2, 2, False),
    ("blocks.4", 4, False),
    ("blocks.3.c1.weight", 3, True),
    ("blocks.0.bn2.bias", 0, True),
    ("stem.weight", 0, False),
    ("fc.weight", 6, False),
]


@pytest.mark.parametrize(("at", "first", "must"), PLACES)
@pytest.mark.parametrize("of", ["loss", "target", 3, lambda outputs, targets: outputs.square().sum(1)])
def test_gradients_at_other_places_and_of_other_scalars_by_brute_force(at, first: int, must: bool, of) -> None:
    made = chain("CNN of 6 blocks")
    model, n, images = made.model, made.blocks, IMAGES.double()
    by_length = [torch.zeros(1, dtype=torch.float64) for _ in range(n + 1)]
    for behind in product([False, True], repeat=n - first):
        if must and not behind[0]:
            continue
        states: list[Tensor] = []
        logits = made.forward(model, images, (False,) * first + behind, states)
        value = {"loss": nn.functional.cross_entropy(logits, TARGETS, reduction="sum"), 3: logits[:, 3].sum()}
        value["target"] = logits.gather(1, TARGETS[:, None]).sum()
        place = dict(model.named_parameters()).get(at, states[first])
        scalar = value[of] if of in value else of(logits, TARGETS).sum()
        by_length[sum(behind)] = by_length[sum(behind)] + torch.autograd.grad(scalar, place)[0]
    net, data = made.net, [(images, TARGETS)]
    spectrum = resect.path_spectrum(net, data, PathSettings(at=at, of=of))
    for k, total in enumerate(by_length):
        rows = total.flatten(1) if len(spectrum.squares) == 4 and total.ndim > 1 else total.reshape(1, -1)
        expected = np.broadcast_to(rows.norm(dim=1), len(spectrum.squares))
        np.testing.assert_allclose(spectrum.norms[:, k], expected, rtol=1e-8, atol=1e-13)
    paths_behind = n - first - must
    assert spectrum.count == tuple(comb(paths_behind, k - must) if k >= must else 0 for k in range(n + 1))
    assert spectrum.share.sum() == pytest.approx(1.0, abs=1e-10)
    depth = participation(net, data, PathSettings(at=at, of=of)).effective_depth
    assert depth == pytest.approx((spectrum.share * np.arange(n + 1)).sum(), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("name", ["original form", "CNN of 6 blocks"])
def test_at_a_block_is_its_input_whatever_follows_the_addition(name: str) -> None:
    made = chain(name)
    model, n, images = made.model, made.blocks, IMAGES.double()
    for at in range(n):
        entered: list[Tensor] = []
        hook = model.blocks[at].register_forward_pre_hook(lambda _, inputs, kept=entered: kept.append(inputs[0]))
        loss = nn.functional.cross_entropy(model(images), TARGETS, reduction="sum")
        hook.remove()
        whole = torch.autograd.grad(loss, entered[0])[0]
        by_length = [torch.zeros_like(whole) for _ in range(n + 1)]
        for behind in product([False, True], repeat=n - at):
            states: list[Tensor] = []
            logits = made.forward(model, images, (False,) * at + behind, states)
            along = nn.functional.cross_entropy(logits, TARGETS, reduction="sum")
            by_length[sum(behind)] += torch.autograd.grad(along, states[at])[0]
        where = PathSettings(at=at)
        spectrum = resect.path_spectrum(made.net, [(images, TARGETS)], where)
        np.testing.assert_allclose(spectrum.squares, whole.flatten(1).square().sum(1), rtol=1e-9)
        for k, total in enumerate(by_length):
            np.testing.assert_allclose(spectrum.norms[:, k], total.flatten(1).norm(dim=1), rtol=1e-8, atol=1e-13)
        strong = resect.strongest_paths(made.net, [(images, TARGETS)], where, count=2**n)
        assert (len(strong.table), strong.open) == (2 ** (n - at), 0)
        assert strong.table["share"].sum() == pytest.approx(1, abs=1e-9)


class PostNorm(nn.Module):
    """x = norm(x + f(x)), three times: every block starts behind a norm, the first one, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Linear(64, 8), nn.Linear(8, 10)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[3](self.stem(x.flatten(1)))
        for block, norm in zip(self.blocks, self.norms, strict=False):
            x = norm(x + torch.tanh(block(x)))
        return self.out(x)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_at_a_block_is_behind_the_norm_before_it(at: int) -> None:
    model = PostNorm().double()
    entered: list[Tensor] = []
    hook = model.blocks[at].register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    loss = nn.functional.cross_entropy(model(IMAGES.double()), TARGETS, reduction="sum")
    hook.remove()
    (gradient,) = torch.autograd.grad(loss, entered[0])
    net = resect.unravel(model, IMAGES.double())
    spectrum = resect.path_spectrum(net, [(IMAGES.double(), TARGETS)], PathSettings(at=at))
    np.testing.assert_allclose(spectrum.squares, gradient.square().sum(1), rtol=1e-9)
    assert spectrum.count == tuple(comb(3 - at, k) for k in range(4))


def test_bad_places_and_scalars_are_named(net, batch) -> None:
    for own, message in [
        (PathSettings(at="blocks.1.c7.weight"), "`at` must be .* got 'blocks.1.c7.weight'. Close to it: blocks.1.c"),
        (PathSettings(at=9), "its index below 9.* got 9"),
        (PathSettings(of="logit"), "`of` must be 'loss', 'target', a class below 10"),
        (PathSettings(of=10), "a class below 10"),
        (
            PathSettings(of=lambda outputs, targets: outputs),
            r"`of` must return one value a sample, a tensor \(6,\), got \(6, 10\)",
        ),
        (PathSettings(of=lambda outputs, targets: targets), "`of` must be differentiable"),
        (PathSettings(of=lambda outputs, targets: outputs[:, 0] * 1j), "`of` must be differentiable"),
        (PathSettings(memory=1000), "`memory` must hold one sample with 10 lanes"),
    ]:
        with pytest.raises(resect.InputError, match=message):
            resect.path_spectrum(net, [batch], own)
    with pytest.raises(resect.InputError, match="`max_length` must be a whole number of at least 0"):
        resect.path_spectrum(net, [batch], max_length=-1)


def test_little_memory_splits_batches_and_changes_nothing_but_rounding(net, batch) -> None:
    whole = resect.path_spectrum(net, [batch])
    settings = PathSettings(memory=150_000)
    split = resect.path_spectrum(net, [batch], settings)
    np.testing.assert_allclose(split.share, whole.share, atol=1e-6)
    alone = participation(net, [batch], settings, pairs=True)
    np.testing.assert_allclose(alone.pairs, participation(net, [batch], pairs=True).pairs, atol=1e-6)
    few, many = (resect.sample_paths(net, [batch], given, draws=2).table for given in (settings, None))
    np.testing.assert_allclose(few["path_norm"], many["path_norm"], rtol=1e-4)  # the same paths


def test_errors_of_the_sum_are_errors(resnet, batch) -> None:
    half = resect.unravel(resnet.bfloat16(), batch[0][:1].bfloat16())
    with pytest.raises(resect.AccuracyError, match="must sum to autograd's"):
        resect.path_spectrum(half, [(batch[0].bfloat16(), batch[1])])


def test_intervals_cover_and_tighten(net, batch) -> None:
    generator = torch.Generator().manual_seed(3)
    images, targets = torch.randn(80, 1, 8, 8, generator=generator), torch.randint(0, 10, (80,), generator=generator)
    few = resect.path_spectrum(net, [(images[:20], targets[:20])])
    many = resect.path_spectrum(net, [(images, targets)])
    (low, high), (lower, higher) = few.share_interval(), many.share_interval()
    assert np.all(low <= few.share) and np.all(few.share <= high)
    assert (higher - lower)[:4].sum() < (high - low)[:4].sum()
    assert np.isnan(resect.path_spectrum(net, [(images[:1], targets[:1])]).share_interval()[0]).all()


def test_paths_through_nested_blocks() -> None:
    net = resect.unravel(CUSTOM["restoration"][0](), IMAGES)
    spectrum = resect.path_spectrum(net, [(IMAGES, TARGETS)])
    assert spectrum.count == (1, 1, 3, 3, 1)  # 1 + z (1 + z)^3: the inner blocks count on routes through the outer
    assert spectrum.sum_error < 1e-6


@pytest.mark.parametrize("name", [name for name, (_, blocks) in CUSTOM.items() if blocks and name != "in-place"])
def test_shares_sum_to_the_gradient_of_autograd(name: str) -> None:
    """All but the in-place network, which autograd itself cannot differentiate; see the next test."""
    model = CUSTOM[name][0]().eval()
    net = resect.unravel(model, IMAGES)
    spectrum = resect.path_spectrum(net, [(IMAGES, TARGETS)])
    images = IMAGES.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(images), TARGETS, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    np.testing.assert_allclose(spectrum.squares, gradient.flatten(1).square().sum(1), rtol=1e-4)
    assert spectrum.share.sum() == pytest.approx(1.0, abs=1e-5)
    assert spectrum.sum_error < 1e-5


def test_in_place_operators_do_not_disturb_gradients() -> None:
    net = resect.unravel(CUSTOM["in-place"][0](), IMAGES)
    assert resect.path_spectrum(net, [(IMAGES, TARGETS)]).sum_error < 1e-5


@given(scales=st.lists(st.floats(0.01, 20), min_size=1, max_size=7), size=st.integers(2, 9), batch=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_linear_networks_have_the_elementary_symmetric_polynomials(scales: list[float], size: int, batch: int) -> None:
    model = Linear(scales, size).double()
    x = torch.randn(batch, size, dtype=torch.float64) * 1e-9  # else the softmax saturates, and the gradient is 0
    targets = torch.arange(batch) % size
    net = resect.unravel(model, x)
    spectrum = resect.path_spectrum(net, [(x, targets)])
    logits = model(x).detach().requires_grad_()
    (top,) = torch.autograd.grad(nn.functional.cross_entropy(logits, targets, reduction="sum"), logits)
    coefficients = [top]
    for matrix in reversed(list(model.matrices)):  # C(z) <- (1 + z A^T) C(z)
        kept, raised = [*coefficients, 0], [0, *(c @ matrix for c in coefficients)]
        coefficients = [a + b for a, b in zip(kept, raised, strict=True)]
    for k, expected in enumerate(coefficients):
        np.testing.assert_allclose(spectrum.norms[:, k], expected.detach().norm(dim=1), rtol=1e-8)


def test_long_networks_do_not_underflow_in_float32() -> None:
    scales = [1e-3] * 40
    x, targets = torch.randn(2, 5), torch.tensor([0, 1])
    single = resect.path_spectrum(resect.unravel(Linear(scales), x), [(x, targets)])
    double = resect.path_spectrum(resect.unravel(Linear(scales).double(), x.double()), [(x.double(), targets)])
    assert double.norm[40] < 1e-100
    np.testing.assert_allclose(single.norm, double.norm, rtol=1e-3)


def test_gradients_of_branches_are_measured_at_the_stem_for_tokens() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.f, self.out = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            x = x + torch.tanh(self.f(x))
            return self.out(x)

    ids = torch.randint(0, 9, (2, 4))
    net = resect.unravel(Tokens(), ids)
    spectrum = resect.path_spectrum(net, [(ids, (ids + 1) % 9)])
    assert spectrum.at == "stem"
    assert spectrum.share.sum() == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(resect.InputError, match="`at` must be 'stem'"):
        resect.path_spectrum(net, [(ids, ids)], PathSettings(at="input"))


def test_plain_networks_have_no_paths() -> None:
    net = resect.unravel(nn.Sequential(nn.Flatten(), nn.Linear(64, 64)), IMAGES)
    with pytest.raises(resect.InputError, match="no residual joins"):
        resect.path_spectrum(net, [(IMAGES, TARGETS)])
    with pytest.raises(resect.DataError, match="at least one"):
        resect.path_spectrum(resect.unravel(Frame(Residual()), IMAGES), [])


def test_paths_end_in_the_logits_and_not_in_other_outputs() -> None:
    class Hidden(Frame):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            states = [self.stem(x)]
            for block in self.body:
                states.append(block(states[-1]))
            return {"hidden": states[2], "logits": self.fc(states[-1].mean((2, 3)))}

    model = Hidden(Residual(), Residual(), Residual()).eval()
    spectrum = resect.path_spectrum(resect.unravel(model, IMAGES), [(IMAGES, TARGETS)])
    assert spectrum.count == (1, 3, 3, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steep_falls_do_not_overflow_the_scales(dtype: torch.dtype) -> None:
    x, targets = torch.randn(2, 5, dtype=dtype), torch.tensor([0, 1])
    net = resect.unravel(Linear([1e-10] * 8).to(dtype), x)
    spectrum = resect.path_spectrum(net, [(x, targets)])
    samples = resect.sample_paths(net, [(x, targets)], draws=3)
    ratios = np.log10(spectrum.norm[:-1] / spectrum.norm[1:])
    assert ((ratios > 8) & (ratios < 12)).all()
    assert np.isfinite(samples.mean).all()
    assert samples.mean[8] == pytest.approx(spectrum.norm[8], rel=1e-3)
