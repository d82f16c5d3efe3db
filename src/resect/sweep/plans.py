"""Plans: which arrangements a sweep runs, each with the labels of its row in the result table."""

from __future__ import annotations

import random as _random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, get_args

from scipy.stats import kendalltau

from resect.errors import InputError
from resect.graph.decisions import Decision, Variant
from resect.graph.resolve import Removal
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled, require_blocks


@dataclass(frozen=True)
class Plan:
    """Arrangements in the order of their rows, and a label row for each.

    Attributes:
        name: that of the function that made it, e.g. "single".
        labels: one dict of column -> value an arrangement.
        references: arrangements that are measured beside them, to compare with: the single deletions of `pairs`.
        removal: what stands for a deleted branch: "zero"; "mean", the branch's mean over the data set in the intact
            network, position by position; or "other sample", what the same branch computes, in the same lesioned
            network, for another sample of the batch, drawn at random.
    """

    name: str
    arrangements: tuple[Arrangement, ...]
    labels: tuple[dict[str, Any], ...]
    references: tuple[Arrangement, ...] = ()
    removal: Removal = "zero"

    def __len__(self) -> int:
        return len(self.arrangements)

    def removing(self, removal: Removal) -> Plan:
        """The same plan with another treatment of deleted branches; InputError if it is unknown."""
        if removal not in get_args(Removal):
            raise InputError(f"`removal` must be one of {', '.join(get_args(Removal))}, got {removal!r}.")
        return replace(self, removal=removal)


def single(net: Unraveled) -> Plan:
    """Delete each block alone (paper, section 4.1 and Figure 3). Labels: `block`, `name`."""
    require_blocks(net)
    every = range(len(net.blocks))
    return _each(net, "single", every, [net.intact.without(i) for i in every])


def pairs(net: Unraveled) -> Plan:
    """Delete every two blocks, n(n-1)/2 lesions; `LesionResult.interaction` compares them with the single deletions.

    Labels: `first`, `second`.
    """
    require_blocks(net)
    both = list(combinations(range(len(net.blocks)), 2))
    return Plan(
        "pairs",
        tuple(net.intact.without(*pair) for pair in both),
        tuple({"first": first, "second": second} for first, second in both),
        references=single(net).arrangements,
    )


def windows(net: Unraveled, lengths: Iterable[int] | None = None) -> Plan:
    """Delete m consecutive blocks, for every m and every start: what depth pruning looks for.

    Args:
        lengths: the values of m; 1 to the number of blocks by default, n(n+1)/2 lesions.

    Labels: `start`, `length`.
    """
    require_blocks(net)
    n = len(net.blocks)
    wanted = list(range(1, n + 1)) if lengths is None else list(lengths)
    if not wanted or not all(1 <= m <= n for m in wanted):
        raise InputError(f"`lengths` must hold numbers of blocks from 1 to {n}, got {wanted}.")
    rows = [(start, m) for m in wanted for start in range(n - m + 1)]
    return Plan(
        "windows",
        tuple(net.intact.without(*range(start, start + m)) for start, m in rows),
        tuple({"start": start, "length": m} for start, m in rows),
    )


def skips(net: Unraveled) -> Plan:
    """Delete the skip of each block and keep its branch: whether it is the skips that a network cannot spare.

    Blocks whose skip is shared (parallel branches) have it deleted once. Labels: `block`, `name`.
    """
    require_blocks(net)
    chosen = net.allowing(Variant.BRANCH_ONLY)
    return _each(net, "skips", chosen, [net.intact.without_skip(i) for i in chosen])


def repeated(net: Unraveled) -> Plan:
    """Run each block twice in a row, y = block(block(x)), where its shapes allow. Labels: `block`, `name`.

    A ReLU that follows the block's addition alone belongs to the block (original ResNets). The plan leaves out blocks
    that change the shape; it is empty if all do.
    """
    require_blocks(net)
    chosen = net.allowing(Variant.TWICE)
    return _each(net, "repeated", chosen, [net.intact.repeated(i) for i in chosen])


def _each(net: Unraveled, name: str, blocks: Sequence[int], arrangements: Sequence[Arrangement]) -> Plan:
    labels = tuple({"block": i, "name": net.blocks[i].name} for i in blocks)
    return Plan(name, tuple(arrangements), labels)


