"""The path polynomial, carried back through the network degree by degree.

C(z) <- (S_i + z J_i^T) C(z) at every join i, from the last to the first; S_i is the transposed skip, J_i the transposed
branch. Lane k holds C_k, the summed gradient of all paths of length k. With a sign on each branch, J_i becomes s_i J_i.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor
from torch.fx import Node

from resect.calculus.linear import Lanes, add_into
from resect.engines.work import Progress
from resect.paths.lanes import EMPTY, Watch, apart, buffer, first_lanes, group_size, scaled
from resect.paths.signs import Signs
from resect.paths.trace import SliceGradient, Trace, enter


class Degrees:
    """C_0 to C_K of every live value; beyond K, one lane more holds the sum of all higher degrees (the rest).

    Attributes:
        lanes: per live value (lanes, B, ...).
        exponents: (lanes,) int64; a lane stands for its entries times 2**exponent.
    """

    def __init__(self, start: Lanes, longest: int, *, rest: bool) -> None:
        self.highest = longest
        count = longest + 1 + rest
        self.lanes = first_lanes(start, count)
        self.exponents = np.full(count, EMPTY, dtype=np.int64)
        self.exponents[0] = 0
        self.used = 1
        self.rest = count - 1 if rest else None


class _Step:
    """Back through one join: the skip keeps each degree, a branch raises it by one.

    Lanes are taken in groups from the top, so that every lane is read before it is overwritten.
    """

    def __init__(self, degrees: Degrees, gradient: SliceGradient, signs: Signs | None, nodes: Sequence[Node]) -> None:
        self.degrees, self.gradient, self.signs, self.nodes = degrees, gradient, signs, nodes
        self.ending, self.stays, self.reusable = enter(gradient, degrees.lanes)
        self.present = set(degrees.lanes)  # what has lanes already, to which those of this slice are added
        old = degrees.exponents
        self.raised = np.concatenate([[EMPTY], old[:-1]])
        self.full = degrees.rest is not None and degrees.used == degrees.highest + 1
        if degrees.rest is not None:
            self.raised[degrees.rest] = max(old[degrees.rest], old[degrees.highest]) if self.full else EMPTY
        self.old, self.joint = old.copy(), np.maximum(old, self.raised)
        self.new: set[int] = set()
        self.watch = Watch()

    def run(self) -> None:
        degrees = self.degrees
        top = min(degrees.used + 1, degrees.highest + 1)
        size = group_size(value[0] for value in [*self.ending.values(), *degrees.lanes.values()])
        if self.full:
            assert degrees.rest is not None
            self._group(degrees.rest, degrees.rest + 1)
        for stop in range(top, 1, -size):
            self._group(max(1, stop - size), stop)
        self._group(0, 1)
        degrees.used = top
        self.watch.settle(degrees.lanes, degrees.exponents)

    def _group(self, start: int, stop: int) -> None:
        """Lanes [start, stop) from those before and themselves."""
        low = max(start - 1, 0)
        ends, direct = self.gradient.to_ends({key: value[low:stop] for key, value in self.ending.items()})
        kept = (self.old - self.joint)[start:stop]
        seeds: Lanes = {}
        for key, value in ends.items():
            if key == self.gradient.skip:
                if self.stays is None:
                    seeds[key] = scaled(value[start - low :], kept)
            elif start > 0:
                seeds[key] = self._raised(key, value, start, stop)
        before = self._from_ends(seeds) if seeds else {}
        for key, value in direct.items():
            add_into(before, {key: scaled(value[start - low :], kept)})
        self._write(before, start, stop, kept)

    def _from_ends(self, seeds: Lanes) -> Lanes:
        """Back from the ends; those that read several states by themselves, as each of these has a sign of its own."""
        if self.signs is None:
            return self.gradient.from_ends(seeds)
        station, slots = self.gradient.station, {end: self.gradient.slot_of.get(end) for end in seeds}
        alone = [end for end, slot in slots.items() if self.signs.parts(station, slot)]
        before = self.gradient.from_ends({end: value for end, value in seeds.items() if end not in alone})
        for end in alone:
            back = self.gradient.from_ends({end: seeds[end]})
            add_into(before, self.signs.parted(station, slots[end], back, self.nodes))
        return before

    def _raised(self, gate: int, value: Tensor, start: int, stop: int) -> Tensor:
        """What enters a branch: each degree from the one below, and the rest from itself and the highest, too."""
        down = self.raised - self.joint
        if start == self.degrees.rest:
            below = np.array([self.old[self.degrees.highest], self.old[start]]) - self.raised[start]
            lanes = scaled(scaled(value, below).sum(0, keepdim=True), down[start:stop])
        else:
            lanes = scaled(value[:-1], down[start:stop])
        sign = self.signs.slots[self.gradient.slot_of[gate]] if self.signs else 1.0
        return lanes if sign == 1.0 else lanes * sign

    def _write(self, before: Lanes, start: int, stop: int, kept: np.ndarray) -> None:
        bank = self.degrees.lanes
        before = {key: apart(value, self.ending.values()) for key, value in before.items()}
        for key in self.present:
            scaled(bank[key][start:stop], kept, owned=True)
        for key, value in before.items():
            if key in self.present:
                bank[key][start:stop].add_(value)
                continue
            if key not in bank:
                bank[key] = buffer(len(self.joint), value[0], self.reusable)
                self.new.add(key)
            bank[key][start:stop] = value
        for key in self.new - before.keys():
            bank[key][start:stop] = 0
        self.degrees.exponents[start:stop] = self.joint[start:stop]
        self.watch.note(range(start, stop), [value[start:stop] for value in bank.values()])
        self.reusable = []  # a value that shows up in a later group only is zero in this one


def decompose(
    trace: Trace,
    longest: int,
    *,
    rest: bool,
    signs: Signs | None = None,
    progress: Progress | None = None,
) -> Degrees:
    """Carry the polynomial of one batch back to the live values before the first slice of the trace's target.

    Args:
        longest: the highest degree that gets a lane of its own.
        rest: whether the sum of all higher ones gets a lane.
        signs: of the edges; 1 where absent.
    """
    start, nodes = trace.scalar_gradient, trace.programs.keys.nodes
    degrees = Degrees(signs.parted(signs.output, None, start, nodes) if signs else start, longest, rest=rest)
    for _, gradient in trace.slices():
        _Step(degrees, gradient, signs, nodes).run()
        if progress:
            progress(1)
    return degrees


def at_target(trace: Trace, lanes: Lanes, count: int) -> Iterator[tuple[slice, Lanes]]:
    """From the live values before the first slice to the target, a few lanes at a time.

    Yields:
        Which of the first `count` lanes, and their cotangents (L, rows, ...) at the target's values.
    """
    size = group_size(value[0] for value in lanes.values())
    for start in range(0, count, size):
        some = slice(start, min(start + size, count))
        yield some, trace.to_target({key: value[some] for key, value in lanes.items()})
