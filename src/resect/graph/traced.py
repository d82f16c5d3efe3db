"""The second tracer: one forward pass recorded with real tensors, for models that torch.export does not accept.

It records the operators that the pass on the example executes: all shapes are frozen, and what Python computes of
weights and constants. A Python value or a shape that depends on the values of the inputs is refused where it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.fx.traceback import preserve_node_meta
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from resect.graph.calls import Call
from resect.graph.differences import largest_difference

_READ_BY_PYTHON = frozenset(
    "item tolist numpy __array__ __bool__ __int__ __float__ __complex__ __index__ __contains__ __dlpack__ equal "
    "allclose is_nonzero".split()
)
_MASKS = (torch.bool, torch.uint8)
_OF_VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class DependsError(RuntimeError):
    """What one forward pass executes depends on the values of its inputs."""


class Recorded(nn.Module):
    """The operators that `model` executed on one batch, over its own parameters and buffers.

    Args:
        whole: gives out tensors and plain values of its one child `model`.
        call: positional and keyword arguments; the recording holds for their shapes.
        draws: refuse Python values of random numbers, too: in training, where no one compares two runs.

    Raises:
        DependsError: a Python value or a shape depends on the values of the inputs; raised where that is.
    """

    model: nn.Module
    as_run = True

    def __init__(self, whole: nn.Module, call: Call, *, draws: bool) -> None:
        super().__init__()
        self.model = whole.get_submodule("model")
        with torch.no_grad(), _Dependence(call, draws) as dependence, _PythonReads(dependence):
            whole(*call[0], **call[1])
        leaves, structure = pytree.tree_flatten(call)
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

        def run(tensors: dict[str, Tensor], given: list[Tensor]) -> list[Any]:
            filled = list(leaves)
            for place, tensor in zip(places, given, strict=True):
                filled[place] = tensor
            args, kwargs = pytree.tree_unflatten(filled, structure)
            with _named_nodes(whole):
                flat, self._structure = pytree.tree_flatten(functional_call(whole, tensors, args, kwargs))
            return flat

        record = make_fx(run, tracing_mode="real", pre_dispatch=True, _error_on_data_dependent_ops=False)
        graph: GraphModule = record(self._tensors(), [leaves[place] for place in places])
        for node in reversed(graph.graph.nodes):  # Python has the values
            if not node.users and torch.Tag.data_dependent_output in getattr(node.target, "tags", ()):
                graph.graph.erase_node(node)
        self._interpreter = Interpreter(graph)  # no child: its constants are no buffers of the model

    def _tensors(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters("model")) | dict(self.model.named_buffers("model"))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model computes on inputs of the example's shapes."""
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        with preserve_node_meta():
            flat = self._interpreter.run(*self._tensors().values(), *given)
        return pytree.tree_unflatten(flat, self._structure)


def require_same(recorded: Recorded, whole: nn.Module, call: Call) -> None:
    """DependsError unless a recording computes what it was made of, on its example and on another batch.

    The other batch has the example's values in another order.
    """
    with torch.no_grad():
        for order in (torch.arange, torch.randperm):
            (args, kwargs), (own_args, own_kwargs) = (_ordered(call, order) for _ in range(2))  # it may write into them
            if largest_difference(whole(*args, **kwargs), recorded(*own_args, **own_kwargs)):
                raise DependsError("what one forward pass executes is not what it computes on another batch")


def _ordered(call: Call, order: Callable[..., Tensor]) -> Call:
    """A copy of a call with the values of its tensors in another order, the same each time."""

    def ordered(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        torch.default_generator.manual_seed(0)  # and no other
        return leaf.flatten()[order(leaf.numel(), device="cpu").to(leaf.device)].view(leaf.shape)

    return pytree.tree_map(ordered, call)  # type: ignore[no-any-return]  # tree_map keeps the structure it is given


class _Dependence(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no annotation
    """Refuses Python values and shapes that are made of the values of the inputs, or (`draws`) of random numbers."""

    def __init__(self, call: Call, draws: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no annotation
        self._draws, self.on_what = draws, "the inputs or is drawn (LayerDrop)" if draws else "the inputs"
        self._held: dict[int, Tensor] = {}
        for leaf in pytree.tree_leaves(call):
            self._mark(leaf)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        depends = any(map(self.on, pytree.tree_leaves((args, kwargs))))
        depends |= self._draws and torch.Tag.nondeterministic_seeded in func.tags
        name = func.overloadpacket.__name__
        if depends and not _OF_VALUES.isdisjoint(func.tags) and any(map(self.on, _deciding(name, args))):
            raise DependsError(f"{name} of a value that depends on {self.on_what}")
        result = func(*args, **(kwargs or {}))
        if depends:
            for leaf in pytree.tree_leaves(result):
                self._mark(leaf)
        return result

    def _mark(self, leaf: Any) -> None:
        """By storage, so that views and what is written in place depend, too; held, so that no address comes again."""
        if isinstance(leaf, Tensor) and leaf.layout is torch.strided:
            self._held.setdefault(leaf.untyped_storage()._cdata, leaf)

    def on(self, leaf: Any) -> bool:
        """Whether a leaf depends on the inputs."""
        is_dense = isinstance(leaf, Tensor) and leaf.layout is torch.strided
        return is_dense and leaf.untyped_storage()._cdata in self._held


def _deciding(name: str, args: Any) -> list[Any]:
    """What decides on the Python value or the shape that an operator gives."""
    if name in ("index", "masked_select"):  # numbers as indices give their own shape
        return [leaf for leaf in pytree.tree_leaves(args[1:]) if getattr(leaf, "dtype", None) in _MASKS]
    return pytree.tree_leaves(args)


class _PythonReads(TorchFunctionMode):
    """Refuses what Python reads of a tensor without an operator, as `numpy()`."""

    def __init__(self, dependence: _Dependence) -> None:
        super().__init__()
        self._dependence = dependence

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READ_BY_PYTHON and any(map(self._dependence.on, args)):
            raise DependsError(f"{name} of a value that depends on {self._dependence.on_what}")
        return func(*args, **(kwargs or {}))


@contextmanager
def _named_nodes(whole: nn.Module) -> Iterator[None]:
    """Note at every node that is recorded the module whose forward() runs."""
    mode = get_proxy_mode()
    assert mode is not None
    graph, done = mode.tracer.graph, 0
    stack: list[tuple[str, type]] = []

    def note() -> None:
        nonlocal done
        nodes: list[Node] = list(graph.nodes)[done:]
        done += len(nodes)
        for node in nodes:
            node.meta["nn_module_stack"] = {name: (name, kind) for name, kind in stack}

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            note()
            stack.append((name, type(module)))

        return hook

    def leave(module: nn.Module, args: Any, outputs: Any) -> None:
        note()
        stack.pop()

    hooks = [part.register_forward_pre_hook(enter(name)) for name, part in whole.named_modules() if name]
    hooks += [part.register_forward_hook(leave) for name, part in whole.named_modules() if name]
    try:
        yield
    finally:
        note()
        for hook in hooks:
            hook.remove()
