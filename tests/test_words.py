"""How numbers and names are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resect.words import shortened


@pytest.mark.parametrize(
    ("names", "width", "written"),
    [
        (["conv1", "layer3.17.conv"], 14, ["conv1", "layer3.17.conv"]),
        (["model.body.layer3.17.conv", "model.body.layer4.0.conv"], 15, ["…layer3.17.conv", "…layer4.0.conv"]),
        (["transformer.h.0.mlp", "transformer.h.11.attn"], 12, ["…h.0.mlp", "…h.11.attn"]),
        (["conv1", "backbone.layer3.17.conv"], 12, ["conv1", "…17.conv"]),
        (["runs/a/resnet110 (first)"], 20, ["…a/resnet110 (first)"]),
        (["left.side.of.blocks", "right.side.of.blocks"], 12, ["…of.blocks", "…blocks #2"]),
    ],
)
def test_long_names_lose_their_fronts(names: list[str], width: int, written: list[str]) -> None:
    assert shortened(names, width) == written


@given(st.lists(st.text("ab./:# …12", min_size=1, max_size=40), max_size=12), st.integers(8, 24))
def test_shortened_names_fit_and_stay_apart(names: list[str], width: int) -> None:
    written = shortened(names, width)
    assert all(len(text) <= width for text in written)
    assert len(set(zip(names, written, strict=True))) == len(set(names)) == len(set(written))
