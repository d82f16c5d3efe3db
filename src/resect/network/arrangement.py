"""Arrangements: which branch runs in which slot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Final, get_args

from resect.errors import ArrangementError, require_one_of
from resect.graph.decisions import Combine, Decision, Parallel, Unit, Variant
from resect.network.blocks import BlockLike, block_index, block_indices

_WORDS: Final[dict[Decision, str]] = {
    None: "-",
    Variant.BRANCH_ONLY: "no-skip",
    Variant.TWICE: "twice",
    Variant.BYPASS: "bypass",
}
_DECISIONS: Final = {word: decision for decision, word in _WORDS.items()}
_WRITTEN_OUT: Final = 12  # slots
_BLOCKS: Final = re.compile(r"([0-9]{1,6})(?:\.\.([0-9]{1,6}))?")  # so few digits that no typing error fills the memory
_BESIDE: Final = re.compile(rf"(mean|sum)\(({_BLOCKS.pattern}(?:\|{_BLOCKS.pattern})*)\)")


class Arrangement(tuple[Decision, ...]):
    """For each slot the index of the branch it runs, None for none, a `Variant` of its own block, or a `Parallel` span.

    A tuple, and equal to plain ones. As text (`str(arrangement)`) it is its entries with commas between: the number of
    a block, "-" for None, "no-skip" for BRANCH_ONLY, "twice", "bypass", a range of blocks that run in their own slots,
    or of those that run side by side, "mean(2..5)" or "sum(2..5)", with bars between units of more than one block,
    "mean(2..3|4..5)".

    >>> intact = Arrangement(range(6))
    >>> intact.without(1).swapped(2, 3)
    Arrangement(0, None, 3, 2, 4, 5)
    >>> str(intact.without(1).swapped(2, 3))
    '0,-,3,2,4..5'
    """

    names: tuple[str, ...]
    """Of the network's blocks; none where the arrangement belongs to no network yet."""
    layers: tuple[str, ...]
    """For each block the module that holds its layer: of a transformer, attention and MLP have one."""

    def __new__(
        cls, decisions: Iterable[Decision] = (), names: Sequence[str] = (), layers: Sequence[str] = ()
    ) -> Arrangement:
        """An arrangement of decisions, one a slot, of a network whose blocks have these names and layers."""
        arrangement = super().__new__(cls, decisions)
        arrangement.names, arrangement.layers = tuple(names), tuple(layers)
        return arrangement

    @classmethod
    def parse(cls, text: str) -> Arrangement:
        """The arrangement that `str` wrote; spaces around entries are left out. Whether it fits a network shows later.

        Raises:
            ArrangementError: an entry is none of those that an arrangement can have.

        Example:
            >>> Arrangement.parse("0..2,-,4..5")
            Arrangement(0, 1, 2, None, 4, 5)
        """
        if not isinstance(text, str):
            raise ArrangementError(f"an arrangement's text must be a str such as '0..2,-,4..53', got {text!r}.")
        branches: list[Decision] = []
        for entry in text.split(",") if text.strip() else []:
            branches += _read(entry.strip(), len(branches))
        return cls(branches)

    def without(self, *blocks: BlockLike | Iterable[BlockLike]) -> Arrangement:
        """The same arrangement with the branches of blocks deleted: `without(3, -1)`, `without("layer2.0")`.

        Args:
            blocks: by number, from the end if it is negative, or by name, one by one or in collections.

        Raises:
            ArrangementError: there is no such block, or several have names that begin with what is given.
        """
        return self._with(None, blocks)

    def swapped(self, first: BlockLike, second: BlockLike) -> Arrangement:
        """The same arrangement with the branches of two blocks' slots exchanged; see `without` for the blocks."""
        branches = list(self)
        one, other = (block_index(block, len(self), self.names) for block in (first, second))
        branches[one], branches[other] = branches[other], branches[one]
        return self._changed(branches)

    def reversed(self, first: BlockLike, last: BlockLike, *, unit: Unit = "block") -> Arrangement:
        """The same arrangement with the branches of a span in reversed order; the last slot runs what the first ran.

        Args:
            first, last: blocks between which the span lies, both in it.
            unit: "layer" reverses the order of whole layers, those of `first` and `last` with them, and keeps that of
                the blocks of each.

        Raises:
            ArrangementError: there is no such block, or the layers have different numbers of blocks.
        """
        branches, units = list(self), self._span(first, last, unit)
        if len({after - before for before, after in units}) > 1:
            raise ArrangementError(f"layers must have equal numbers of blocks to be reversed, got {units} as slots.")
        for (slot, end), (taken, _) in zip(units, units[::-1], strict=True):
            branches[slot : end + 1] = self[taken : taken + end + 1 - slot]
        return self._changed(branches)

    def parallel(
        self, first: BlockLike, last: BlockLike, *, unit: Unit = "block", combine: Combine = "mean"
    ) -> Arrangement:
        """The same arrangement with the blocks of a span side by side: all start from the state before the first.

        Args:
            first, last, unit: as in `reversed`; the blocks of a layer run one after the other.
            combine: "mean" hands on the mean of the units' outputs, added in their order, then divided (Sun et al.
                2025b); "sum" the first one's output and what every other one adds to the state, output - state.

        Raises:
            ArrangementError: there is no such block, or the span is a single unit.
        """
        span = Parallel(self._span(first, last, unit), combine)
        return self._changed(span if span.first <= i <= span.last else branch for i, branch in enumerate(self))

    def units(self, unit: Unit = "block") -> tuple[tuple[int, int], ...]:
        """The first and the last slot of every unit, in order; ArrangementError if it, or the network, is unknown."""
        require_one_of("unit", unit, get_args(Unit), ArrangementError)
        if unit == "layer" and len(self.layers) != len(self):
            raise ArrangementError(
                "an arrangement that belongs to no network yet has no layers. Begin with net.intact, or give it to "
                "net.arrangement first."
            )
        named = self.layers if unit == "layer" else range(len(self))
        groups = ([slot for slot, _ in group] for _, group in groupby(enumerate(named), key=lambda entry: entry[1]))
        return tuple((slots[0], slots[-1]) for slots in groups)

    def _span(self, first: BlockLike, last: BlockLike, unit: Unit) -> tuple[tuple[int, int], ...]:
        """The units from that of one block to that of another."""
        one, other = (block_index(block, len(self), self.names) for block in (first, last))
        if one > other:
            raise ArrangementError(f"`first` must not stand behind `last`, got {first!r} and {last!r}.")
        return tuple((start, end) for start, end in self.units(unit) if end >= one and start <= other)

    def without_skip(self, *blocks: BlockLike | Iterable[BlockLike]) -> Arrangement:
        """The same arrangement with the skips of blocks deleted and their own branches kept: y = branch(x)."""
        return self._with(Variant.BRANCH_ONLY, blocks)

    def repeated(self, *blocks: BlockLike | Iterable[BlockLike]) -> Arrangement:
        """The same arrangement with blocks run twice: y = block(block(x))."""
        return self._with(Variant.TWICE, blocks)

    def bypassed(self, *blocks: BlockLike | Iterable[BlockLike]) -> Arrangement:
        """The same arrangement with blocks left out as a whole: y = x, without what their skips do to the signal."""
        return self._with(Variant.BYPASS, blocks)

    def _with(self, decision: Decision, blocks: Iterable[Any]) -> Arrangement:
        chosen = block_indices(blocks, len(self), self.names)
        return self._changed(decision if i in chosen else branch for i, branch in enumerate(self))

    def _changed(self, decisions: Iterable[Decision]) -> Arrangement:
        return Arrangement(decisions, self.names, self.layers)

    def __repr__(self) -> str:
        if len(self) > _WRITTEN_OUT or any(isinstance(decision, Parallel) for decision in self):
            return f"Arrangement.parse({str(self)!r})"
        return f"Arrangement({', '.join(map(str, self))})"

    def __str__(self) -> str:
        entries: list[str] = []
        for own, run in groupby(enumerate(self), key=_kind):
            slots, branches = zip(*run, strict=True)
            if isinstance(own, Parallel):
                entries.append(str(own))
            elif own and len(slots) > 1:
                entries.append(f"{slots[0]}..{slots[-1]}")
            else:
                entries += [_WORDS.get(branch, str(branch)) for branch in branches]
        return ",".join(entries)


