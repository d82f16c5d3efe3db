"""Run many arrangements on one batch, sharing the state of every common prefix.

A set of arrangements is a trie on its slots. It is walked depth first, the smaller subtree first, so that the states
kept are those at the divergences of one way down the trie: for single deletions never more than two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from resect.graph.program import Decision
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled

State = dict[int, Any]


def walk(
    net: Unraveled, inputs: Any, arrangements: Sequence[Arrangement], visit: Callable[[Sequence[int], Any], None]
) -> None:
    """Call `visit(positions, outputs)` once for every distinct arrangement, with its positions in `arrangements`.

    The outputs are bit-identical to `net(inputs, arrangement)`.
    """
    programs = net.programs
    live = [[program.live_before for program in programs.fold(a)] + [programs.live_at_end(a)] for a in arrangements]
    last = len(programs.sliced.slices) - 1
    with torch.no_grad():
        base = net.bind(inputs)
        # An entry is a slice still to run, on a state, for the arrangements that agree up to and in that slice.
        stack: list[tuple[int, list[int], State]] = _split(net, 0, list(range(len(arrangements))), {}, arrangements)
        while stack:
            index, group, state = stack.pop()
            needed = live[group[0]][index + 1].union(*(live[i][index + 1] for i in group[1:]))
            decisions = programs.decisions(index, arrangements[group[0]])
            state = programs.build(index, decisions, needed).run(base, state)
            if index == last:
                visit(group, net.outputs(base, state))
            else:
                stack.extend(_split(net, index + 1, group, state, arrangements))


def _split(
    net: Unraveled, index: int, group: list[int], state: State, arrangements: Sequence[Arrangement]
) -> list[tuple[int, list[int], State]]:
    """The parts of a group that decide slice `index` alike, the smallest last (to be popped first)."""
    if not net.sliced.slots_of[index]:
        return [(index, group, state)]
    parts: dict[tuple[Decision, ...], list[int]] = {}
    for i in group:
        parts.setdefault(net.programs.decisions(index, arrangements[i]), []).append(i)
    return [(index, part, state) for part in sorted(parts.values(), key=len, reverse=True)]
