"""Arrangements: which branch runs in which slot."""

from __future__ import annotations

from collections.abc import Sequence

from resect.errors import ArrangementError
from resect.graph.decisions import Decision, Variant
from resect.graph.slices import Sliced, Slot


class Arrangement(tuple[Decision, ...]):
    """For each slot the index of the branch it runs, None where it runs none, or a `Variant` of its own block.

    A tuple, and equal to plain ones.

    >>> intact = Arrangement(range(4))
    >>> intact.without(1).swapped(2, 3)
    Arrangement(0, None, 3, 2)
    """

    __slots__ = ()

    def without(self, *slots: int) -> Arrangement:
        """The same arrangement with the branches of `slots` deleted."""
        gone = {self._known(slot) for slot in slots}
        return Arrangement(None if i in gone else branch for i, branch in enumerate(self))

    def swapped(self, first: int, second: int) -> Arrangement:
        """The same arrangement with the branches of two slots exchanged."""
        branches = list(self)
        first, second = self._known(first), self._known(second)
        branches[first], branches[second] = branches[second], branches[first]
        return Arrangement(branches)

    def without_skip(self, *slots: int) -> Arrangement:
        """The same arrangement with the skips of `slots` deleted and their own branches kept: y = branch(x)."""
        return self._with(Variant.BRANCH_ONLY, slots)

    def repeated(self, *slots: int) -> Arrangement:
        """The same arrangement with the blocks of `slots` run twice: y = block(block(x))."""
        return self._with(Variant.TWICE, slots)

    def _with(self, variant: Variant, slots: Sequence[int]) -> Arrangement:
        chosen = {self._known(slot) for slot in slots}
        return Arrangement(variant if i in chosen else branch for i, branch in enumerate(self))

    def _known(self, slot: int) -> int:
        if isinstance(slot, bool) or not isinstance(slot, int) or not 0 <= slot < len(self):
            raise ArrangementError(
                f"`slot` must be one of the {len(self)} blocks, 0 to {len(self) - 1}, got {slot!r}. "
                "`net.blocks` lists them."
            )
        return slot

    def __repr__(self) -> str:
        return f"Arrangement({', '.join(map(str, self))})"


def validate(arrangement: Sequence[Decision], sliced: Sliced) -> Arrangement:
    """Check that an arrangement can run on a network.

    Raises:
        ArrangementError: it has another length than the network has slots, names an unknown block, or puts a branch
            into a slot where its shapes do not fit.
    """
    slots = sliced.slots
    branches = tuple(arrangement)
    if len(branches) != len(slots):
        raise ArrangementError(
            f"`arrangement` must have one entry for each of the {len(slots)} slots, got {len(branches)}. "
            "Start from `net.intact`."
        )
    for slot, branch in zip(slots, branches, strict=True):
        if branch is None or (branch == slot.index and not isinstance(branch, bool)):
            continue
        if isinstance(branch, Variant):
            _check_variant(slot, branch)
            continue
        if isinstance(branch, bool) or not isinstance(branch, int) or not 0 <= branch < len(slots):
            raise ArrangementError(
                f"`arrangement` must name blocks 0 to {len(slots) - 1}, None or a Variant, got {branch!r} in slot "
                f"{slot.index}."
            )
        _check_fits(slot, slots[branch])
    return Arrangement(branches)


def _check_variant(slot: Slot, variant: Variant) -> None:
    if variant is Variant.TWICE and slot.once_because:
        raise ArrangementError(f"block {slot.index} ({slot.name}) cannot run twice: {slot.once_because}.")
    if variant is Variant.BRANCH_ONLY and slot.skip_because:
        raise ArrangementError(f"the skip of block {slot.index} ({slot.name}) cannot be deleted: {slot.skip_because}.")


def _check_fits(slot: Slot, branch: Slot) -> None:
    wants, brings = _shapes(slot), _shapes(branch)
    if wants != brings:
        raise ArrangementError(
            f"slot {slot.index} ({slot.name}) cannot run branch {branch.index} ({branch.name}): the slot takes "
            f"{_words(wants)}, the branch {_words(brings)}. Only blocks of one span trade places; "
            f"their spans are {slot.span} and {branch.span}."
        )
    for end in (slot, branch):
        if end.fixed_because:
            raise ArrangementError(
                f"slot {slot.index} ({slot.name}) cannot run branch {branch.index} ({branch.name}) although both have "
                f"the shapes {_words(wants)}: block {end.index} must stay where it is, {end.fixed_because}."
            )


def _shapes(slot: Slot) -> tuple[tuple[int | str, ...], tuple[int | str, ...]]:
    return slot.entry_shape, slot.branch_shape


def _words(shapes: tuple[tuple[int | str, ...], tuple[int | str, ...]]) -> str:
    return " -> ".join("(" + ", ".join(map(str, shape)) + ")" for shape in shapes)
