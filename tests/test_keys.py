"""Every value that programs name has a key of its own."""

from __future__ import annotations

from itertools import product

import pytest
import torch

import resect
from networks import CUSTOM
from resect.graph.decisions import Decision
from resect.graph.keys import Keys
from resect.graph.resolve import Programs
from resect.graph.slices import Sliced
from resect.models.resnet import CifarResNet

IMAGES = torch.zeros(2, 1, 8, 8)


def network(name: str) -> resect.Unraveled:
    """A small network of tests/networks.py; or a ResNet with projections, in its original form or as plain layers."""
    if name in CUSTOM:
        return resect.unravel(CUSTOM[name][0](), IMAGES)
    return resect.unravel(CifarResNet(8, width=3, channels=1, preactivation=False), IMAGES, plain=name == "plain")


def keys_by_value(keys: Keys, sliced: Sliced) -> dict[tuple, int]:
    """The key of every value, by what the value is."""
    named: dict[tuple, int] = {(node.name,): keys.of(node) for node in keys.nodes} | {("others",): keys.others}
    for slot in sliced.slots:
        named["skip", slot.join.node.name] = keys.skip(slot)
        named["mean", slot.index] = keys.mean(slot)
        for node in keys.nodes:
            named["borrowed", slot.index, node.name] = keys.borrowed(slot, node)
            named["first", slot.index, node.name] = keys.first_run(slot, node)
            named["second", slot.index, node.name] = keys.second_run(slot, node)
    return named


def choices_of(net: resect.Unraveled) -> list[list[Decision]]:
    """All that each slot can be told."""
    choices: list[list[Decision]] = []
    for slot in net.sliced.slots:
        fits = [b.index for b in net.blocks if b.span == net.blocks[slot.index].span]
        variants = [resect.Variant.TWICE] * (not slot.refusals.twice)
        choices.append([None, *fits, *variants, *[resect.Variant.BRANCH_ONLY] * (not slot.refusals.branch_only)])
    return choices


@pytest.mark.parametrize("name", [*(name for name, (_, blocks) in CUSTOM.items() if blocks), "resnet", "plain"])
def test_no_keys_collide(name: str) -> None:
    net = network(name)
    sliced = net.sliced
    named = keys_by_value(Keys(sliced), sliced)
    assert len(set(named.values())) == len(named)
    ways = [Programs(sliced), Programs(sliced, edges=True)]
    ways += [] if net.plain else [Programs(sliced, removal="mean"), Programs(sliced, removal="other sample")]
    possible = set(named.values())
    for programs, arrangement in product(ways, product(*choices_of(net))):
        steps = [step for program in programs.fold(arrangement) for step in program.steps]
        sizes = [step for step in steps if step.key < 0]  # each computed anew, from the inputs, where it is needed
        assert len({step.key for step in sizes}) == len({(step.key, step.target, str(step.args)) for step in sizes})
        made = [step.key for step in steps if step.key >= 0]
        assert len(set(made)) == len(made), arrangement
        assert min(made) >= programs.keys.given, arrangement  # parameters, constants and inputs are never overwritten
        assert possible.issuperset(made), arrangement
