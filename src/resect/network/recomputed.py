"""Activation checkpointing computes a forward again during the backward pass, on the blocks of the first time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.utils import checkpoint

from resect.errors import InputError

Running = tuple[int, ...]


class Replays:
    """The blocks of every forward that `torch.utils.checkpoint` may compute again, for as long as its graph lives."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Any, list[Running]] = WeakKeyDictionary()
        self._places: WeakKeyDictionary[Any, tuple[int, int]] = WeakKeyDictionary()

    def __reduce__(self) -> Any:
        """Graphs are not copied, and so nothing is to be known of those of a copy."""
        return Replays, ()

    def keep(self, running: Running) -> None:
        """Keep the blocks of the forward that has just run, if it is checkpointed."""
        for region in _regions():
            self._kept.setdefault(region, []).append(running)

    def again(self) -> Running | None:
        """The blocks of the forward that is computed again; None for one that is computed the first time.

        Raises:
            InputError: it is computed again, but not by `torch.utils.checkpoint`.
        """
        backward = torch._C._current_graph_task_id()
        if backward == -1:
            return None
        regions = list(_regions())
        known = next((region for region in regions if region in self._kept), None)
        last, place = self._places.get(known, (backward, 0)) if known else (backward, 0)
        place = place if last == backward else 0  # a region may hold several calls, computed again in their order
        if known is None or place >= len(self._kept[known]):
            raise InputError(
                "`model` must be computed again by torch.utils.checkpoint, or not at all, while it runs on a schedule: "
                "it is called during the backward pass, and which blocks it drew there is not known."
            )
        self._places[known] = (backward, place + 1)
        running = self._kept[known][place]
        for region in regions[: regions.index(known)]:  # a region within one, which is made anew
            self._kept.setdefault(region, []).append(running)
        return running


def _regions() -> Iterator[Any]:
    """What PyTorch keeps of each checkpointed function that is under way, the innermost first: the same object in the
    first forward and when it is computed again."""
    frame = sys._getframe()
    while (frame := frame.f_back) is not None:  # type: ignore[assignment]
        if frame.f_globals is not vars(checkpoint):
            continue
        held = frame.f_locals
        if held.get("gen") is not None:  # in the first forward a generator, which is no caller, holds the region
            held = held["gen"].gi_frame.f_locals
        for name in ("ctx", "new_frame", "frame"):
            if isinstance(held.get(name), (torch.autograd.function.FunctionCtx, checkpoint._CheckpointFrame)):
                yield held[name]
