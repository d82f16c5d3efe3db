"""Highway blocks: found, deleted, moved with their skips, and written in two forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import resect
from by_hand import IMAGES
from conftest import randomise_norms
from networks import Frame, Highway, Parallel, Residual
from resect.models.highway import CifarHighway, HighwayBlock
from resect.models.specs import load_model
from resect.sweep import plans


@pytest.mark.slow
def test_highway_blocks_are_found_and_deleting_one_closes_its_gate() -> None:
    network = randomise_norms(CifarHighway(6, width=4, channels=1))
    images = torch.randn(3, 1, 8, 8)
    net = resect.unravel(network, images)
    assert [block.name for block in net.blocks] == [f"stages.{s}.{b}" for s in range(3) for b in (0, 1)][:2] + [
        f"stages.{s}.{b}" for s in (1, 2) for b in (1, 2)
    ]
    assert net.check(images).identical
    assert not torch.equal(net(images), net(images, net.intact.without(3)))
    network.stages[1][2].gate.bias.data.fill_(-1e9)  # sigmoid is 0: all is carried
    closed = network(images)
    assert torch.equal(closed, net(images, net.intact.without(3)))


def test_carry_gates_stand_on_the_skips_of_the_same_function() -> None:
    plain, gated = (CifarHighway(3, width=4, channels=1, carry_gates=gates) for gates in (False, True))
    gated.load_state_dict(randomise_norms(plain).state_dict())
    images = torch.randn(3, 1, 8, 8)
    first, second = (resect.unravel(network.eval(), images) for network in (plain, gated))
    kinds = [{block.kind for block in net.blocks} for net in (first, second)]
    assert kinds == [{"identity"}, {"gated"}]
    for gone in ((), (1,), (0, 2)):
        outputs = [net(images, net.intact.without(*gone)) for net in (first, second)]
        torch.testing.assert_close(*outputs)
    with pytest.raises(resect.SpecError, match="`carry_gates` is no part of a spec"):
        gated.shortened({"stages.1.1"})
    made = load_model("resect:highway12-cifar10", model_args={"carry_gates": True}).module
    assert all(block.carry_gates for block in made.modules() if isinstance(block, HighwayBlock))


def test_highway_gates_are_biased_to_carry() -> None:
    network = CifarHighway(3, width=4)
    x = torch.zeros(1, 4, 8, 8)
    assert torch.allclose(torch.sigmoid(network.stages[0][0].gate(x)), torch.sigmoid(torch.tensor(-2.0)))
    with pytest.raises(resect.SpecError, match=r"must be a multiple of 3, got 7\. The nearest are 6 and 9"):
        load_model("resect:highway7")


@pytest.mark.parametrize("blocks", [(Highway, Highway), (Highway, Residual), (Residual, Highway)])
def test_carry_gates_go_with_the_blocks_that_trade_places(blocks: tuple[type[nn.Module], ...]) -> None:
    model = Frame(*(block() for block in blocks)).eval()
    net = resect.unravel(model, IMAGES)
    first, second = model.body
    for arrangement, body in (((1, 0), (second, first)), ((1, None), (second,)), ((1, 1), (second, second))):
        other = Frame(*body).eval()
        other.stem, other.fc = model.stem, model.fc
        with torch.no_grad():
            assert torch.equal(net(IMAGES, arrangement), other(IMAGES))
            assert torch.equal(net.standalone(arrangement)(IMAGES), other(IMAGES))


@pytest.mark.parametrize("grouped", [False, True])
def test_gated_blocks_and_such_that_share_a_skip_stay_where_they_are(grouped: bool) -> None:
    net = resect.unravel(Frame(Parallel(grouped), Highway(), Highway()).eval(), IMAGES)
    with pytest.raises(
        resect.ArrangementError, match="must stay where it is, another block starts from the same value"
    ):
        net(IMAGES, net.intact.swapped(0, 2))
    first, second = net.model.body[1:]
    swapped = Frame(net.model.body[0], second, first).eval()
    swapped.stem, swapped.fc = net.model.stem, net.model.fc
    with torch.no_grad():
        assert torch.equal(net(IMAGES, net.intact.swapped(2, 3)), swapped(IMAGES))
    assert {tuple(plan) for plan in plans.shuffled(net, 1, 20).arrangements} == {(0, 1, 3, 2)}
