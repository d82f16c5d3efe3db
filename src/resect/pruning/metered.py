"""An engine that counts how often samples go through the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resect.engines.work import Arrays, Engine, Progress, Work
from resect.measuring.batches import Batch
from resect.network.unraveled import Unraveled
from resect.paths.settings import PathWork


@dataclass
class Metered:
    """Lets another engine work, and counts what it is given: as much, whether it lies in a store or not.

    Attributes:
        runs: samples, each as often as it went through the network, forward or back.
    """

    engine: Engine
    runs: float = 0.0

    @property
    def keeps(self) -> bool:
        """As the other engine."""
        return self.engine.keeps

    def run(
        self, net: Unraveled, pieces: Iterable[tuple[Work, Batch]], progress: Progress | None = None
    ) -> Iterator[Arrays]:
        """The results of all pieces, in order."""
        return self.engine.run(net, self._counted(net, pieces), progress)

    def once(self, net: Unraveled, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """As the other engine."""
        return self.engine.once(net, key, compute)

    def kept(self, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """As the other engine."""
        return self.engine.kept(key, compute)

    def _counted(self, net: Unraveled, pieces: Iterable[tuple[Work, Batch]]) -> Iterator[tuple[Work, Batch]]:
        for work, batch in pieces:
            self.runs += work.passes * len(batch) if isinstance(work, PathWork) else work.cost(net, batch)
            yield work, batch
