"""Plans: which arrangements a sweep runs, each with the labels of its row in the result table."""

from __future__ import annotations

import random as _random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import kendalltau

from resect.errors import InputError
from resect.network.arrangement import Arrangement, validate
from resect.network.unraveled import Unraveled


@dataclass(frozen=True)
class Plan:
    """Arrangements in the order of their rows, and a label row for each.

    Attributes:
        name: "single", "random", "shuffled" or "explicit".
        labels: one dict of column -> value an arrangement.
    """

    name: str
    arrangements: tuple[Arrangement, ...]
    labels: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        return len(self.arrangements)


def single(net: Unraveled) -> Plan:
    """Delete each block alone (paper, section 4.1 and Figure 3). Labels: `block`, `name`."""
    _require_blocks(net)
    return Plan(
        "single",
        tuple(net.intact.without(block.index) for block in net.blocks),
        tuple({"block": block.index, "name": block.name} for block in net.blocks),
    )


def random(net: Unraveled, counts: Iterable[int] | None = None, repeats: int = 5, seed: int = 0) -> Plan:
    """Delete k random blocks, `repeats` times for each k (paper, section 4.2 and Figure 5a).

    Args:
        counts: the values of k; 1 to half of the blocks by default.
        seed: the same seed gives the same blocks.

    Labels: `deleted`, `repeat`.
    """
    _require_blocks(net)
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
    _require_blocks(net)
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


def explicit(net: Unraveled, arrangements: Sequence[Sequence[int | None]]) -> Plan:
    """Any list of arrangements. Labels: `arrangement`, its position in the list.

    Raises:
        ArrangementError: one of them cannot run on the network.
    """
    checked = tuple(validate(arrangement, net.sliced) for arrangement in arrangements)
    return Plan("explicit", checked, tuple({"arrangement": i} for i in range(len(checked))))


def _spread(n: int) -> list[int]:
    """Ten numbers of swaps, closer together where the order is still nearly intact."""
    return sorted({max(1, round(n * (i / 10) ** 2)) for i in range(1, 11)})


def _require_blocks(net: Unraveled) -> None:
    if not net.blocks:
        raise InputError(no_joins_message(net))


def no_joins_message(net: Unraveled) -> str:
    """What to tell a user whose network has no blocks."""
    return (
        f"{type(net.model).__name__} has no residual joins: none of its additions brings a branch back to the skip it "
        "came from. Its plain layers can be lesioned instead: unravel it with plain=True (--plain on the command line)."
    )


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"`{name}` must be at least 1, got {value}.")
