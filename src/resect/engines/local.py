"""The engine of one process, one piece after the other; and the store in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from resect.digest import key_digest
from resect.engines.work import Arrays, Progress, Store, Work
from resect.measuring.batches import Batch
from resect.network.unraveled import Unraveled


@dataclass(frozen=True)
class Local:
    """Runs pieces of work in this process.

    Args:
        store: where results are kept and looked for; None keeps nothing, and spares the hashing of weights and samples.
    """

    store: Store | None = None

    @property
    def keeps(self) -> bool:
        """Whether there is a store."""
        return self.store is not None

    def run(
        self, net: Unraveled, pieces: Iterable[tuple[Work, Batch]], progress: Progress | None = None
    ) -> Iterator[Arrays]:
        """The results of all pieces, in order; those in the store are not computed again."""
        identity = _identity(net) if self.store else {}
        for work, batch in pieces:
            meter = _Meter(work.cost(net, batch), progress)
            compute = partial(work.run, net, batch, meter)
            if self.store is None or (key := work.key) is None or batch.digest is None:
                arrays = compute()
            else:
                arrays = self.kept({**identity, "work": dict(key), "batch": [batch.number, batch.digest]}, compute)
            meter.finish()
            yield arrays

    def once(self, net: Unraveled, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """A choice that is made once and then kept."""
        return self.kept({**_identity(net), "choice": dict(key)} if self.store else {}, compute)

    def kept(self, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """What the store holds under a key, computed and put there if it is not there yet."""
        if self.store is None:
            return compute()
        arrays = self.store.get(key)
        if arrays is None:
            arrays = compute()
            self.store.put(key, arrays)
        return arrays


LOCAL = Local()


@dataclass(frozen=True)
class Memory:
    """A store that is gone with the process."""

    kept: dict[str, Arrays] = field(default_factory=dict)

    def get(self, key: Mapping[str, Any]) -> Arrays | None:
        """What was kept under a key."""
        return self.kept.get(key_digest(key))

    def put(self, key: Mapping[str, Any], arrays: Arrays) -> None:
        """Keep a result."""
        self.kept[key_digest(key)] = arrays


def _identity(net: Unraveled) -> dict[str, Any]:
    """What decides the bits of every result: weights and graph, device, threads, versions."""
    card = torch.cuda.get_device_name(net.device) if net.device.type == "cuda" else net.device.type
    versions = [version("resect"), torch.__version__]
    return {"network": net.fingerprint(), "device": card, "threads": torch.get_num_threads(), "versions": versions}


class _Meter:
    """Reports the progress of one piece, which may be found in the store, or stop early: in all just its cost."""

    def __init__(self, total: float, progress: Progress | None) -> None:
        self._left, self._progress = total, progress

    def __call__(self, amount: float) -> None:
        amount = min(amount, self._left)
        self._left -= amount
        if self._progress and amount:
            self._progress(amount)

    def finish(self) -> None:
        """Report what is left."""
        self(self._left)
