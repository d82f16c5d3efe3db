"""How texts write numbers and names, read back without the code that writes them."""

from __future__ import annotations

P = r"(less than 0\.01 %|about 0 %|–|−?[\d.]+ %)"  # a percentage
D = r"(−?[\d.]+) points?"
N = r"([\d,]+)"
NAME = r"(\S+(?:, index \d+)?)((?:, and \d+ more)?)"
LENGTHS = r"(\d+)(?: to (\d+))? blocks?(?: \([\d.]+(?: to [\d.]+)? layers?\))"


def is_percent(text: str, value: float | None, slack: float = 0.0501) -> bool:
    if text == "–":
        return value is None
    assert value is not None
    if text == "less than 0.01 %":
        return 0 < value < 1e-4
    if text == "about 0 %":
        return -1e-4 < value < 0
    shown = float(text.removesuffix(" %").replace("−", "-"))
    return abs(shown - 100 * value) <= (slack if abs(value) >= 1e-3 else 0.006)


def is_points(text: str, value: float) -> bool:
    return abs(float(text.replace("−", "-")) - 100 * value) <= 0.0501


def is_span(low: str, high: str | None, real: tuple[int, int]) -> bool:
    return (int(low), int(high or low)) == real
