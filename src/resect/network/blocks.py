"""Blocks as users see them."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from resect.graph.joins import Kind


@dataclass(frozen=True)
class Block:
    """One residual block, `y = skip(x) + branch(x)`; or a layer of a plain network.

    Attributes:
        index: the block's number in the order of execution, and that of its slot.
        name: the module path of its branch, e.g. "layer2.0".
        kind: "identity", "scaled" or "projection" by its skip, "gated" for a highway block, "layer" in a plain network.
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


def blocks_table(blocks: tuple[Block, ...]) -> pd.DataFrame:
    """One row a block: `block`, `name`, `kind`, `span`, `layers`, `parameters`, `downsampling`."""
    columns = ["block", "name", "kind", "span", "layers", "parameters", "downsampling"]
    rows = [(b.index, b.name, b.kind, b.span, b.layers, b.parameters, b.downsampling) for b in blocks]
    return pd.DataFrame(rows, columns=columns)
