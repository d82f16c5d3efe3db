"""Hyper-connections: found by data flow in every spelling, deleted as by hand, paths as by brute force."""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from x_transformers import Decoder, TransformerWrapper

import resect
from by_hand import IMAGES, TARGETS, mean_share
from hyper_nets import SPELLINGS, streams
from networks import Frame, Highway, Residual
from resect.errors import InputError
from resect.graph.decisions import Gates
from resect.paths.carry import carry_gates

HOW = {"mixed": "without", "same": "bypassed", "written": "without_skip", "twice": "repeated"}
COUNT = len(SPELLINGS)


@pytest.mark.parametrize("dynamic", [False, True])
def test_every_spelling_is_found_and_deleted_as_by_hand(dynamic: bool) -> None:
    model = streams(dynamic=dynamic)
    net = resect.unravel(model, IMAGES)
    assert [(b.name, b.kind, b.layers, b.span) for b in net.blocks] == [
        (f"body.{i}", "hyper", 2, 0) for i in range(COUNT)
    ]
    (rejected,) = net.rejected  # x + H x
    assert rejected.reason.startswith("the mixing of a hyper-connection")
    assert net.check(IMAGES).identical
    with torch.no_grad():
        for how, method in HOW.items():
            for blocks in (*combinations(range(COUNT), 1), (0, 1, COUNT - 1), range(COUNT)):
                expected = model.by_hand(IMAGES, dict.fromkeys(blocks, how))
                assert torch.equal(net(IMAGES, getattr(net.intact, method)(*blocks)), expected), (how, blocks)
        pruned, bypassed = net.without(1, 4), net.standalone("0,bypass,2..7")
        assert torch.equal(pruned(IMAGES), model.by_hand(IMAGES, {1: "mixed", 4: "mixed"}))
        assert torch.equal(bypassed(IMAGES), model.by_hand(IMAGES, {1: "same"}))
    left = dict(pruned.named_parameters())
    assert not any(name.startswith("body.1.f.") for name in left) and "body.1.static" in left
    assert not any(name.startswith("body.1.") for name in dict(bypassed.named_parameters()))


def test_branches_that_trade_places_take_their_reads_and_writes_along() -> None:
    model = streams("matmul", "einsum", "one_product")
    net = resect.unravel(model, IMAGES)
    with torch.no_grad():
        first, second, third = model.body
        x = model.enter(IMAGES)
        x = first.parts(x)[0] + third.parts(x)[1]
        x = second(x)
        x = third.parts(x)[0] + first.parts(x)[1]
        torch.testing.assert_close(net(IMAGES, net.intact.swapped(0, 2)), model.fc(x.sum(1)), rtol=1e-6, atol=1e-6)
    plan = resect.plans.bypassed(net)
    result = resect.lesion(net, [(IMAGES, TARGETS)], plan)
    expected = [F.cross_entropy(model.by_hand(IMAGES, {i: "same"}), TARGETS).item() for i in range(3)]
    assert result.table["loss"].tolist() == pytest.approx(expected, rel=1e-6)


def gradients(model: nn.Module, gates: Gates) -> dict[frozenset[int], Tensor]:
    """The gradient at the input along every path, each by a backward pass of its own."""
    paths = {}
    for taken in (frozenset(t) for k in range(len(model.body) + 1) for t in combinations(range(len(model.body)), k)):
        images = IMAGES.double().requires_grad_()
        loss = F.cross_entropy(model.along(images, taken, gates == "frozen"), TARGETS, reduction="sum")
        paths[taken] = torch.autograd.grad(loss, images)[0]
    return paths


@pytest.mark.parametrize("gates", ["differentiated", "frozen"])
def test_paths_by_brute_force_with_the_mixing_as_a_gate(gates: Gates) -> None:
    model = streams("matmul", "one_product", "summed", "residual").double()
    net, n = resect.unravel(model, IMAGES.double()), 4
    paths = gradients(model, gates)
    truth = sum(paths.values())
    share = {taken: mean_share(g, truth) for taken, g in paths.items()}
    data, settings = [(IMAGES.double(), TARGETS)], resect.PathSettings(gates=gates)
    spectrum = resect.path_spectrum(net, data, settings)
    assert spectrum.count == (1, 4, 6, 4, 1) and spectrum.sum_error < 1e-12
    for k in range(n + 1):
        length = sum(g for taken, g in paths.items() if len(taken) == k)
        np.testing.assert_allclose(spectrum.norms[:, k], length.flatten(1).norm(dim=1), rtol=1e-9)
        expected = sum(part for taken, part in share.items() if len(taken) == k)
        assert spectrum.share[k] == pytest.approx(expected, rel=1e-8, abs=1e-12)
    through = resect.participation(net, data, settings, pairs=True)
    for i in range(n):
        for j in range(n):
            expected = sum(part for taken, part in share.items() if {i, j} <= taken)
            assert through.pairs[i, j] == pytest.approx(expected, rel=1e-8, abs=1e-12)
    strong = resect.strongest_paths(net, data, settings, count=2**n)
    norms = {tuple(sorted(taken)): (g.square().sum() / 4).sqrt().item() for taken, g in paths.items()}
    assert strong.table["blocks"].tolist() == sorted(norms, key=lambda blocks: -norms[blocks])
    np.testing.assert_allclose(strong.table["norm"], sorted(norms.values(), reverse=True), rtol=1e-9)
    results = (spectrum, through, strong, resect.sample_paths(net, data, settings, draws=2))
    assert {result.at for result in results} == {f"input (gates {gates})"}
    assert f"at input (gates {gates})" in spectrum.summary()


