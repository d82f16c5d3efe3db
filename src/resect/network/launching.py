"""Networks in training that few launches tell a GPU to run: as CUDA graphs, whole or slice by slice."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from resect.errors import InputError
from resect.graph.program import Environment
from resect.network.arrangement import Arrangement
from resect.network.graphed import Graphed, fastest_kernels, kept, recorded, with_own_casts

if TYPE_CHECKING:
    from resect.network.unraveled import Unraveled


def as_graphs(module: nn.Module, example: Tensor) -> nn.Module:
    """Both passes of a module in train mode, for inputs of the shape of the example, as one CUDA graph each.

    For networks whose blocks all run; slices would only take further launches.
    The next call overwrites outputs and gradients. Parameters and buffers must stay where they are in memory; when this
    returns, buffers are as they were.

    Raises:
        InputError: there is no graph of it, as it waits for the GPU or takes what is no tensor.
    """
    whole = _Whole(module).train()
    with (
        torch.cuda.device(example.device),
        with_own_casts(),
        kept([*module.buffers()]),
        fastest_kernels(),
        recorded(type(module).__name__),
    ):
        # of its own memory, which every call overwrites
        graphed = torch.cuda.make_graphed_callables(whole, (example.clone(),), allow_unused_input=True)
    assert isinstance(graphed, nn.Module), "as one module was given"
    return graphed


class _Whole(nn.Module):
    """A module with a forward of its own to be replaced."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> Any:
        return self.module(inputs)


class SlicesAsGraphs:
    """A network in train mode, called as it is, whose slices run as CUDA graphs.

    Graphs hold where parameters and buffers lie and which of them are trained. Where that has changed since the last
    call, they are made anew.

    Raises:
        InputError: several processes train, or parameters have hooks, neither of which would see the gradients.
    """

    def __init__(self, net: Unraveled) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            processes = torch.distributed.get_world_size()
            if processes > 1:
                raise InputError(
                    f"`graphs` must be off where several processes train, here {processes}: they would not see each "
                    "other's gradients."
                )
        self._net = net
        self._parts = [*net.model.modules()]
        self._graphed: Graphed | None = None
        self._base: Environment = {}
        self._held: tuple[Any, ...] = ()

    def __call__(self, inputs: Any, arrangement: Arrangement) -> Any:
        """What the network returns."""
        held = tuple((id(value), value.data_ptr(), value.requires_grad) for value in self._tensors())
        if self._graphed is None or held != self._held:
            self._require_no_hooks()
            self._graphed, self._base, self._held = _slices(self._net), self._net.bind(inputs), held
        base = {**self._base, **self._net.bound_inputs(inputs)}
        state = self._net.run_by(partial(self._graphed.run, base), base, arrangement)
        # the next call overwrites what graphs hold
        return pytree.tree_map_only(Tensor, torch.clone, self._net.outputs(base, state))

    def _tensors(self) -> list[Tensor]:
        groups = (group for part in self._parts for group in (part._parameters, part._buffers))
        return [value for group in groups for value in group.values() if value is not None]

    def _require_no_hooks(self) -> None:
        for name, parameter in self._net.model.named_parameters():
            if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
                raise InputError(
                    f"`graphs` must be off where parameters have hooks, which would not be called, but `{name}` has. "
                    "Remove them, or schedule without graphs."
                )


def _slices(net: Unraveled) -> Graphed:
    """What runs the slices of a network. What a slice without a slot updates depends on what others run, and what
    something else reads is handed on: both are written by the caller."""
    programs, slots_of = net.programs, net.sliced.slots_of
    place, nodes, key_of = programs.slice_of, programs.keys.nodes, programs.keys.of
    outputs = {*net.sliced.captured.outputs}
    own = {
        new
        for new in net.updates
        if slots_of[place[new]]
        and nodes[new] not in outputs
        and all(place.get(key_of(user)) == place[new] for user in nodes[new].users if user.op != "output")
    }
    return Graphed(programs.input_keys, net.updates, own)
