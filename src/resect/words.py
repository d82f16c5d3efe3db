"""Words: how every number and every name is written, on the page, in figures and in the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import floor, isfinite, log10

NOTHING = "–"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as percent: 0.1234 is "12.3 %"; small ones keep two significant digits, down to 0.01 %.

    Below that, positive ones are "less than 0.01 %", negative ones "about 0 %".
    """
    if value is not None and 0 < abs(value) < 1e-4:
        return "less than 0.01 %" if value > 0 else "about 0 %"
    return part(value, digits)


def part(value: float | None, digits: int = 1) -> str:
    """The same with two significant digits however small it is, for a table: 1.1e-08 is "1.1 × 10⁻⁶ %"."""
    if value is None or not isfinite(value):
        return NOTHING
    shown = value * 100
    if shown and abs(shown) < 10**-digits:
        return f"{power_of_ten(shown)} %"
    return _signed(f"{shown:.{digits}f} %")


def points(value: float | None) -> str:
    """A difference of fractions in percentage points."""
    if value is None or not isfinite(value):
        return NOTHING
    shown = round(value * 100, 1) + 0.0  # adding 0 turns a negative zero into zero
    return _signed(f"{shown:.1f} {'point' if abs(shown) == 1 else 'points'}")


def decimal(value: float | None, digits: int = 2) -> str:
    """A plain number with a fixed number of decimals: -0.938 is "−0.94"."""
    return NOTHING if value is None or not isfinite(value) else _signed(f"{value:.{digits}f}")


def ratio(value: float) -> str:
    """How many times as large: "0.9", "25.1", "1,037"."""
    return f"{value:,.0f}" if value >= 100 else decimal(value, 1)


def power_of_ten(value: float) -> str:
    """Two significant digits: 1.8e-07 is "1.8 × 10⁻⁷"."""
    if not isfinite(value):
        return NOTHING if value != value else _signed(f"{'-' if value < 0 else ''}∞")
    if value == 0:
        return "0"
    mantissa, exponent = _rounded(value)
    if -3 <= exponent <= 4:
        return _signed(f"{value:.2g}" if exponent < 2 else f"{value:.0f}")
    return _signed(f"{mantissa} × 10{superscript(exponent)}")