def test_gates_of_one_result_are_not_joined_with_those_of_another() -> None:
    net, data = resect.unravel(streams("einsum").double(), IMAGES.double()), [(IMAGES.double(), TARGETS)]
    whole, frozen = (
        resect.path_spectrum(net, data, resect.PathSettings(gates=gates)) for gates in ("differentiated", "frozen")
    )
    assert not np.allclose(whole.norms, frozen.norms)
    with pytest.raises(InputError, match="`parts` must agree in `at`"):
        type(whole).joined([whole, frozen])
    with pytest.raises(InputError, match="`gates` must be one of differentiated, frozen, got 'thawed'"):
        resect.PathSettings(gates="thawed")
    static = resect.unravel(streams("einsum", dynamic=False).double(), IMAGES.double())
    alike = [
        resect.path_spectrum(static, data, resect.PathSettings(gates=gates)) for gates in ("frozen", "differentiated")
    ]
    assert {spectrum.at for spectrum in alike} == {"input"}
    np.testing.assert_array_equal(alike[0].norms, alike[1].norms)


class Highways(nn.Module):
    """Three highway layers, T f(x) + (1 - T) x; with `frozen` the carry gate hands no gradient on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Linear(64, 6), nn.Linear(6, 10)
        self.f = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3))
        self.t = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.body = self.f

    def along(self, images: Tensor, taken: Collection[int] | None, frozen: bool) -> Tensor:
        x = self.stem(images.flatten(1))
        for i, (f, t) in enumerate(zip(self.f, self.t, strict=True)):
            gate = torch.sigmoid(t(x))
            branch, skip = gate * f(x), (1 - gate.detach() if frozen else 1 - gate) * x
            if taken is not None:
                branch, skip = (branch, skip.detach()) if i in taken else (branch.detach(), skip)
            x = branch + skip
        return self.fc(x)

    def forward(self, images: Tensor) -> Tensor:
        return self.along(images, None, False)


@pytest.mark.parametrize("gates", ["differentiated", "frozen"])
def test_the_carry_gate_of_a_highway_block_is_a_gate_too(gates: Gates) -> None:
    model = Highways().double()
    net = resect.unravel(model, IMAGES.double())
    assert {block.kind for block in net.blocks} == {"gated"}
    paths = gradients(model, gates)
    spectrum = resect.path_spectrum(net, [(IMAGES.double(), TARGETS)], resect.PathSettings(gates=gates))
    for k in range(4):
        length = sum(g for taken, g in paths.items() if len(taken) == k)
        np.testing.assert_allclose(spectrum.norms[:, k], length.flatten(1).norm(dim=1), rtol=1e-9)
    assert spectrum.sum_error < 1e-12 and spectrum.at == f"input (gates {gates})"


def test_what_carry_gates_let_through_is_their_mean() -> None:
    model = Highways()
    data = [(IMAGES[:2], TARGETS[:2]), (IMAGES[2:], TARGETS[2:])]
    carry = carry_gates(resect.unravel(model, IMAGES), data)
    x, expected = model.stem(IMAGES.flatten(1)), []
    for f, t in zip(model.f, model.t, strict=True):
        gate = torch.sigmoid(t(x))
        expected.append(1 - gate.mean(1))
        x = gate * f(x) + (1 - gate) * x
    np.testing.assert_allclose(carry, torch.stack(expected, 1).detach(), rtol=1e-6)
    assert carry_gates(resect.unravel(streams("einsum"), IMAGES), data) is None
    mixed = resect.unravel(Frame(Residual(), Highway()).eval(), IMAGES)
    assert np.isnan(carry_gates(mixed, data)).all(0).tolist() == [True, False]


class Tokens(nn.Module):
    """Sums over tokens (B, n, D) that resemble hyper-connections, and are none."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Linear(8, 6), nn.Linear(6, 10)
        self.q, self.k, self.v, self.o, self.gate = (nn.Linear(6, 6) for _ in range(5))
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
        self.mix = nn.Parameter(torch.randn(8, 8) / 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images[:, 0])
        attention = (self.q(x) @ self.k(x).mT).softmax(-1)
        x = x + self.o(attention @ self.v(x))
        x = attention @ x + self.mlp(x)
        x = self.o(attention @ self.v(x) + self.q(x))
        x = x + self.mix @ self.mlp(x)  # a mixer
        x = x * torch.sigmoid(self.gate(x.mean(1)))[:, None] + self.mlp(x)
        x = x + self.mlp((attention @ x).mean(1))[:, None].expand(-1, 8, -1)  # global context
        x = self.mix @ x + self.mix.mT @ self.q(x)
        x = self.mix @ x + self.mlp(x)
        return self.fc(self.delta_rule(x).mean(1))

    def delta_rule(self, x: Tensor) -> Tensor:
        """Its state (B, 6, 6) is mixed by a matrix and written to by an outer product."""
        state, out = torch.zeros(len(x), 6, 6), []
        q, k, v = self.q(x), self.k(x), self.v(x)
        for i in range(3):
            erased = torch.eye(6) - 0.5 * k[:, i, :, None] * k[:, i, None]
            state = erased @ state + k[:, i, :, None] * v[:, i, None]
            out.append((q[:, i, None] @ state)[:, 0])
        return torch.stack(out, 1)


