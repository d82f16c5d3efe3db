"""Back through a network and forward again, with a factor on every branch.

With a factor z_i on every branch the gradient g(z) is affine in each z_i, and its derivative with respect to z_i, met
by a tangent t that starts at the target, is <c_i, J_i t>: c_i is the cotangent of the branch's output, from a backward
pass with the factors, and J_i t the tangent that comes forward, with the factors, through the branch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from resect.calculus.linear import Lanes
from resect.engines.work import Progress
from resect.measuring.batches import widest_float
from resect.paths.lanes import per_row
from resect.paths.trace import SliceGradient, Trace


class Passes:
    """One batch, once back and then forward.

    Attributes:
        at_gates: per slot the cotangent of its branch's output, (B, ...); filled on the way back.
        products: (rows, slots) float64; <c_i, J_i t> of every row; filled on the way forward.
    """

    def __init__(self, trace: Trace, progress: Progress, factors: Sequence[float] | None = None) -> None:
        self.trace, self.progress, self.factors = trace, progress, factors
        self.products = np.zeros((trace.rows, len(trace.net.blocks)))
        self.at_gates: Lanes = {}

    def back(self) -> Lanes:
        """The gradient at the target's values under the factors, one lane each."""
        cotangents = self.trace.scalar_gradient
        factors = None if self.factors is None else torch.from_numpy(np.array([self.factors], dtype=float))
        for _, part in self.trace.slices():
            cotangents, ends = part.backward(cotangents, factors)
            self.at_gates |= {slot: ends[gate][0] for slot, gate in part.branches.items() if gate in ends}
            self.progress(1)
        return self.trace.to_target(cotangents)

    def forward(self, start: Lanes) -> Lanes:
        """Tangents of the target's values, one lane each, to the live values before the tail."""
        tangents = self.trace.from_target(start)
        fixed = {key: tangents[key] for key in self.trace.parameters & tangents.keys()}
        for part in self.trace.parts.values():
            tangents = self._through(part, tangents) | fixed
            self.progress(1)
        return tangents

    def _through(self, part: SliceGradient, tangents: Lanes) -> Lanes:
        own = {} if self.factors is None else {gate: self.factors[slot] for slot, gate in part.branches.items()}
        pushed = part.push({key: value for key, value in tangents.items() if key in part.signal}, factors=own)
        gates = {slot: pushed[gate] for slot, gate in part.branches.items() if gate in pushed and slot in self.at_gates}
        for slot, value in gates.items():
            self.products[:, slot] = self.dot(slot, value[0])
        self.met(part, gates)
        return {key: value for key, value in pushed.items() if key in part.source}

    def met(self, part: SliceGradient, gates: Lanes) -> None:
        """Told of the tangents at the gates of a slice, by slot."""

    def dot(self, slot: int, tangent: Tensor) -> np.ndarray:
        """(rows,) inner products of a tangent (B, ...) at a gate with the cotangent there, row by row."""
        product = tangent * self.at_gates[slot]
        if self.trace.parameters:
            return summed(product.reshape(1, -1))
        return summed(product.movedim(self._batch_of(slot), 0).reshape(self.trace.rows, -1))

    def by_row(self, slot: int, value: Tensor, weights: np.ndarray) -> Tensor:
        """A value (B, ...) at a gate, every row of it times its weight, (rows,)."""
        shape = [1] * value.ndim
        if not self.trace.parameters:
            shape[self._batch_of(slot)] = -1
        return value * torch.from_numpy(weights).to(value).view(shape)

    def _batch_of(self, slot: int) -> int:
        """The dimension of the samples at a gate."""
        sliced = self.trace.net.sliced
        return sliced.captured.samples_at(sliced.slots[slot].join.branch)


def row_squares(trace: Trace, gradient: Lanes) -> np.ndarray:
    """(rows,) float64 squared norms of a gradient at the target's values, one lane each."""
    return sum((summed(per_row(value.square()))[0] for value in gradient.values()), np.zeros(trace.rows))


def summed(products: Tensor) -> np.ndarray:
    """Sums over the last dimension, float64."""
    return np.asarray(products.sum(-1, dtype=widest_float(products.device)).cpu().double().numpy())
