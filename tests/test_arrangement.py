"""The text form of arrangements."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import resect
from resect.network.arrangement import Arrangement

ONLY, TWICE = resect.Variant.BRANCH_ONLY, resect.Variant.TWICE
TEXTS = {
    "": (),
    "0": (0,),
    "0..53": tuple(range(54)),
    "0..2,-,4..53": (0, 1, 2, None, *range(4, 54)),
    "0,2,1,3": (0, 2, 1, 3),
    "0,-,2,-,4..5": (0, None, 2, None, 4, 5),
    "1,1,1": (1, 1, 1),
    "1,2,0": (1, 2, 0),
    "-,no-skip,twice,3": (None, ONLY, TWICE, 3),
}


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_arrangements(text: str) -> None:
    assert str(Arrangement(TEXTS[text])) == text
    assert Arrangement.parse(text) == TEXTS[text]
    assert type(Arrangement.parse(text)) is Arrangement


OWN = "own"
DECISIONS = st.one_of(st.just(OWN), st.none(), st.sampled_from(resect.Variant), st.integers(0, 999_999))


@given(st.lists(DECISIONS))
def test_any_arrangement_is_read_back_from_its_text(decisions: list) -> None:
    arrangement = Arrangement(i if decision == OWN else decision for i, decision in enumerate(decisions))
    assert Arrangement.parse(str(arrangement)) == arrangement


def test_a_text_may_be_written_by_hand(net, batch) -> None:
    arrangement = Arrangement.parse(" 0, 1 ,2, - ,4..8 ")
    assert arrangement == net.intact.without(3)
    assert net(batch[0], arrangement).equal(net(batch[0], net.intact.without(3)))
    assert Arrangement.parse("0..0,1") == (0, 1)


@pytest.mark.parametrize(
    ("text", "entry"), [("0,,2", "'' for slot 1"), ("0..2,x", "'x' for slot 3"), ("-1", "'-1'"), ("0,1.5", "'1.5'"),
                        ("0..1..2", "'0..1..2'"), ("None", "'None'"), ("0..1,\u0663", "for slot 2"), ("0..9999999", "")]
)  # fmt: skip
def test_bad_entries_are_named(text: str, entry: str) -> None:
    words = "block's number, '-', 'no-skip', 'twice' or 'bypass'"
    with pytest.raises(resect.ArrangementError, match=f"{words}.*, got .*{entry}"):
        Arrangement.parse(text)


@pytest.mark.parametrize(("text", "slot"), [("0..2,4..53", 3), ("1..2", 0), ("0,2..1", 1), ("0,1..0", 1)])
def test_ranges_stand_in_their_own_slots(text: str, slot: int) -> None:
    with pytest.raises(resect.ArrangementError, match=rf"must rise from the slot it stands in, here {slot}, .*, got"):
        Arrangement.parse(text)


def test_what_yaml_makes_of_a_single_number_is_refused() -> None:
    with pytest.raises(resect.ArrangementError, match=r"must be a str such as '0\.\.2,-,4\.\.53', got 3"):
        Arrangement.parse(3)
