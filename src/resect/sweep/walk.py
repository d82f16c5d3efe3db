"""Run many arrangements on one batch, sharing the state of every common prefix.

A set of arrangements is a trie on their slots. It is walked depth first, the smaller subtree first, so that the states
kept are those at the divergences of one way down the trie: for single deletions never more than two, in general at
most the logarithm of the number of arrangements for each slice that they decide in two ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from resect.graph.program import Program
from resect.graph.resolve import Decisions, Programs
from resect.network.arrangement import Arrangement
from resect.sweep.execution import Execution


@dataclass(frozen=True)
class Stop:
    """One slice run on the way through the trie.

    Attributes:
        index: of the slice.
        group: positions of the arrangements that share it.
        ways: in how many ways they go on from here; 0 after the last slice.
    """

    index: int
    program: Program
    group: tuple[int, ...]
    ways: int


@dataclass(frozen=True)
class Tour:
    """The whole walk, the same for every batch.

    Attributes:
        arrangements: how many it runs.
        states: how many states are kept at the most at one time.
    """

    stops: tuple[Stop, ...]
    arrangements: int
    states: int

    @classmethod
    def of(cls, programs: Programs, arrangements: Sequence[Arrangement]) -> Tour:
        """The tour that runs every distinct arrangement once."""
        stops = tuple(_stops(programs, arrangements))
        kept = most = 1
        for stop in stops:
            kept += stop.ways - 1
            most = max(most, kept)
        return cls(stops, len(arrangements), most)

    def cut(self, most: int) -> list[list[int]]:
        """The positions of the arrangements in parts that lie together in the trie.

        A part runs about `most` slices or fewer, but at least one arrangement. What it shares with the part before it
        runs again.
        """
        parts: list[list[int]] = [[]]
        slices = own = 0
        for stop in self.stops:
            own += 1
            if stop.ways:
                continue
            if parts[-1] and slices + own > most:
                parts.append([])
                slices, own = 0, stop.index + 1
            slices, own = slices + own, 0
            parts[-1] += stop.group
        return parts

    def stretches(self, stride: int) -> Iterator[tuple[Stop, ...]]:
        """The stops in order, those of `stride` slices in a row as one where the way does not part between them.

        Stretches start at slices whose number is a multiple of the stride, so that few kinds of them occur.
        """
        position = 0
        while position < len(self.stops):
            stretch = self.stops[position : position + stride]
            whole = len(stretch) == stride and stretch[0].index % stride == 0
            if not whole or any(stop.ways != 1 for stop in stretch[:-1]):
                stretch = self.stops[position : position + 1]
            yield stretch
            position += len(stretch)


def _stops(programs: Programs, arrangements: Sequence[Arrangement]) -> Iterator[Stop]:
    live = [[program.live_before for program in programs.fold(a)] + [programs.live_at_end(a)] for a in arrangements]
    last = len(programs.sliced.slices) - 1
    stack = [(0, list(range(len(arrangements))))]
    while stack:
        index, group = stack.pop()
        needed = live[group[0]][index + 1].union(*(live[i][index + 1] for i in group[1:]))
        program = programs.build(index, programs.decisions(index, arrangements[group[0]]), needed)
        parts = _split(programs, index + 1, group, arrangements) if index < last else []
        yield Stop(index, program, tuple(group), len(parts))
        stack += [(index + 1, part) for part in parts]


def _split(programs: Programs, index: int, group: list[int], arrangements: Sequence[Arrangement]) -> list[list[int]]:
    """The parts of a group that decide slice `index` alike, the smallest last (to be popped first)."""
    parts: dict[Decisions, list[int]] = {}
    for i in group:
        parts.setdefault(programs.decisions(index, arrangements[i]), []).append(i)
    return sorted(parts.values(), key=len, reverse=True)


def walk(execution: Execution, inputs: Any, tour: Tour, visit: Callable[[Sequence[int], Any], None]) -> None:
    """Call `visit(positions, outputs)` once for every distinct arrangement of a tour.

    Without compilation, the outputs are bit-identical to running each arrangement from the start on the same batch.
    """
    with torch.no_grad():
        base = execution.bind(inputs)
        states: list[dict[int, Any]] = [{}]
        for stretch in tour.stretches(execution.stride):
            last = stretch[-1]
            state = execution.run([stop.program for stop in stretch], base, states.pop())
            if last.ways:
                states += [state] * last.ways
            else:
                visit(last.group, execution.net.outputs_by_sample(base, state))
