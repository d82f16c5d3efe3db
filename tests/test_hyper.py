"""Hyper-connections: found by data flow in every spelling, deleted as by hand, paths as by brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import resect
from by_hand import IMAGES, TARGETS
from hyper_nets import SPELLINGS, Streams, streams
from resect.errors import InputError
from resect.graph.decisions import Gates

HOW = {"mixed": "without", "same": "bypassed", "written": "without_skip", "twice": "repeated"}
COUNT = len(SPELLINGS)


@pytest.mark.parametrize("dynamic", [False, True])
def test_every_spelling_is_found_and_deleted_as_by_hand(dynamic: bool) -> None:
    model = streams(dynamic=dynamic)
    net = resect.unravel(model, IMAGES)
    assert [(b.name, b.kind, b.layers, b.span) for b in net.blocks] == [
        (f"body.{i}", "hyper", 2, 0) for i in range(COUNT)
    ]
    assert not net.rejected
    assert net.check(IMAGES).identical
    with torch.no_grad():
        for how, method in HOW.items():
            for blocks in (*combinations(range(COUNT), 1), (0, 1, COUNT - 1), range(COUNT)):
                expected = model.by_hand(IMAGES, dict.fromkeys(blocks, how))
                assert torch.equal(net(IMAGES, getattr(net.intact, method)(*blocks)), expected), (how, blocks)
        pruned, bypassed = net.without(1, 4), net.standalone("0,bypass,2..6")
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


def gradients(model: Streams, gates: Gates) -> dict[frozenset[int], Tensor]:
    """The gradient at the input along every path, each by a backward pass of its own."""
    paths = {}
    for taken in (frozenset(t) for k in range(len(model.body) + 1) for t in combinations(range(len(model.body)), k)):
        images = IMAGES.double().requires_grad_()
        loss = F.cross_entropy(model.along(images, taken, gates == "frozen"), TARGETS, reduction="sum")
        paths[taken] = torch.autograd.grad(loss, images)[0]
    return paths


@pytest.mark.parametrize("gates", ["differentiated", "frozen"])
def test_paths_by_brute_force_with_the_mixing_as_a_gate(gates: Gates) -> None:
    model = streams("matmul", "one_product", "summed", "transposed").double()
    net, n = resect.unravel(model, IMAGES.double()), 4
    paths = gradients(model, gates)
    truth = sum(paths.values())
    share = {taken: ((g * truth).sum() / truth.square().sum()).item() for taken, g in paths.items()}
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
    with pytest.raises(InputError, match="at"):
        type(whole).joined([whole, frozen])
    with pytest.raises(InputError, match="`gates` must be one of differentiated, frozen, got 'thawed'"):
        resect.PathSettings(gates="thawed")
    static = resect.unravel(streams("einsum", dynamic=False).double(), IMAGES.double())
    alike = [
        resect.path_spectrum(static, data, resect.PathSettings(gates=gates)) for gates in ("frozen", "differentiated")
    ]
    assert {spectrum.at for spectrum in alike} == {"input"}
    np.testing.assert_array_equal(alike[0].norms, alike[1].norms)