def _kind(entry: tuple[int, Decision]) -> bool | Parallel:
    """Whether a slot runs its own branch, or the span in which it does."""
    slot, decision = entry
    return decision if isinstance(decision, Parallel) else decision == slot


def _read(entry: str, slot: int) -> list[Decision]:
    """The decisions that an entry of a text, which begins at `slot`, stands for."""
    if entry in _DECISIONS:
        return [_DECISIONS[entry]]
    if beside := _BESIDE.fullmatch(entry):
        return _read_beside(beside[1], [*map(_range, beside[2].split("|"))], slot)
    blocks = _BLOCKS.fullmatch(entry)
    if blocks is None:
        raise ArrangementError(
            "an arrangement's text must have for each slot a block's number, '-', 'no-skip', 'twice' or 'bypass', or a "
            "range of blocks in their own slots, such as '0..2,-,4..53', or side by side, such as 'mean(2..5)', got "
            f"{entry!r} for slot {slot}."
        )
    first, last = _range(entry)
    if blocks[2] and not slot == first <= last:
        raise ArrangementError(
            f"a range in an arrangement's text must rise from the slot it stands in, here {slot}, as the ranges of "
            f"'0..2,-,4..53' do, got {entry!r}. Give every slot an entry: '-' where no branch runs."
        )
    return list(range(first, last + 1))


def _read_beside(combine: Any, units: Sequence[tuple[int, int]], slot: int) -> list[Decision]:
    if len(units) == 1:
        units = [(block, block) for block in range(units[0][0], units[0][1] + 1)]
    span = Parallel(tuple(units), combine)
    if span.first != slot:
        raise ArrangementError(f"blocks side by side must begin with the slot they stand in, here {slot}, got {span}.")
    return [span] * (span.last + 1 - slot)


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("..")
    return int(first), int(last or first)
