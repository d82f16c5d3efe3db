"""Joins: the additions in which a branch flows back into the skip it came from (Veit et al., section 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from torch.fx import Node

from resect.graph.hyper import HyperConnection, SkipFactor
from resect.graph.ops import module_of
from resect.graph.reach import Reach, union

Kind = Literal["identity", "scaled", "projection", "gated", "hyper", "layer"]


@dataclass(frozen=True)
class Join:
    """One residual block as it stands in the graph.

    Attributes:
        node: the addition; of a plain layer, the layer's output.
        kind: "identity", "scaled" (by a number or learned factors), "projection", "gated" (highway: the skip is scaled
            by a gate), "hyper" (a hyper-connection: it mixes copies of the stream), or "layer" in a plain network.
        skip: the operand that stays when the branch is deleted.
        branch: the operand (or, split, the term of the operand) that the branch computes.
        consumer: the node that reads `branch` as the branch: the addition, or a sum inside the operand.
        entries: the values at which branch and skip part.
        bypass: what the join's value becomes without the branch; the skip, but for a highway's the ungated skip.
        factor: what multiplies the signal on a skip and is itself computed from a signal.
        hyper: the parts of a hyper-connection.
    """

    node: Node
    kind: Kind
    skip: Node
    branch: Node
    consumer: Node
    entries: tuple[Node, ...]
    bypass: Node
    factor: SkipFactor | None = None
    hyper: HyperConnection | None = None

    @property
    def entry(self) -> Node | None:
        """The one value at which the branch starts, None if it starts at several."""
        return self.entries[0] if len(self.entries) == 1 else None


@dataclass(frozen=True)
class Rejected:
    """An addition of two signals that is not a block, and why."""

    name: str
    module: str
    reason: str


def branch_region(join: Join, reach: Reach) -> int:
    """The nodes that the branch computes: what lies between the entries and the branch operand."""
    return union(reach.between(entry, join.branch) for entry in join.entries)


def own_region(join: Join, joins: Iterable[Join], reach: Reach) -> int:
    """The branch behind the blocks that it reads, but which live on without it (in a RevNet, the other half's)."""
    region = branch_region(join, reach)
    for other in joins:
        inside = other.node is not join.node and region & reach.bit(other.node)
        if inside and not reach.ends_in(other.node, join.node):
            region &= ~(reach.ancestors[reach.index[other.node]] | reach.bit(other.node))
    return region


def layer_region(join: Join, joins: Iterable[Join], reach: Reach) -> int:
    """The nodes whose layers are counted: the branch's, without how a hyper-connection reads and writes the streams."""
    own, hyper = own_region(join, joins, reach), join.hyper
    return own & reach.between(hyper.read or hyper.streams, hyper.written) if hyper else own


def branch_names(joins: list[Join], reach: Reach) -> list[str]:
    """A module path for every join: the module that holds the branch's layers, or the one around the addition."""
    common = Counter(module_of(join.node) for join in joins)
    names = [_name(join, layer_region(join, joins, reach), common[module_of(join.node)] == 1, reach) for join in joins]
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique


def _name(join: Join, region: int, alone: bool, reach: Reach) -> str:
    nodes = reach.mixing(region) or [n for n in reach.nodes(region) if module_of(n)]
    home = module_of(join.node)
    paths = [module_of(node).split(".") for node in nodes]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    deepest = ".".join(parts[0] for parts in shared)
    inside_home = not home or deepest == home or deepest.startswith(home + ".")
    return home if alone and inside_home and home else deepest or home or join.node.name