def orders(net: Unraveled, count: int = 20, seed: int = 0) -> Plan:
    """Delete all blocks one after another in random orders, each order also backwards: what Shapley values need.

    Labels: `order`, `step` (0 to n-1), `block` (the one that this step deletes on top of those before).
    """
    require_blocks(net)
    _require_positive("count", count)
    n, draw = len(net.blocks), _random.Random(seed)
    rows: list[tuple[int, int, int]] = []
    arrangements = []
    for pair in range(count):
        order = draw.sample(range(n), n)
        for number, way in ((2 * pair, order), (2 * pair + 1, order[::-1])):
            rows += [(number, step, block) for step, block in enumerate(way)]
            arrangements += [net.intact.without(*way[: step + 1]) for step in range(n)]
    labels = tuple({"order": order, "step": step, "block": block} for order, step, block in rows)
    return Plan("orders", tuple(arrangements), labels, references=single(net).arrangements)


def random(net: Unraveled, counts: Iterable[int] | None = None, repeats: int = 5, seed: int = 0) -> Plan:
    """Delete k random blocks, `repeats` times for each k (paper, section 4.2 and Figure 5a).

    Args:
        counts: the values of k; 1 to half of the blocks by default.
        seed: the same seed gives the same blocks.

    Labels: `deleted`, `repeat`.
    """
    require_blocks(net)
    n = len(net.blocks)
    wanted = list(range(1, max(n // 2, 1) + 1)) if counts is None else list(counts)
    if not wanted or not all(0 <= k <= n for k in wanted):
        raise InputError(f"`counts` must hold numbers of blocks from 0 to {n}, got {wanted}.")
    _require_positive("repeats", repeats)
    draw = _random.Random(seed)
    rows = [(k, repeat, draw.sample(range(n), k)) for k in wanted for repeat in range(repeats)]
    return Plan(
        "random",
        tuple(net.intact.without(*gone) for _, _, gone in rows),
        tuple({"deleted": k, "repeat": repeat} for k, repeat, _ in rows),
    )


def shuffled(net: Unraveled, swaps: Iterable[int] | None = None, repeats: int = 5, seed: int = 0) -> Plan:
    """Swap s random pairs of blocks that fit each other's slots, `repeats` times for each s (paper, Figure 5b).

    Args:
        swaps: the values of s; by default ten values from 1 to about the number of blocks.
        seed: the same seed gives the same swaps.

    Labels: `swaps`, `repeat`, `kendall_tau` (rank correlation of the order with the intact one, 1 = intact).

    The plan is empty if no two blocks can trade places.
    """
    require_blocks(net)
    _require_positive("repeats", repeats)
    pairs = [(a.index, b.index) for a in net.blocks for b in net.blocks if a.index < b.index and a.span == b.span]
    if not pairs:
        return Plan("shuffled", (), ())
    wanted = _spread(len(net.blocks)) if swaps is None else list(swaps)
    draw = _random.Random(seed)
    arrangements, labels = [], []
    for s in wanted:
        for repeat in range(repeats):
            arrangement = net.intact
            for _ in range(s):
                arrangement = arrangement.swapped(*draw.choice(pairs))
            tau = float(kendalltau(range(len(arrangement)), [branch or 0 for branch in arrangement]).statistic)
            arrangements.append(arrangement)
            labels.append({"swaps": s, "repeat": repeat, "kendall_tau": tau})
    return Plan("shuffled", tuple(arrangements), tuple(labels))


def explicit(net: Unraveled, arrangements: Sequence[Sequence[Decision]]) -> Plan:
    """Any list of arrangements. Labels: `arrangement`, its position in the list.

    Raises:
        ArrangementError: one of them cannot run on the network.
    """
    checked = tuple(net.arrangement(arrangement) for arrangement in arrangements)
    return Plan("explicit", checked, tuple({"arrangement": i} for i in range(len(checked))))


def _spread(n: int) -> list[int]:
    """Ten numbers of swaps, closer together where the order is still nearly intact."""
    return sorted({max(1, round(n * (i / 10) ** 2)) for i in range(1, 11)})


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"`{name}` must be at least 1, got {value}.")
