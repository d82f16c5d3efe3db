"""Blocks as users see them, and which one is meant by a number or a name."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import pandas as pd

from resect.errors import ArrangementError, whole_number
from resect.figures.shown import Shown
from resect.graph.joins import Kind
from resect.words import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Block:
    """One residual block, `y = skip(x) + branch(x)`; or a layer of a plain network.

    Attributes:
        index: the block's number in the order of execution, and that of its slot.
        name: the module path of its branch, e.g. "layer2.0".
        kind: "identity", "scaled" or "projection" by its skip, "gated" for a highway block, "hyper" for a
            hyper-connection, whose skip mixes copies of the stream, "layer" in a plain network.
        span: blocks with one span number have entries and branches of the same shapes and can trade places.
        layers: weight layers on the branch, as papers count depth (2 in a basic block, 3 in a bottleneck).
        parameters: parameters that the branch reads.
        entry_shape: shape of the value that the branch starts from; "B" is the batch.
        branch_shape: shape of what the branch adds.
        parent: the block in whose branch this one stands, or None.
    """

    index: int
    name: str
    kind: Kind
    span: int
    layers: int
    parameters: int
    entry_shape: tuple[int | str, ...]
    branch_shape: tuple[int | str, ...]
    parent: int | None

    @property
    def downsampling(self) -> bool:
        """Whether the shape changes here, over a projection: fewer pixels, more channels, or both."""
        return self.kind == "projection" and self.entry_shape != self.branch_shape


BlockLike = SupportsIndex | str | Block
"""One block: its number, from the end if it is negative; its name, or the start of it that no other has; or itself."""


class Blocks(Shown, tuple[Block, ...]):
    """The blocks of a network in the order of execution: a tuple that takes names, too, `net.blocks["layer2.0"]`."""

    __slots__ = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(block.name for block in self)

    @property
    def table(self) -> pd.DataFrame:
        """One row a block: `block`, `name`, `kind`, `span`, `layers`, `parameters`, `downsampling`."""
        columns = ["block", "name", "kind", "span", "layers", "parameters", "downsampling"]
        rows = [(b.index, b.name, b.kind, b.span, b.layers, b.parameters, b.downsampling) for b in self]
        return pd.DataFrame(rows, columns=columns)

    def summary(self) -> str:
        """How many blocks there are, of which kinds, and how many layers are on their branches."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(block.kind for block in self).items())
        layers = plural(sum(block.layers for block in self), "layer")
        return f"{plural(len(self), 'block')} ({kinds}) of {layers}." if self else "No blocks."

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the blocks in order, by their kinds, spans and parameters; returns the axes."""
        from resect.figures.strip import by_size

        return by_size(self.table, ax)

    def __contains__(self, block: object) -> bool:
        return block in self.names if isinstance(block, str) else super().__contains__(block)

    @overload
    def __getitem__(self, block: SupportsIndex | str) -> Block: ...
    @overload
    def __getitem__(self, block: slice) -> tuple[Block, ...]: ...
    def __getitem__(self, block: SupportsIndex | str | slice) -> Block | tuple[Block, ...]:
        return super().__getitem__(block_index(block, len(self), self.names) if isinstance(block, str) else block)


def block_index(block: Any, blocks: int, names: Sequence[str]) -> int:
    """The index of a `BlockLike`.

    Args:
        blocks: how many there are.
        names: of all of them; none where they are not known.

    Raises:
        ArrangementError: there is no such block, or several have names that begin with what is given.
    """
    if isinstance(block, (str, Block)):
        return _named(block if isinstance(block, str) else block.name, names)
    index = whole_number(block)
    if index is None or not -blocks <= index < blocks:
        known = f" Their names are {names[0]} to {names[-1]}." if len(names) > 1 else ""
        raise ArrangementError(
            f"a block must be one of the {plural(blocks, 'block')}, 0 to {blocks - 1}, got {block!r}.{known}"
            if blocks
            else f"a block must be one of the network's blocks, got {block!r}, but it has none."
        )
    return index % blocks


def block_indices(chosen: Iterable[Any], blocks: int, names: Sequence[str]) -> set[int]:
    """The indices of several, `without(3, "layer2.0")`, or of a collection of them, `without([3, "layer2.0"])`."""
    indices: set[int] = set()
    for block in chosen:
        several = isinstance(block, Iterable) and not isinstance(block, str) and getattr(block, "ndim", 1) > 0
        indices |= {block_index(one, blocks, names) for one in (block if several else [block])}
    return indices


def _named(name: str, names: Sequence[str]) -> int:
    if not names:
        raise ArrangementError(
            f"a block must be a number in an arrangement that belongs to no network yet, got {name!r}. Begin with "
            "net.intact, or give it to net.arrangement first."
        )
    inside = [other for other in names if other == name] or [
        other for other in names if other.startswith((f"{name}.", f"{name}#"))
    ]
    if len(inside) == 1:
        return names.index(inside[0])
    if inside:
        more = f" and {len(inside) - 4} more" if len(inside) > 4 else ""
        raise ArrangementError(
            f"a block must be one block, but the names of {len(inside)} begin with {name!r}: {', '.join(inside[:4])}"
            f"{more}. Name one of them."
        )
    close = difflib.get_close_matches(name, names, n=3)
    hint = f"Close to it: {', '.join(close)}" if close else f"Their names are {names[0]} to {names[-1]}"
    raise ArrangementError(
        f"a block must be one of the {plural(len(names), 'block')}, by its number or its name, got {name!r}. {hint}."
    )
