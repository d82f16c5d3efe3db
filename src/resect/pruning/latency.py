"""How long a network takes without some of its units: always the whole network, always in turn with the intact one.

Blocks that are timed alone do not add up to a network, and a machine that is slow for a while is slow for both of a
pair. Units are priced by networks without many of them at once, drawn at random, and a regression: one unit is too
little to be told from noise, and alike units (of the same shapes, layers and parameters) have one price.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor

from resect.engines.work import Arrays, Engine
from resect.errors import InputError
from resect.graph.exporting import cause
from resect.measuring.batches import to_device
from resect.measuring.timing import seconds_of
from resect.network.arrangement import Arrangement
from resect.network.blocks import Block
from resect.network.unraveled import Unraveled
from resect.pruning.groups import Group, without

_LEAST = 0.004  # seconds that are timed at once: shorter ones are mostly the clock and the start
_PRICING, _FINAL = 15.0, 5.0  # seconds that all pairs may take, about
_FEWEST, _MOST = 15, 200  # pairs
_A_PRICE = 12  # pairs, at least
_QUARTILE, _RESAMPLES = 0.25, 2000
FREE = 0.8  # part of the time of a pass in which it must have the processor to tell of the network
_ROUNDS, _FLOOR = 30, 1e-4  # of the regression by least absolute deviations


@dataclass(frozen=True)
class Timer:
    """Times arrangements of a network against the intact one, on the same inputs.

    Attributes:
        inputs: of a pass, on the network's device.
        seed: of the order in which units are priced.
    """

    net: Unraveled
    inputs: Any
    engine: Engine
    seed: int = 0
    _known: dict[Arrangement, dict[str, float]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, net: Unraveled, inputs: Any, batch: int, length: int | None, engine: Engine, seed: int = 0) -> Timer:
        """A timer of passes of so many samples and positions, made of the samples of `inputs`."""
        sized = to_device(_sized(net, inputs, batch, length), net.device)
        if length is not None:
            _require_to_run(net, sized, length)
        return cls(net, sized, engine, seed)

    @property
    def _key(self) -> dict[str, Any]:
        leaves = [leaf for leaf in pytree.tree_leaves(self.inputs) if isinstance(leaf, Tensor)]
        return {"what": "passes in turn", "shapes": [list(leaf.shape) for leaf in leaves]}

    def prices(self, groups: Sequence[Group]) -> np.ndarray:
        """(units,) the part of the latency that the removal of each saves."""
        kinds = _kinds(self.net, groups)
        draw = np.random.default_rng(self.seed)

        def drawn() -> list[int]:
            return sorted(draw.permutation(len(groups))[: draw.integers(1, len(groups) + 1)].tolist())

        chosen = [drawn() for _ in range(max(_MOST, _A_PRICE * (max(kinds) + 1)))]
        arrangements = [without(self.net, groups, removed) for removed in chosen]
        fewest = max(_FEWEST, _A_PRICE * (max(kinds) + 1))
        key = {**self._key, "priced": list(map(str, arrangements))}
        timed = self.engine.once(self.net, key, lambda: self._in_turn(arrangements, _PRICING, fewest))
        free = undisturbed(timed["processor"])
        pairs = timed["seconds"][free]
        counts = np.array([np.bincount([kinds[i] for i in removed], minlength=max(kinds) + 1) for removed in chosen])
        return least_absolute(counts[: len(free)][free], 1 - pairs[:, 1] / pairs[:, 0])[kinds]

    def against_intact(self, arrangement: Arrangement) -> dict[str, float]:
        """The latency as a part of the intact one's, `latency` with its 95 % interval, both in milliseconds, and
        `processor`, the part of the time in which they had it: below `FREE` the figures tell of what else runs.
        """  # fmt: skip
        if arrangement not in self._known:
            self._known[arrangement] = self._against_intact(arrangement)
        return self._known[arrangement]

    def _against_intact(self, arrangement: Arrangement) -> dict[str, float]:
        key = {**self._key, "finalist": str(arrangement)}
        timed = self.engine.once(self.net, key, lambda: self._in_turn([arrangement] * _MOST, _FINAL, _FEWEST))
        free = undisturbed(timed["processor"])
        pairs = timed["seconds"][free]
        ratio, low, high = ratio_of_quartiles(pairs)
        intact, left = np.quantile(pairs, _QUARTILE, axis=0) * 1000
        return {
            "latency": ratio,
            "latency_low": low,
            "latency_high": high,
            "milliseconds": float(left),
            "intact_milliseconds": float(intact),
            "processor": float(np.median(timed["processor"][free])),
        }

    def _in_turn(self, arrangements: Sequence[Arrangement], budget: float, fewest: int) -> Arrays:
        """Times of the intact network and of each arrangement, in turn, as many as the budget allows.

        `seconds` (pairs, 2), and `processor` (pairs,), the part of them in which this thread had it (1 on other
        devices).

        In every other pair the intact network comes second.
        """
        intact, device = self.net.bound(self.inputs, self.net.intact), self.net.device
        calls: dict[Arrangement, Callable[[], Any]] = {}
        pairs: list[tuple[float, float]] = []
        processor: list[float] = []
        with torch.no_grad():
            intact()
            times = max(1, round(_LEAST / min(seconds_of(intact, device) for _ in range(3))))
            started = perf_counter()
            for number, arrangement in enumerate(arrangements):
                if number >= fewest and perf_counter() - started > budget:
                    break
                if arrangement not in calls:
                    calls[arrangement] = self.net.bound(self.inputs, arrangement)
                    calls[arrangement]()
                order = (intact, calls[arrangement])[:: 1 if number % 2 else -1]
                wall, own = perf_counter(), thread_time()
                first, second = (seconds_of(call, device, times) for call in order)
                processor.append((thread_time() - own) / (perf_counter() - wall) if device.type == "cpu" else 1.0)
                pairs.append((first, second) if number % 2 else (second, first))
        return {"seconds": np.array(pairs), "processor": np.array(processor)}


def undisturbed(processor: np.ndarray) -> np.ndarray:
    """(pairs,) which pairs of passes had the processor for `FREE` of their time; all of them if those are too few.

    A long pass is interrupted more often than a short one, so that other work does not only widen the interval of
    their ratio: it moves it.
    """
    free = np.asarray(processor >= FREE)
    return free if free.sum() >= _FEWEST else np.ones_like(free)


def _kinds(net: Unraveled, groups: Sequence[Group]) -> list[int]:
    """For every unit which kind it is: alike units have blocks of the same shapes, layers and parameters."""

    def like(block: Block) -> tuple[Any, ...]:
        return block.kind, block.layers, block.parameters, block.entry_shape, block.branch_shape

    units = [tuple(like(net.blocks[i]) for i in group.blocks) for group in groups]
    known = list(dict.fromkeys(units))
    return [known.index(unit) for unit in units]


def ratio_of_quartiles(pairs: np.ndarray) -> tuple[float, float, float]:
    """The lower quartile of the second of pairs (N, 2) over that of the first, with its 95 % interval (bootstrap).

    What else runs on a machine makes passes slower and never faster: the quick ones tell of the network.
    """
    draws = np.random.default_rng(0).integers(0, len(pairs), (_RESAMPLES, len(pairs)))
    first, second = np.quantile(pairs[draws], _QUARTILE, axis=1).T
    low, high = np.quantile(second / first, (0.025, 0.975))
    intact, left = np.quantile(pairs, _QUARTILE, axis=0)
    return float(left / intact), float(low), float(high)


def least_absolute(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(kinds,) the prices whose sums by `counts` (pairs, kinds) miss the values (pairs,) least, in absolute deviations.

    By iteratively reweighted least squares: a single pair that something else slowed down moves nothing.
    """
    prices = np.linalg.lstsq(counts, values, rcond=None)[0]
    for _ in range(_ROUNDS):
        weights = np.sqrt(1 / np.maximum(np.abs(counts @ prices - values), _FLOOR))
        prices = np.linalg.lstsq(counts * weights[:, None], values * weights, rcond=None)[0]
    return np.asarray(prices)


