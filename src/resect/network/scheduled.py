"""A model whose blocks come and go from one training step to the next."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from resect.errors import InputError, require_whole
from resect.network.arrangement import Arrangement
from resect.network.calls import Calls
from resect.network.correction import Correction
from resect.network.drawn import draw, survival_of
from resect.network.launching import SlicesAsGraphs
from resect.network.recomputed import Replays, Running
from resect.network.schedules import Schedule

if TYPE_CHECKING:
    from resect.network.unraveled import Unraveled


class Scheduled:
    """While it is open, the model's own forward runs only the blocks that a schedule draws. Made by `net.schedule`.

    In train mode, every call of the model draws anew, and deleted branches are not computed, forward or backward: the
    gradients of their parameters are None, and their batch statistics stay as they are. What `torch.utils.checkpoint`
    computes again runs the blocks of the first time. In eval mode the whole network runs, every branch scaled by the
    part of the steps in which it ran (`correction`); `net` itself is not scaled.

    The graph that runs in train mode was captured on the example: inputs differ from it in free sizes only, and
    what forward hooks of submodules compute is part of it, while what they record is recorded once. `torch.compile`
    leaves it as it is, as it changes from call to call. Only calls of the model itself run on the schedule: those of
    its blocks, by a method such as `forward_features`, are refused. The model can be copied or pickled before this is
    opened and after it is closed (for `AveragedModel`: before; see `fold`), its weights always.

    Attributes:
        step: calls in train mode so far; set it to go on where an earlier training stopped.
        running: the blocks of the last of them.
        survival: by which each branch is scaled in eval mode.
    """

    def __init__(
        self, net: Unraveled, schedule: Schedule, *, seed: int, correction: bool, graphs: bool = False
    ) -> None:
        self._model = model = net.model
        if model._forward_hooks or model._forward_pre_hooks:
            raise InputError(
                f"`model` must have no forward hooks of its own to run on a schedule, but {type(model).__name__} "
                "has: its graph holds them already, and they would run twice. Remove them."
            )
        if not isinstance(schedule, Schedule):
            raise InputError(f"`schedule` must be one of resect.schedules, such as FixedCount(23), got {schedule!r}.")
        require_whole("seed", seed, 0)
        blocks = len(net.blocks)
        if not blocks:
            raise InputError(
                f"`model` must have blocks to run on a schedule, but {type(model).__name__} has none. Train it in full."
            )
        self._net, self._schedule, self._seed = net, schedule, seed
        self.step = 0
        self.running: Running = ()
        draw(schedule, net.blocks, 0, seed)  # says if it does not fit the network
        self._graph = net.train_graph  # exported now, while the model still has its own forward
        self._graph.require_own_gradient()
        self._graphs = graphs and self._graph.device.type == "cuda"
        self._run_graph: Callable[[Any, Arrangement], Any] = self._graph
        self.survival = survival_of(schedule, blocks) if correction else (1.0,) * blocks
        self._correction = Correction(net.sliced, self.survival)
        self._replays = Replays()
        self._open = self._inside = False
        self._before: Any = None
        self._guards: list[Any] = []
        self._parts: list[nn.Module] = []

    def fold(self, model: nn.Module | None = None) -> nn.Module:
        """Multiply the weights at the branches' ends by `survival`, for good, after the training: the model alone then
        computes what it computes here in eval mode. A second call changes nothing.

        Args:
            model: a copy of the model to fold in its place, such as the averaged weights of an `AveragedModel`, which
                are at its `module`; to test these while they are still averaged, fold a copy of them.

        Returns:
            The model that was folded.

        Raises:
            InputError: `model` has other parameters.
        """
        if model is not None and not isinstance(model, nn.Module):
            raise InputError(f"`model` must be a copy of the model on the schedule, got {type(model).__name__}.")
        if model is None or model is self._model:
            self._correction.fold()
            return self._model
        self._correction.fold_copy(model)
        return model

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._open:
            raise _copied()
        return super().__reduce_ex__(protocol)

    def __enter__(self) -> Scheduled:
        model = self._model
        other = getattr(inspect.unwrap(model.forward), "scheduled", None)
        if other is not None and other._open:
            raise InputError("`model` must run on one schedule at a time; leave the other one first.")
        if other is not self:  # it may have been left in a wrapper of another library
            self._before = model.__dict__.get("forward")
            calls = Calls(model, self._net._example)
            model.forward = MethodType(self._replacement(calls), model)
        self._parts = [*model.modules()]
        if self._graphs:
            self._run_graph = SlicesAsGraphs(self._graph)
        self._guards = [owner.register_forward_pre_hook(self._guard) for owner in self._owners()]
        self._open = True
        return self

    def __exit__(self, *error: object) -> None:
        self._open, self._run_graph = False, self._graph
        while self._guards:
            self._guards.pop().remove()
        function = getattr(self._model.forward, "__func__", None)
        if getattr(function, "scheduled", None) is not self or hasattr(function, "__wrapped__"):
            return  # something wraps it that is to stay, as Accelerate does; it passes calls on from now on
        if self._before is None:
            del self._model.forward
        else:
            self._model.forward = self._before

    def _replacement(self, calls: Calls) -> Callable[..., Any]:
        """The function in the place of the model's forward. It is a method of the model, as other libraries wrap it."""
        untraced: Any = torch.compiler.disable  # has no annotations
        run = untraced(self._run, reason="a schedule runs another graph in every call")

        def forward(model: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            if not self._open:
                return self._own(model)(*args, **kwargs)
            if model is not self._model:
                raise _copied()
            return run(calls, args, kwargs)

        forward.scheduled = self  # type: ignore[attr-defined]
        forward.__signature__ = calls.signature  # type: ignore[attr-defined]
        return forward

    def _own(self, model: nn.Module) -> Callable[..., Any]:
        """The forward that the model, or a copy of it, had before this was opened."""
        if self._before is None:
            return MethodType(type(model).forward, model)
        function = getattr(self._before, "__func__", None)
        return MethodType(function, model) if function else self._before

    def _owners(self) -> set[nn.Module]:
        """The submodules with parameters of branches, which nobody but the model's own forward may call."""
        names = {name for slot in self._net.sliced.slots for name in slot.block.parameters}
        owners = {name.partition(".parametrizations.")[0].rpartition(".")[0] for name in names}
        return {self._model.get_submodule(owner) for owner in owners if owner}

    def _guard(self, module: nn.Module, args: Any) -> None:
        if self._inside or not (module.training or (self._correction.factors and self._within_model())):
            return
        name = next((name for name, part in self._model.named_modules() if part is module), type(module).__name__)
        raise InputError(
            f"`model` must be called itself while it runs on a schedule, but something else calls its `{name}`, a part "
            "of a block, as `forward_features` of timm does: the schedule would not count. Call the model, or unravel "
            "a module whose forward() is that call."
        )

    def _within_model(self) -> bool:
        """Whether a method of the model is running; a block called alone in eval mode is meant as it was trained."""
        frame = sys._getframe()
        while frame is not None and frame.f_locals.get("self") is not self._model:
            frame = frame.f_back  # type: ignore[assignment]
        return frame is not None

    def _run(self, calls: Calls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._model.training:
            return self._eval(args, kwargs)
        if not all(part.training for part in self._parts):
            frozen = next(name for name, part in self._model.named_modules() if not part.training)
            raise InputError(
                f"`model` must be in train mode as a whole to run on a schedule, but `{frozen}` is in eval mode. Call "
                "model.train(), or give that part no batch norm and no dropout."
            )
        inputs = calls.as_example(args, kwargs)
        again = self._replays.again()
        blocks = self._net.blocks
        running = draw(self._schedule, blocks, self.step, self._seed) if again is None else again
        outputs = self._run_graph(inputs, self._net.intact.without(set(range(len(blocks))) - set(running)))
        if again is None:
            self._replays.keep(running)
            self.running = running
            self.step += 1
        return outputs

    def _eval(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The whole network, its branches scaled."""
        holder = _Holder(self._model, self._own(self._model))
        parameters: dict[str, Tensor] = dict(self._model.named_parameters())
        scaled = {f"model.{name}": parameters[name] * by for name, by in self._correction.factors.items()}
        self._inside = True
        try:
            return torch.func.functional_call(holder, scaled, args, kwargs)
        finally:
            self._inside = False


class _Holder(nn.Module):
    """Calls the forward that a model had, with other parameters and without its hooks, which have run."""

    def __init__(self, model: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.call = model, forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)


def _copied() -> InputError:
    return InputError(
        "`model` must be copied or pickled before its schedule is opened or after it is closed; meanwhile, save "
        "model.state_dict()."
    )
