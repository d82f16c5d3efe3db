"""A model whose blocks come and go from one training step to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from resect.errors import InputError
from resect.graph.slices import Sliced
from resect.graph.tails import tail_parameters
from resect.network.arrangement import Arrangement
from resect.network.schedules import Schedule
from resect.seeds import generator_for

_ADDED = ("identity", "scaled", "projection")  # kinds of blocks whose branch is added to the skip as it is


class Scheduled:
    """While it is open, the model's own forward runs only the blocks that a schedule draws. Made by `net.schedule`.

    In train mode, every call of the model draws anew, and deleted branches are not computed, forward or backward: the
    gradients of their parameters are None, and their batch statistics stay as they are. In eval mode the whole
    network runs, every branch scaled by the part of the steps in which it ran (`correction`); `net` itself is not
    scaled.

    The graph that runs in train mode was captured on the example: inputs differ from it in their batch size only, and
    what forward hooks of submodules compute is part of it, while what they record is recorded once. The model can be
    copied or pickled before this is opened and after it is closed (for `AveragedModel`: before), its weights always.

    Attributes:
        step: calls in train mode so far; set it to go on where an earlier training stopped.
        running: the blocks of the last of them.
        survival: by which each branch is scaled in eval mode.
    """

    def __init__(
        self,
        sliced: Sliced,
        train_graph: Callable[[], Callable[[Any, Arrangement], Any]],
        schedule: Schedule,
        *,
        seed: int,
        correction: bool,
    ) -> None:
        self._model = model = sliced.captured.model
        if model._forward_hooks or model._forward_pre_hooks:
            raise InputError(
                f"`model` must have no forward hooks of its own to run on a schedule, but {type(model).__name__} "
                "has: its graph holds them already, and they would run twice. Remove them."
            )
        if not isinstance(schedule, Schedule):
            raise InputError(f"`schedule` must be one of resect.schedules, such as FixedCount(23), got {schedule!r}.")
        blocks = len(sliced.slots)
        if not blocks:
            raise InputError(
                f"`model` must have blocks to run on a schedule, but {type(model).__name__} has none. Train it in full."
            )
        schedule.running(blocks, 0, generator_for(seed, "blocks", 0))  # says if it does not fit the network
        self._sliced = sliced
        self._intact = Arrangement(range(blocks))
        self._graph = train_graph()  # exported now, while the model still has its own forward
        self.step = 0
        self.running: tuple[int, ...] = ()
        self._schedule = schedule
        self._seed = seed
        self.survival = schedule.survival(blocks) if correction else (1.0,) * blocks
        self._scaled = self._tails()
        self._before: Any = None

    def _tails(self) -> dict[str, float]:
        """The factor of every parameter that eval mode scales."""
        factors: dict[str, float] = {}
        for slot, factor in zip(self._sliced.slots, self.survival, strict=True):
            if factor == 1.0:
                continue
            kind = slot.join.kind
            names = tail_parameters(self._sliced, slot) if kind in _ADDED else ()
            if not names:
                raise InputError(
                    f"`correction` must be off for this network: block {slot.index} ({slot.name}, {kind}) adds no "
                    "branch that ends in weights of its own, which could be scaled by the part of the steps in which "
                    "it runs. Pass correction=False, or --no-correction."
                )
            for name in names:
                factors[name] = factors.get(name, 1.0) * factor
        return factors

    def fold(self) -> None:
        """Multiply the weights at the branches' ends by `survival`, for good, after the training: the model alone then
        computes what it computes here in eval mode. A second call changes nothing."""
        parameters = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, factor in self._scaled.items():
                parameters[name].mul_(factor)
        self._scaled = {}

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise InputError(
            "`model` must be copied or pickled before its schedule is opened or after it is closed; meanwhile, save "
            "model.state_dict()."
        )

    def __enter__(self) -> Scheduled:
        if isinstance(getattr(self._model.forward, "__self__", None), Scheduled):
            raise InputError("`model` must run on one schedule at a time; leave the other one first.")
        self._before = self._model.__dict__.get("forward")
        self._model.forward = self._forward
        return self

    def __exit__(self, *error: object) -> None:
        _set_forward(self._model, self._before)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        model = self._model
        if not model.training:
            _set_forward(model, self._before)
            try:
                parameters: dict[str, Tensor] = dict(model.named_parameters())
                scaled = {name: parameters[name] * factor for name, factor in self._scaled.items()}
                return torch.func.functional_call(model, scaled, args, kwargs)
            finally:
                model.forward = self._forward
        frozen = next((name for name, part in model.named_modules() if not part.training), None)
        if frozen is not None:
            raise InputError(
                f"`model` must be in train mode as a whole to run on a schedule, but `{frozen}` is in eval mode. Call "
                "model.train(), or give that part no batch norm and no dropout."
            )
        if args and kwargs:
            raise InputError("`inputs` must be all positional or all named, as the example of `unravel` was.")
        blocks = len(self._intact)
        drawn = self._schedule.running(blocks, self.step, generator_for(self._seed, "blocks", self.step))
        self.step += 1
        self.running = tuple(sorted(drawn))
        arrangement = self._intact.without(*(i for i in range(blocks) if i not in drawn))
        return self._graph(kwargs or args, arrangement)


def _set_forward(model: nn.Module, forward: Any) -> None:
    """Give a model the forward of its own that it had before it was replaced, or that of its class."""
    if forward is None:
        model.__dict__.pop("forward", None)
    else:
        model.forward = forward
