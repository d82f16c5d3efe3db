"""How numbers and names are written."""

from __future__ import annotations

import re
from decimal import Decimal
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resect.words import count, duration, large, percent, power_of_ten, shortened


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (9.94e-7, "9.9 × 10⁻⁷"), (9.96e-7, "1.0 × 10⁻⁶"), (-9.96e-7, "−1.0 × 10⁻⁶"), (5e-324, "4.9 × 10⁻³²⁴"),
        (0.000994, "9.9 × 10⁻⁴"), (0.000996, "0.001"), (9.94, "9.9"), (9.96, "10"), (99.4, "99"), (99.6, "100"),
        (99_400, "99400"), (99_960, "1.0 × 10⁵"), (9.94e9, "9.9 × 10⁹"), (9.96e9, "1.0 × 10¹⁰"),
    ],
)  # fmt: skip
def test_powers_of_ten_round_before_they_choose_their_power(value: float, written: str) -> None:
    assert power_of_ten(value) == written


@given(st.floats(allow_nan=False, allow_infinity=False).filter(bool))
def test_powers_of_ten_are_near_what_they_write(value: float) -> None:
    digits = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-")
    read = Decimal(power_of_ten(value).replace(" × 10", "e").translate(digits))
    assert abs(read - Decimal(value)) <= abs(Decimal(value)) * Decimal("0.0501")
    assert not re.search(r"10\.0|e", power_of_ten(value))


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (999, "999"), (1000, "1.0 k"), (999_949, "999.9 k"), (999_951, "1.00 M"), (999_994_000, "999.99 M"),
        (999_999_999, "1.00 G"), (1_730_000, "1.73 M"), (7 * 10**12, "7000.00 G"),
    ],
)  # fmt: skip
def test_counts_round_before_they_choose_their_unit(number: int, written: str) -> None:
    assert count(number) == written


@pytest.mark.parametrize(
    ("exponent", "written"),
    [(log2(99_400), "9.9 × 10⁴"), (log2(99_600), "1.0 × 10⁵"),
     (999 * log2(10) + log2(9.94), "9.9 × 10⁹⁹⁹"), (999 * log2(10) + log2(9.96), "1.0 × 10¹⁰⁰⁰")],
)  # fmt: skip
def test_large_numbers_round_before_they_choose_their_power(exponent: float, written: str) -> None:
    assert large(exponent) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [(5e-5, "less than 0.01 %"), (-5e-5, "about 0 %"), (1e-4, "0.01 %"), (-1e-4, "−0.01 %"), (0.0, "0.0 %"),
     (-0.0, "0.0 %"), (0.000994, "0.099 %"), (0.000996, "0.1 %"), (0.00101, "0.1 %")],
)  # fmt: skip
def test_percentages_keep_their_sign(value: float, written: str) -> None:
    assert percent(value) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.94, "0.9 s"), (0.96, "1 s"), (89.4, "89 s"), (89.6, "1 min 30 s"), (5399.4, "89 min 59 s"),
     (5399.6, "1 h 30 min")],
)  # fmt: skip
def test_durations_round_before_they_choose_their_unit(seconds: float, written: str) -> None:
    assert duration(seconds) == written


@pytest.mark.parametrize(
    ("names", "width", "written"),
    [
        (["conv1", "layer3.17.conv"], 14, ["conv1", "layer3.17.conv"]),
        (["model.body.layer3.17.conv", "model.body.layer4.0.conv"], 15, ["…layer3.17.conv", "…layer4.0.conv"]),
        (["transformer.h.0.mlp", "transformer.h.11.attn"], 12, ["…h.0.mlp", "…h.11.attn"]),
        (["conv1", "backbone.layer3.17.conv"], 12, ["conv1", "…17.conv"]),
        (["runs/a/resnet110 (first)"], 20, ["…a/resnet110 (first)"]),
        (["model.body.layer1.0.conv", "model.body.layer2.0.conv"], 10, ["…r1.0.conv", "…r2.0.conv"]),
        (["left.side.of.blocks", "right.side.of.blocks"], 12, ["…e.of.blocks", "…f.blocks #2"]),
    ],
)
def test_long_names_lose_their_fronts(names: list[str], width: int, written: list[str]) -> None:
    assert shortened(names, width) == written


@given(st.lists(st.text("ab./:# …12", min_size=1, max_size=40), max_size=12), st.integers(8, 24))
def test_shortened_names_fit_and_stay_apart(names: list[str], width: int) -> None:
    written = shortened(names, width)
    assert all(len(text) <= width for text in written)
    assert len(set(zip(names, written, strict=True))) == len(set(names)) == len(set(written))
