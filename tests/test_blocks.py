"""Blocks by number, from the end, and by name: in arrangements, `net.blocks`, settings and on the command line."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import resect
from networks import CUSTOM
from resect.cli._options import Blocks as BlocksOption
from resect.jobs.lesion import LesionJob
from resect.jobs.source import Source
from resect.network.blocks import block_index

METHODS = ("without", "without_skip", "repeated")


@pytest.fixture(scope="module")
def nested() -> resect.Unraveled:
    """Blocks body.0.inner.0 to body.0.inner.2, inside of body.0."""
    return resect.unravel(CUSTOM["restoration"][0]().eval(), torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("method", METHODS)
def test_a_block_is_its_number_its_place_from_the_end_and_its_name(net, method: str) -> None:
    call = getattr(net.intact, method)
    for same in (7, -2, "blocks.7", np.int64(7), torch.tensor(7), net.blocks[7]):
        assert call(same) == call(7)
        assert call(same).count(7) == 0
    for same in (["blocks.1", -1], range(1, 9, 7), np.array([8, 1]), {1, "blocks.8"}, iter((1, 8))):
        assert call(same) == call(1, 8) == call("blocks.8", 1)
    assert call() == call([]) == net.intact


def test_swaps_take_names_and_results_keep_them(net) -> None:
    assert net.intact.swapped("blocks.0", -8) == net.intact.swapped(0, 1)
    assert net.intact.without(0).swapped("blocks.1", "blocks.2").without("blocks.4") == (
        None,
        2,
        1,
        3,
        None,
        5,
        6,
        7,
        8,
    )
    assert net.arrangement(range(9)).without("blocks.4") == net.intact.without(4)
    assert net.without("blocks.1", -1).state_dict().keys() == net.without([1, 8]).state_dict().keys()


def test_the_text_of_an_arrangement_runs(net, batch) -> None:
    assert torch.equal(net(batch[0], "0,-,2..8"), net(batch[0], net.intact.without(1)))
    assert net.arrangement("0,-,2..8").without("blocks.2") == net.intact.without(1, 2)
    with pytest.raises(
        resect.ArrangementError, match=r"in an arrangement that belongs to no network yet, got 'blocks\.2'"
    ):
        resect.Arrangement.parse("0,-,2..8").without("blocks.2")


def test_blocks_are_found_by_name(net, nested) -> None:
    assert net.blocks["blocks.3"] is net.blocks[3]
    assert "blocks.3" in net.blocks and net.blocks[3] in net.blocks and "blocks.9" not in net.blocks
    assert net.blocks[-1].name == net.blocks.names[-1] == "blocks.8"
    assert net.blocks[1:3] == tuple(net.blocks)[1:3]
    assert [nested.blocks[name].index for name in nested.blocks.names] == [0, 1, 2, 3]
    assert nested.blocks["body.0"].index == 3  # its own name, although others begin with it
    with pytest.raises(resect.ArrangementError, match=r"got 'blocks\.9'\. Close to it: blocks\.8"):
        net.blocks["blocks.9"]


def test_the_start_of_a_name_will_do_if_no_other_has_it(nested) -> None:
    names = ("layer1.0.branch", "layer1.1.branch", "layer1.10.branch", "head", "head#2")
    assert block_index("layer1.1", 5, names) == 1
    assert block_index("head", 5, names) == 3
    with pytest.raises(resect.ArrangementError, match=r"names of 3 begin with 'layer1': layer1\.0\.branch, layer1\.1"):
        block_index("layer1", 5, names)
    with pytest.raises(
        resect.ArrangementError, match=r"the names of 4 begin with 'body': body\.0\.inner\.0, .*Name one"
    ):
        nested.intact.without("body")


@pytest.mark.parametrize("wrong", [9, -10, True, 1.0, None, "3", "", "block", torch.tensor([[1.5]])])
def test_what_is_no_block_is_named(net, wrong: object) -> None:
    for call in (net.intact.without, net.intact.repeated, lambda block: net.intact.swapped(0, block)):
        with pytest.raises(resect.ArrangementError, match=r"a block must be one of the 9 blocks, .*blocks\.8") as error:
            call(wrong)
        assert repr(wrong) in str(error.value) or isinstance(wrong, torch.Tensor)


NAMES = st.lists(
    st.from_regex(r"[a-z0-9]{1,2}(\.[a-z0-9]{1,2}){0,2}(#[2-9])?", fullmatch=True), min_size=1, unique=True
)


@given(NAMES, st.data())
def test_every_name_is_that_of_its_own_block(names: list[str], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(names) - 1))
    assert block_index(names[index], len(names), names) == index
    assert block_index(index - len(names), len(names), names) == index
    start = names[index].split(".")[0]
    inside = [name for name in names if re.fullmatch(rf"{re.escape(start)}([.#].*)?", name)]
    if start in names or len(inside) == 1:
        assert names[block_index(start, len(names), names)] in inside
    else:
        with pytest.raises(resect.ArrangementError, match=re.escape(inside[0])):
            block_index(start, len(names), names)


def test_places_of_gradients_are_blocks_by_any_of_their_names(net, batch) -> None:
    shares = [resect.path_spectrum(net, [batch], resect.PathSettings(at=at)) for at in (6, -3, "blocks.6")]
    assert {spectrum.at for spectrum in shares} == {"input of blocks.6"}
    assert all(np.array_equal(spectrum.share, shares[0].share) for spectrum in shares)
    with pytest.raises(resect.InputError, match=r"`at` must be .* got -10"):
        resect.path_spectrum(net, [batch], resect.PathSettings(at=-10))


@pytest.mark.parametrize(
    ("text", "same"), [("blocks.2,-1", (2, 8)), (" 0-2, 5 ,blocks.2", (0, 1, 2, 5)), ("-9", (0,)), ("8", (8,))]
)
def test_the_command_line_takes_names_and_ranges(net, text: str, same: tuple[int, ...]) -> None:
    blocks = BlocksOption().convert(text, None, None)
    plan = LesionJob(Source("resect:resnet20", "digits"), without=blocks).make_plan(net)
    assert plan.arrangements == (net.intact.without(*same),)
