"""Whether an arrangement fits a network, and why not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from resect.errors import ArrangementError, whole_number
from resect.graph.decisions import Decision, Parallel, Variant
from resect.graph.slices import Sliced
from resect.graph.slots import Slot
from resect.network.arrangement import Arrangement


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
        elif isinstance(branch, Parallel):
            _check_beside(slot, branch, branches, sliced)
        elif branch is not None and (whole_number(branch) is None or not 0 <= branch < len(slots)):
            raise ArrangementError(
                f"`arrangement` must name blocks 0 to {len(slots) - 1}, None, a Variant or a Parallel, got {branch!r} "
                f"in slot {slot.index}."
            )
        elif branch not in (None, slot.index):
            _check_fits(slot, slots[branch])
    return Arrangement(branches, [slot.name for slot in slots], [slot.place.layer for slot in slots])


def _check_beside(slot: Slot, span: Parallel, branches: Sequence[Any], sliced: Sliced) -> None:
    whole = 0 <= span.first <= slot.index and span.last < len(branches)
    if not whole or any(branch != span for branch in branches[span.first : span.last + 1]):
        raise ArrangementError(
            f"all slots from {span.first} to {span.last}, and no others, must hold {span}, but slot {slot.index} "
            "is not of such a span. net.intact.parallel(first, last) makes one."
        )
    if slot.index == span.last:
        sliced.beside.roles(span)


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
