"""Plans: which arrangements a sweep runs, each with the labels of its row in the result table."""

from __future__ import annotations

import random as _random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, get_args

from scipy.stats import kendalltau

from resect.errors import ArrangementError, require_one_of, require_whole, suggesting
from resect.graph.decisions import Combine, Decision, Removal, Unit, Variant
from resect.network.arrangement import Arrangement
from resect.network.requirements import require_blocks
from resect.network.unraveled import Unraveled
from resect.sweep.spans import Span, numbers, spans
from resect.words import plural

_Row = tuple[Sequence[int], dict[str, Any]]  # the blocks that are deleted or repeated, and the label


@dataclass(frozen=True)
class Plan:
    """Arrangements in the order of their rows, and a label row for each.

    Attributes:
        name: that of the function that made it, with hyphens, e.g. "single".
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

    def __repr__(self) -> str:
        return f"<Plan {self.name}: {plural(len(self), 'arrangement')}>"

    def removing(self, removal: Removal) -> Plan:
        """The same plan with another treatment of deleted branches; InputError if it is unknown."""
        require_one_of("removal", removal, get_args(Removal))
        return replace(self, removal=removal)


def single(net: Unraveled) -> Plan:
    """Delete each block alone (paper, section 4.1 and Figure 3). Labels: `block`, `name`."""
    require_blocks(net)
    return _each(net, "single", range(len(net.blocks)), net.intact.without)


def pairs(net: Unraveled) -> Plan:
    """Delete every two blocks, n(n-1)/2 lesions; `LesionResult.interaction` compares them with the single deletions.

    Labels: `first`, `second`.
    """
    require_blocks(net)
    rows = [((i, j), {"first": i, "second": j}) for i, j in combinations(range(len(net.blocks)), 2)]
    return _deletions(net, "pairs", rows, single(net).arrangements)


@suggesting
def windows(
    net: Unraveled, lengths: Iterable[int] | int | None = None, *, unit: Unit = "block", middle: bool = False
) -> Plan:
    """Delete m consecutive blocks, for every m and every start: what depth pruning looks for.

    Args:
        lengths: the values of m, or a single one; 1 to the number of blocks by default, n(n+1)/2 lesions.
        unit: what is counted: a "block", or a "layer", one of several modules alike, whose blocks stay together.
        middle: one window of each length, around the middle of those blocks that stand in the middle of the network and
            can trade places, instead of one at every start.

    Labels: `start`, `length`, in units; of layers also the `name` of the first.
    """

    def without(first: int, last: int) -> Arrangement:
        return net.intact.without(range(first, last + 1))

    return _over_spans(net, "windows", spans(net, lengths, 1, unit=unit, middle=middle), without)


@suggesting
def reversed(
    net: Unraveled, lengths: Iterable[int] | int | None = None, *, unit: Unit = "block", middle: bool = False
) -> Plan:
    """Run m consecutive blocks in reversed order, where they can trade places (Sun et al. 2025b).

    What stands between the branches stays in its place: the projections, and the norms of post-norm transformers. Where
    one of two blocks is gated (a highway's), they trade with their skips.

    Args:
        lengths: the values of m, or a single one; all from 2 by default.
        unit, middle: as of `windows`.

    Labels: as of `windows`.
    """

    def lesion(first: int, last: int) -> Arrangement:
        return net.intact.reversed(first, last, unit=unit)

    return _over_spans(net, "reversed", spans(net, lengths, 2, unit=unit, middle=middle), lesion)


@suggesting
def parallel(
    net: Unraveled,
    lengths: Iterable[int] | int | None = None,
    *,
    unit: Unit = "block",
    middle: bool = False,
    combine: Combine = "mean",
) -> Plan:
    """Run m consecutive blocks side by side, all on the state before the first, where they keep its shape.

    Args:
        lengths, unit, middle: as of `reversed`.
        combine: hand on the "mean" of their outputs (Sun et al. 2025b), or the "sum" of what they add to the state; see
            `Arrangement.parallel`.

    Labels: as of `windows`.
    """
    require_one_of("combine", combine, get_args(Combine))

    def lesion(first: int, last: int) -> Arrangement:
        return net.intact.parallel(first, last, unit=unit, combine=combine)

    return _over_spans(net, "parallel", spans(net, lengths, 2, unit=unit, middle=middle), lesion)


def skips(net: Unraveled) -> Plan:
    """Delete the skip of each block and keep its branch: whether it is the skips that a network cannot spare.

    Blocks whose skip is shared (parallel branches) have it deleted once. Labels: `block`, `name`.
    """
    require_blocks(net)
    return _each(net, "skips", net.allowing(Variant.BRANCH_ONLY), net.intact.without_skip)


def repeated(net: Unraveled) -> Plan:
    """Run each block twice in a row, y = block(block(x)), where its shapes allow. Labels: `block`, `name`.

    A ReLU that follows the block's addition alone belongs to the block (original ResNets). The plan leaves out blocks
    that change the shape; it is empty if all do.
    """
    require_blocks(net)
    return _each(net, "repeated", net.allowing(Variant.TWICE), net.intact.repeated)


@suggesting
def random_repeated(net: Unraveled, counts: Iterable[int] | int | None = None, repeats: int = 5, seed: int = 0) -> Plan:
    """Run k random blocks twice in a row, `repeats` times for each k, of those that `repeated` runs twice.

    Args:
        counts: the values of k, or a single one; 1 to a fifth of these blocks by default, or 2 if there are so many.
            (The paper's authors: 1 to 10 of the 51 of ResNet-110 but the first of each stage; not in the paper.)
        seed: the same seed gives the same blocks.

    Labels: `repeated`, `repeat`.

    The plan is empty if no block keeps the shape of its input.
    """
    require_blocks(net)
    require_whole("repeats", repeats)
    able = net.allowing(Variant.TWICE)
    if not able:
        return Plan("random-repeated", (), ())
    wanted = numbers("counts", counts, 0, len(able)) if counts is not None else _up_to(max(len(able) // 5, 2), able)
    rows = _drawn(able, wanted, repeats, seed, "repeated")
    return Plan("random-repeated", tuple(net.intact.repeated(*blocks) for blocks, _ in rows), _labels(rows))


def bypassed(net: Unraveled) -> Plan:
    """Leave each block out as a whole, y = x, where its shapes allow: what its skip does to the signal goes, too.

    Differs from `single` where a skip is more than the signal itself: scaled, projected, or mixed (hyper-connections).
    Labels: `block`, `name`.
    """
    require_blocks(net)
    return _each(net, "bypassed", net.allowing(Variant.BYPASS), net.intact.bypassed)


@suggesting
def orders(net: Unraveled, count: int = 20, seed: int = 0) -> Plan:
    """Delete all blocks one after another in random orders, each order also backwards: what Shapley values need.

    Labels: `order`, `step` (0 to n-1), `block` (the one that this step deletes on top of those before).
    """
    require_blocks(net)
    require_whole("count", count)
    n, draw = len(net.blocks), _random.Random(seed)
    rows: list[_Row] = []
    for pair in range(count):
        way = draw.sample(range(n), n)
        for order, blocks in ((2 * pair, way), (2 * pair + 1, way[::-1])):
            rows += [(blocks[: i + 1], {"order": order, "step": i, "block": block}) for i, block in enumerate(blocks)]
    return _deletions(net, "orders", rows, single(net).arrangements)


@suggesting
def random(net: Unraveled, counts: Iterable[int] | int | None = None, repeats: int = 5, seed: int = 0) -> Plan:
    """Delete k random blocks, `repeats` times for each k (paper, section 4.2 and Figure 5a).

    Args:
        counts: the values of k, or a single one; 1 to half of the blocks by default.
        seed: the same seed gives the same blocks.

    Labels: `deleted`, `repeat`.
    """
    require_blocks(net)
    require_whole("repeats", repeats)
    every = range(len(net.blocks))
    wanted = numbers("counts", counts, 0, len(every)) if counts is not None else _up_to(max(len(every) // 2, 1), every)
    return _deletions(net, "random", _drawn(every, wanted, repeats, seed, "deleted"))


@suggesting
def shuffled(net: Unraveled, swaps: Iterable[int] | int | None = None, repeats: int = 5, seed: int = 0) -> Plan:
    """Swap s random pairs of blocks that fit each other's slots, `repeats` times for each s (paper, Figure 5b).

    Args:
        swaps: the values of s, or a single one; by default ten values from 1 to about the number of blocks.
        seed: the same seed gives the same swaps.

    Labels: `swaps`, `repeat`, `kendall_tau` (rank correlation of the order with the intact one, 1 = intact).

    The plan is empty if no two blocks can trade places.
    """
    require_blocks(net)
    require_whole("repeats", repeats)
    pairs = [(a.index, b.index) for a in net.blocks for b in net.blocks if a.index < b.index and a.span == b.span]
    if not pairs:
        return Plan("shuffled", (), ())
    if swaps is None:  # closer together where the order is still nearly intact
        swaps = sorted({max(1, round(len(net.blocks) * (i / 10) ** 2)) for i in range(1, 11)})
    draw = _random.Random(seed)
    arrangements, labels = [], []
    for s in numbers("swaps", swaps, 0):
        for repeat in range(repeats):
            arrangement = net.intact
            for _ in range(s):
                arrangement = arrangement.swapped(*draw.choice(pairs))
            tau = float(kendalltau(range(len(arrangement)), [branch or 0 for branch in arrangement]).statistic)
            arrangements.append(arrangement)
            labels.append({"swaps": s, "repeat": repeat, "kendall_tau": tau})
    return Plan("shuffled", tuple(arrangements), tuple(labels))


def explicit(
    net: Unraveled,
    arrangements: Mapping[str, Sequence[Decision] | str] | Iterable[Sequence[Decision] | str] | Arrangement,
) -> Plan:
    """Any arrangements: a list, a dict of them by name, or a single one. Labels: `arrangement`, its place or its name.

    Raises:
        ArrangementError: one of them cannot run on the network.
    """
    several = [arrangements] if isinstance(arrangements, Arrangement) else arrangements
    named = several if isinstance(several, Mapping) else dict(enumerate(several))
    checked = tuple(map(net.arrangement, named.values()))
    return Plan("explicit", checked, tuple({"arrangement": name} for name in named))


def _each(net: Unraveled, name: str, blocks: Sequence[int], lesion: Callable[[int], Arrangement]) -> Plan:
    """One lesion to each of some blocks."""
    labels = tuple({"block": i, "name": net.blocks[i].name} for i in blocks)
    return Plan(name, tuple(map(lesion, blocks)), labels)


def _over_spans(net: Unraveled, name: str, chosen: Iterable[Span], lesion: Callable[[int, int], Arrangement]) -> Plan:
    """A lesion to each span that can run it."""
    arrangements, labels = [], []
    for span in chosen:
        with suppress(ArrangementError):
            arrangements.append(net.arrangement(lesion(span.first, span.last)))
            labels.append(span.label)
    return Plan(name, tuple(arrangements), tuple(labels))


def _up_to(most: int, blocks: Sequence[int]) -> Sequence[int]:
    """The numbers from 1 to `most`, as far as there are blocks."""
    return range(1, min(most, len(blocks)) + 1)


def _drawn(blocks: Sequence[int], counts: Iterable[int], repeats: int, seed: int, number: str) -> list[_Row]:
    """Some of the blocks in every row, drawn at random; the label `number` says how many."""
    draw = _random.Random(seed)
    return [(draw.sample(blocks, k), {number: k, "repeat": i}) for k in counts for i in range(repeats)]


def _labels(rows: Sequence[_Row]) -> tuple[dict[str, Any], ...]:
    return tuple(label for _, label in rows)


def _deletions(net: Unraveled, name: str, rows: Sequence[_Row], references: tuple[Arrangement, ...] = ()) -> Plan:
    """Some blocks deleted in every row."""
    arrangements = tuple(net.intact.without(*blocks) for blocks, _ in rows)
    return Plan(name, arrangements, _labels(rows), references)
