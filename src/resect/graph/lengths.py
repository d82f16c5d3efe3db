"""At which other sizes a model runs: its lengths and image sizes, found by running it on one sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from resect.graph.calls import Call, batch_dimensions, outputs_of
from resect.graph.exporting import without_fused_attention
from resect.graph.sizes import Place
from resect.graph.untouched import untouched


@dataclass(frozen=True)
class Trial:
    """A model on one sample of other sizes than the example's.

    Attributes:
        places: the dimensions that have another size.
        call: the inputs.
        outputs: what the model returns.
    """

    places: frozenset[Place]
    call: Call
    outputs: Any


@dataclass(frozen=True)
class Lengths:
    """The sizes that a model takes free.

    Attributes:
        others: the trial in which all of them differ from the example; None if none is free.
        ones: for each group of them that belong together the trial in which they are 1, where the model runs so.
    """

    others: Trial | None = None
    ones: tuple[Trial, ...] = ()

    @property
    def places(self) -> frozenset[Place]:
        """The free dimensions."""
        return frozenset() if self.others is None else self.others.places


def lengths_of(model: nn.Module, call: Call, batch_dim: int = 0) -> Lengths:
    """Run the model in eval mode at other sizes; it is not changed.

    A dimension counts as free if the model runs with another size of it: the half, else the double, first of all
    dimensions of one size together (ids and their mask, height and width), then of each alone.
    """
    leaves, spec = pytree.tree_flatten(call)
    batches = batch_dimensions(leaves, batch_dim)
    one = [
        leaf if at is None else leaf.narrow(at, 0, min(1, leaf.shape[at]))
        for leaf, at in zip(leaves, batches, strict=True)
    ]
    trier = _Trier(model, one, spec)
    groups: dict[int, list[Place]] = {}
    for number, (leaf, at) in enumerate(zip(one, batches, strict=True)):
        for dimension, size in enumerate(leaf.shape if isinstance(leaf, Tensor) else ()):
            if dimension != at and size > 1:
                groups.setdefault(size, []).append((number, dimension))
    with _as_it_runs(model):
        free: list[list[Place]] = []
        sizes: dict[Place, int] = {}
        last: Trial | None = None
        for size, places in groups.items():
            for part in [places, *([place] for place in places if len(places) > 1)]:
                if any(place in sizes for place in part):
                    continue
                for other in [size // 2] * (size > 3) + [2 * size] * (part is places):
                    trial = trier.run(sizes | dict.fromkeys(part, other))
                    if trial:
                        last, sizes = trial, sizes | dict.fromkeys(part, other)
                        free.append(part)
                        break
        ones = [trier.run(dict.fromkeys(part, 1)) for part in free]
    return Lengths(last, tuple(trial for trial in ones if trial))


def three_times(model: nn.Module, trial: Trial) -> Trial | None:
    """The model at three times the sizes of a trial, which are one and a half of an example that it halves."""
    leaves, spec = pytree.tree_flatten(trial.call)
    with _as_it_runs(model):
        return _Trier(model, leaves, spec).run({place: 3 * leaves[place[0]].shape[place[1]] for place in trial.places})


@contextmanager
def _as_it_runs(model: nn.Module) -> Iterator[None]:
    """In eval mode, without gradients and what a graph does not have."""
    with (
        untouched(model, "eval"),
        without_fused_attention(),
        torch.no_grad(),
        torch.compiler.set_stance("force_eager"),  # a compiled model complains where it does not fit
    ):
        yield


class _Trier:
    def __init__(self, model: nn.Module, leaves: Sequence[Any], spec: pytree.TreeSpec) -> None:
        self.model, self.leaves, self.spec = model, leaves, spec

    def run(self, sizes: dict[Place, int]) -> Trial | None:
        """The model with other sizes at some places, whose values repeat; None where it cannot run."""
        leaves = list(self.leaves)
        for (number, dimension), size in sizes.items():
            old = leaves[number].shape[dimension]
            chosen = torch.arange(size, device=leaves[number].device) % old
            leaves[number] = leaves[number].index_select(dimension, chosen)
        call = pytree.tree_unflatten(leaves, self.spec)
        try:
            return Trial(frozenset(sizes), call, outputs_of(self.model, call))
        except Exception:  # any model raises what it likes at a size that it is not made for
            return None