def _sized(net: Unraveled, inputs: Any, batch: int, length: int | None) -> Any:
    """Inputs with so many samples and positions, those given again where there are fewer."""
    if net.batch_size not in (None, batch):
        raise InputError(f"`timing_batch` must be {net.batch_size}, at which the graph holds, got {batch}.")
    if net.batch_size is None:
        inputs = net.part_of(inputs, torch.arange(batch) % net.samples_of(inputs))
    at = 0 if net.batch_dim else 1  # of positions, beside the samples
    sequences = [entry for entry in net.inputs if 2 <= len(entry.shape) <= 3]
    if length is None:
        return inputs
    if not any(entry.shape[at] is None for entry in sequences):
        raise InputError(f"`timing_length` must be left out: no input is a sequence of free length, got {length}.")

    def resized(leaf: Any) -> Any:
        sequence = isinstance(leaf, Tensor) and 2 <= leaf.ndim <= 3
        return leaf.index_select(at, torch.arange(length, device=leaf.device) % leaf.shape[at]) if sequence else leaf

    return pytree.tree_map(resized, inputs)


def _require_to_run(net: Unraveled, inputs: Any, length: int) -> None:
    """Raise InputError if a network does not run at a length."""
    try:
        with torch.no_grad():
            net(inputs)
    except Exception as error:  # of whatever kind, as of a table of positions that is too short
        raise InputError(
            f"`timing_length` must be a length that the model runs at, got {length}: {cause(net.model, error)}."
        ) from error