def test_sums_over_tokens_are_no_hyper_connections() -> None:
    assert {block.kind for block in resect.unravel(Tokens(), IMAGES).blocks} == {"identity", "projection"}


def test_a_branch_is_scaled_by_the_weights_that_it_ends_in() -> None:
    model = streams("matmul", "einsum")
    net = resect.unravel(model, IMAGES)
    with torch.no_grad():
        x = model.enter(IMAGES)
        for connection in model.body:
            mixed, written = connection.parts(x)
            x = mixed + 0.5 * written
        expected = model.fc(x.sum(1))
        with net.schedule(resect.schedules.FixedCount(1)) as scheduled:
            scheduled.fold()
        torch.testing.assert_close(model(IMAGES), expected)


@pytest.mark.slow
@pytest.mark.parametrize("views", [False, True])
def test_streams_of_x_transformers(views: bool) -> None:
    layers = Decoder(
        dim=16, depth=1, heads=2, attn_dim_head=8, num_residual_streams=4, qkv_receive_diff_residuals=views,
        hyper_conn_sinkhorn_iters=1,
    )  # fmt: skip
    model, ids = TransformerWrapper(num_tokens=20, max_seq_len=8, attn_layers=layers), torch.randint(0, 20, (2, 8))
    net = resect.unravel(model.eval(), ids)
    assert [block.kind for block in net.blocks] == ["hyper"] * 2
    assert net.check(ids).identical
    assert resect.path_spectrum(net, [(ids, ids.flip(1))]).sum_error < 1e-5


@pytest.mark.slow
def test_deepseek_v4_has_two_blocks_a_layer() -> None:
    config = transformers.DeepseekV4Config(
        vocab_size=99, hidden_size=32, moe_intermediate_size=16, num_hidden_layers=3, num_attention_heads=4,
        head_dim=16, q_lora_rank=16, n_routed_experts=4, num_experts_per_tok=2, o_groups=2, o_lora_rank=8,
        index_n_heads=2, index_head_dim=8, index_topk=4, num_hash_layers=1,
    )  # fmt: skip
    model, ids = transformers.DeepseekV4ForCausalLM(config).eval(), torch.randint(0, 99, (2, 16))
    net = resect.unravel(model, {"input_ids": ids})
    names = [f"model.layers.{i}.{part}" for i in range(3) for part in ("self_attn", "mlp")]
    assert [(block.name, block.kind) for block in net.blocks] == [(name, "hyper") for name in names]
    assert net.check({"input_ids": ids}).identical

    with torch.no_grad():
        lesioned = net({"input_ids": ids}, net.intact.without("model.layers.1.mlp")).logits
        mlp = model.model.layers[1].mlp
        hook = mlp.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
        assert torch.equal(lesioned, model(input_ids=ids).logits)
        hook.remove()
    spectrum = resect.path_spectrum(net, [({"input_ids": ids}, ids.flip(1))])
    assert spectrum.count == (1, 6, 15, 20, 15, 6, 1) and spectrum.sum_error < 1e-5
