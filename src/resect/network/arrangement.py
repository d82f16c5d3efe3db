"""Arrangements: which branch runs in which slot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Final

from resect.errors import ArrangementError, whole_number
from resect.graph.decisions import Decision, Variant
from resect.graph.slices import Sliced
from resect.graph.slots import Slot
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


class Arrangement(tuple[Decision, ...]):
    """For each slot the index of the branch it runs, None where it runs none, or a `Variant` of its own block.

    A tuple, and equal to plain ones. As text (`str(arrangement)`) it is its entries with commas between: the number of
    a block, "-" for None, "no-skip" for BRANCH_ONLY, "twice", "bypass", or a range of blocks that run in their own
    slots.

    >>> intact = Arrangement(range(6))
    >>> intact.without(1).swapped(2, 3)
    Arrangement(0, None, 3, 2, 4, 5)
    >>> str(intact.without(1).swapped(2, 3))
    '0,-,3,2,4..5'
    """

    names: tuple[str, ...]
    """Of the network's blocks; none where the arrangement belongs to no network yet."""

    def __new__(cls, decisions: Iterable[Decision] = (), names: Sequence[str] = ()) -> Arrangement:
        """An arrangement of decisions, one a slot, of a network whose blocks have these names."""
        arrangement = super().__new__(cls, decisions)
        arrangement.names = tuple(names)
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
        return Arrangement(branches, self.names)

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
        return Arrangement((decision if i in chosen else branch for i, branch in enumerate(self)), self.names)

    def __repr__(self) -> str:
        if len(self) > _WRITTEN_OUT:
            return f"Arrangement.parse({str(self)!r})"
        return f"Arrangement({', '.join(map(str, self))})"

    def __str__(self) -> str:
        entries: list[str] = []
        for own, run in groupby(enumerate(self), key=lambda entry: entry[0] == entry[1]):
            slots, branches = zip(*run, strict=True)
            if own and len(slots) > 1:
                entries.append(f"{slots[0]}..{slots[-1]}")
            else:
                entries += [_WORDS.get(branch, str(branch)) for branch in branches]
        return ",".join(entries)


def _read(entry: str, slot: int) -> list[Decision]:
    """The decisions that an entry of a text, which begins at `slot`, stands for."""
    if entry in _DECISIONS:
        return [_DECISIONS[entry]]
    blocks = _BLOCKS.fullmatch(entry)
    if blocks is None:
        raise ArrangementError(
            "an arrangement's text must have for each slot a block's number, '-', 'no-skip', 'twice' or 'bypass', or a "
            f"range of blocks in their own slots, such as '0..2,-,4..53', got {entry!r} for slot {slot}."
        )
    first, last = int(blocks[1]), int(blocks[2] or blocks[1])
    if blocks[2] and not slot == first <= last:
        raise ArrangementError(
            f"a range in an arrangement's text must rise from the slot it stands in, here {slot}, as the ranges of "
            f"'0..2,-,4..53' do, got {entry!r}. Give every slot an entry: '-' where no branch runs."
        )
    return list(range(first, last + 1))


def validate(arrangement: Sequence[Decision] | str, sliced: Sliced) -> Arrangement:
    """An arrangement that can run on the network, see `Unraveled.arrangement`."""
    slots = sliced.slots
    if isinstance(arrangement, str):
        arrangement = Arrangement.parse(arrangement)
    if not isinstance(arrangement, Iterable):
        raise ArrangementError(
            f"`arrangement` must have one entry for each of the {len(slots)} slots, got {arrangement!r}. "
            "net.intact.without(3) deletes block 3."
        )
    numbers = [(branch, whole_number(branch)) for branch in arrangement]
    branches = [branch if number is None else number for branch, number in numbers]
    if len(branches) != len(slots):
        raise ArrangementError(
            f"`arrangement` must have one entry for each of the {len(slots)} slots, got {len(branches)}. "
            "Start from `net.intact`."
        )
    for slot, branch in zip(slots, branches, strict=True):
        if isinstance(branch, Variant):
            _check_variant(slot, branch)
        elif branch is not None and (whole_number(branch) is None or not 0 <= branch < len(slots)):
            raise ArrangementError(
                f"`arrangement` must name blocks 0 to {len(slots) - 1}, None or a Variant, got {branch!r} in slot "
                f"{slot.index}."
            )
        elif branch not in (None, slot.index):
            _check_fits(slot, slots[branch])
    return Arrangement(branches, [slot.name for slot in slots])


def _check_variant(slot: Slot, variant: Variant) -> None:
    why, block = slot.refusals.of(variant), f"block {slot.index} ({slot.name})"
    if why:
        what = {
            Variant.TWICE: f"{block} cannot run twice",
            Variant.BRANCH_ONLY: f"the skip of {block} cannot be deleted",
            Variant.BYPASS: f"{block} cannot be bypassed",
        }[variant]
        raise ArrangementError(f"{what}: {why}.")


def _check_fits(slot: Slot, branch: Slot) -> None:
    wants, brings = _shapes(slot), _shapes(branch)
    what = f"slot {slot.index} ({slot.name}) cannot run branch {branch.index} ({branch.name})"
    if wants != brings:
        raise ArrangementError(
            f"{what}: the slot takes {wants}, the branch {brings}. Only blocks of one span trade places; "
            f"their spans are {slot.place.span} and {branch.place.span}."
        )
    for end in (slot, branch):
        if end.refusals.trade:
            raise ArrangementError(
                f"{what} although both have the shapes {wants}: block {end.index} must stay where it is, "
                f"{end.refusals.trade}."
            )


def _shapes(slot: Slot) -> str:
    shapes = (slot.block.entry_shape, slot.block.branch_shape)
    return " -> ".join("(" + ", ".join(map(str, shape)) + ")" for shape in shapes)