def _rounded(value: float) -> tuple[str, int]:
    """Two digits and the power of ten they stand for: 9.96 is 1.0 and 1."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return mantissa, int(exponent)


def superscript(number: float) -> str:
    """A number set high: -6 is "⁻⁶"."""
    return f"{number:g}".translate(str.maketrans("-.0123456789", "⁻·⁰¹²³⁴⁵⁶⁷⁸⁹"))


def two_to(exponent: float) -> str:
    """A number given by its binary logarithm: 54 is "2⁵⁴ = 1.8 × 10¹⁶"."""
    if exponent < 14:
        return f"{2**exponent:,.0f}" if exponent >= 5 else f"{2**exponent:.1f}".removesuffix(".0")
    return f"{power_of_two(exponent)} = {large(exponent)}"


def power_of_two(exponent: float) -> str:
    """A number given by its binary logarithm, as a power: 22.25 is "2²²·²"."""
    return f"2{superscript(round(exponent, 1))}"


def large(exponent: float) -> str:
    """A number given by its binary logarithm, in powers of ten only: 54 is "1.8 × 10¹⁶"."""
    if exponent < 14:
        return two_to(exponent)
    whole = exponent * log10(2)
    mantissa, more = _rounded(10 ** (whole - floor(whole)))
    return f"{mantissa} × 10{superscript(floor(whole) + more)}"


def contribute(exponent: float) -> str:
    """ "at most about 147 effectively contribute", of paths whose number is given by its binary logarithm."""
    number = two_to(exponent)
    return f"at most about {number} effectively {'contributes' if number == '1' else 'contribute'}"


def plural(count: int, unit: str, units: str | None = None) -> str:
    """ "1 block", "54 blocks"; of a unit whose plural is another, `units`."""
    return f"{count:,} {unit}" if count == 1 else f"{count:,} {units or f'{unit}s'}"


def count(number: int) -> str:
    """A large number in three digits or so: "940", "94.0 k", "1.73 M", "7.24 G"."""
    if number < 1000:
        return str(number)
    for unit, size, digits in (("k", 10**3, 1), ("M", 10**6, 2), ("G", 10**9, 2)):
        shown = f"{number / size:.{digits}f} {unit}"
        if float(shown[:-2]) < 1000:
            break
    return shown


def span(low: int, high: int, unit: str = "") -> str:
    """ "2 to 7", or "2" if it is one number; of a unit "2 to 7 blocks", "1 block"."""
    if not unit:
        return str(low) if low == high else f"{low} to {high}"
    return plural(low, unit) if low == high else f"{low} to {high} {unit}s"


def lengths(low: int, high: int, low_layers: float, high_layers: float) -> str:
    """ "2 to 7 blocks (4 to 14 layers)"."""
    ends = " to ".join(dict.fromkeys((_short(low_layers), _short(high_layers))))
    return f"{span(low, high, 'block')} ({ends} {'layer' if ends == '1' else 'layers'})"


def named(name: str, index: int) -> str:
    """A block as text names it beside figures that count: "layers.10, index 9", but "blocks.9" if that is its index."""
    return name if re.findall(r"\d+", name)[-1:] == [str(index)] else f"{name}, index {index}"


def duration(seconds: float) -> str:
    """ "42 s", "2 min 43 s", "3 h 5 min"."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s" if seconds >= 0.95 else f"{seconds:.1f} s"
    if whole < 5400:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def pair(fewer: str, more: str) -> str:
    """Two arms that differ at their ends, "resnet38-b2: s18 − s1"."""
    stem, _, merge = fewer.rpartition("-")
    return f"{stem}: {merge} − {more.rpartition('-')[2]}"


def shortened(names: Sequence[str], width: int) -> list[str]:
    """Names in at most `width` characters, which stay apart: a long one loses its front, "…layer3.17.conv".

    Where one is too long, all lose as much of what they begin with alike as it takes, in whole parts.

    Args:
        width: at least 8.
    """
    longest, start = max(map(len, names), default=0), 0
    if longest <= width:
        return list(names)
    distinct = list(dict.fromkeys(names))
    if len(distinct) > 1:
        ends = [match.end() for match in re.finditer("[./:]", distinct[0])]
        parts = [end for end in ends if all(name[:end] == distinct[0][:end] != name for name in distinct)]
        start = next((end for end in parts if longest - end < width), parts[-1] if parts else 0)
    for whole in (True, False):
        cut = {name: _end_of(name, start, width, whole) for name in distinct}
        if len(set(cut.values())) == len(distinct):
            return [cut[name] for name in names]
    written: dict[str, str] = {}
    for name in distinct:
        number, text = 1, _end_of(name, start, width)
        while text in written.values():
            number += 1
            text = _end_of(name, start, width - len(f" #{number}")) + f" #{number}"
        written[name] = text
    return [written[name] for name in names]


def _end_of(name: str, start: int, width: int, whole: bool = False) -> str:
    """What stands from `start` on, or the last of it that fits; a `whole` part is first if that is little less."""
    if not start and len(name) <= width:
        return name
    start = max(start, len(name) - width + 1)
    part = re.compile("[./:]").search(name, start - 1, start + width // 3) if whole and start else None
    return f"…{name[part.end() if part else start :]}"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _signed(text: str) -> str:
    """The minus sign of typography in front of a negative number; none in front of a zero."""
    if not text.startswith("-"):
        return text
    digits = text[1:].split(" ")[0]
    return text[1:] if set(digits) <= set("0.") else f"−{text[1:]}"
