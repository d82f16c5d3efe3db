"""The brackets among the tokens of a model."""

from __future__ import annotations

from dataclasses import dataclass

from resect.data.names import DataSpec
from resect.data.text import Reading, asked, load_tokenizer

_BRACKETS = ("()", "[]", "{}", "<>")


@dataclass(frozen=True)
class Brackets:
    """Tokens of open and closing brackets, in pairs, and those that stand before every text."""

    pairs: tuple[tuple[int, int], ...] = ()
    before: tuple[int, ...] = ()


def brackets_of(spec: DataSpec, reading: Reading | None) -> Brackets:
    """Those of the tokenizer that makes tokens of a text; none of data that are no text, or without a tokenizer.

    Brackets of more than one token are left out.
    """
    name = asked(spec, reading).tokenizer if spec.kind in ("text", "hf") else None
    if name is None:
        return Brackets()
    tokenizer = load_tokenizer(name)
    known = reading.vocabulary if reading and reading.vocabulary else tokenizer.size
    written = [tuple(tokenizer.encode(bracket, False) for bracket in pair) for pair in _BRACKETS]
    pairs = tuple((a[0], b[0]) for a, b in written if len(a) == len(b) == 1 and a != b and max(a + b) < known)
    return Brackets(pairs, tuple(tokenizer.around()[0]))
