"""A lesioned network as an ordinary module of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resect.errors import ExportError, InputError
from resect.graph.calls import as_call
from resect.graph.decisions import Decision, block_run
from resect.graph.emit import emit
from resect.graph.program import Ref, own_errors
from resect.graph.resolve import Programs
from resect.network.arrangement import Arrangement
from resect.network.form import Form
from resect.network.replicas import replica, with_layers
from resect.words import plural


class Standalone(nn.Module):
    """A network under one arrangement, with copies of only those parameters that the arrangement uses.

    Parameters, buffers and submodules keep the names they have in the original model; linear layers, convolutions,
    embeddings and layer norms are modules that run, others only hold their tensors. Starts in eval mode. `train()`
    needs the network's train graph, which is exported when it is first called, or when this is pickled, and once for
    all stand-alone networks of one network; where that is impossible, `train()` says why. Until then this keeps the
    network that it was made from alive.

    Attributes:
        arrangement: what runs in each slot.
    """

    def __init__(
        self, programs: Programs, arrangement: Arrangement, train_programs: Callable[[], Programs], form: Form
    ) -> None:
        super().__init__()
        self.arrangement = arrangement
        self._form = form
        self._original = type(programs.sliced.captured.model).__name__
        self._eval_code = _Code(programs, arrangement)
        self._training = _Training(programs, arrangement, train_programs, self._eval_code.layers)
        self._train_code: _Code | None = None
        model, layers = programs.sliced.captured.model, self._eval_code.layers
        copies: dict[int, nn.Parameter] = {}
        with torch.inference_mode(False):  # so that it can be trained on
            _copy_tensors(model, self, self._eval_code, layers, copies)
            if _has_more(model, programs) or not _read_in_training(programs, arrangement) <= _names(self):
                with suppress(InputError):  # optimisers must find auxiliary heads from the start
                    self._train_code = self._training.code()
                    _copy_tensors(model, self, self._train_code, layers, copies)
        norms = {path: part for path, part in self.named_modules() if isinstance(part, _BatchNorm)}
        self._momenta = {path: norm.momentum for path, norm in norms.items() if norm.momentum}
        super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network on inputs as the example of `unravel` had them."""
        code = self._train_code if self.training and self._train_code else self._eval_code
        tensors = {name: attrgetter(name)(self) for name in code.names}
        leaves = self._form.leaves((args, kwargs))
        # Autograd keeps the old values of buffers for the backward pass, so it gets copies of those that change.
        arguments = [tensors[name].clone() if name in code.updates else tensors[name] for name in code.names]
        given = [*map(self.get_submodule, code.layers), *arguments, *leaves]
        if torch.compiler.is_compiling() or torch._C._get_tracing_state():
            results = code.function(*given)
        else:
            code.rules.check(leaves, dtypes=False)
            with own_errors(lambda: [len(part.weight) for part in self.modules() if isinstance(part, nn.Embedding)]):
                results = code.function(*given)
        outputs = len(results) - len(code.updates)
        with torch.no_grad():
            for name, value in zip(code.updates, results[outputs:], strict=True):
                tensors[name].copy_(value)
            self._follow_momentum(code, arguments)
        return pytree.tree_unflatten(results[:outputs], code.out_spec)

    def _follow_momentum(self, code: _Code, arguments: Sequence[Any]) -> None:
        """Average batch statistics as the batch norms say now (`update_bn` changes it), not as the graph does."""
        before = dict(zip(code.names, arguments, strict=True))
        for path, captured in self._momenta.items():
            norm = self.get_submodule(path)
            assert isinstance(norm, _BatchNorm)
            if norm.momentum == captured:
                continue
            factor = 1 / int(norm.num_batches_tracked or 1) if norm.momentum is None else norm.momentum
            for name in (f"{path}.running_mean", f"{path}.running_var"):
                if name in code.updates:
                    self.get_buffer(name).lerp_(before[name], 1 - factor / captured)

    def train(self, mode: bool = True) -> Standalone:
        """Switch to train (or eval) mode; ExportError if the network cannot be exported in train mode."""
        if mode and self._train_code is None:
            try:
                code = self._training.code()
            except InputError as error:
                raise ExportError(f"this network runs in eval mode only: {error}") from None
            like = next((p for p in self.parameters() if p.is_floating_point()), None)
            for name, value in code.constants.items():
                dtype = like.dtype if like is not None and value.is_floating_point() else value.dtype
                moved = value.clone() if like is None else value.to(like.device, dtype, copy=True)
                self.register_buffer(name, moved, persistent=False)
            self._train_code = code
        super().train(mode)
        return self

    def extra_repr(self) -> str:
        """What it is, and what was done to it: "ResNet without 2 of 16 blocks: layer1.1, layer3.0"."""
        gone = [
            name for name, decision in zip(self.arrangement.names, self.arrangement, strict=True) if decision is None
        ]
        others = [i for i, decision in enumerate(self.arrangement) if decision not in (None, i)]
        told = f" as {self.arrangement}" if others else ""
        blocks = f"{len(gone)} of {plural(len(self.arrangement), 'block')}"
        return f"{self._original}{told}" + (f" without {blocks}: {', '.join(gone)}" if gone else "")


class _Training:
    """The code of an arrangement in train mode, made when it is first asked for. Copies share it."""

    def __init__(
        self,
        programs: Programs,
        arrangement: Sequence[Decision],
        make: Callable[[], Programs],
        layers: Collection[str],
    ) -> None:
        self._made: _Code | str | None = None
        self._parts: Any = (programs, arrangement, make, layers)

    def code(self) -> _Code:
        """The code; ExportError where there is none."""
        if self._made is None:
            try:
                self._made = _train_code(*self._parts)
            except InputError as error:
                self._made = str(error)
            self._parts = None
        if isinstance(self._made, str):
            raise ExportError(self._made)
        return self._made

    def __deepcopy__(self, memo: Any) -> _Training:
        return self

    def __getstate__(self) -> dict[str, Any]:
        with suppress(InputError):
            self.code()
        return self.__dict__


def _train_code(
    programs: Programs, arrangement: Sequence[Decision], make: Callable[[], Programs], layers: Collection[str]
) -> _Code:
    trained = make()
    names, others = ([slot.name for slot in p.sliced.slots] for p in (programs, trained))
    if names != others:
        raise ExportError(f"in train mode it has other blocks, {len(others)} instead of {len(names)}.")
    return _Code(trained, arrangement, layers)


def _has_more(model: nn.Module, programs: Programs) -> bool:
    """Whether a model has parameters or buffers that its eval graph does not use, beside the counts of batch norms."""
    used = {id(attrgetter(name)(model)) for name in programs.sliced.captured.parameters.values()}
    norms = [part.num_batches_tracked for part in model.modules() if isinstance(part, _BatchNorm)]
    used |= {id(count) for count in norms}
    return any(id(tensor) not in used for tensor in (*model.parameters(), *model.buffers()))


def _read_in_training(programs: Programs, arrangement: Sequence[Decision]) -> set[str]:
    """The parameters of blocks that run: within a deleted one, only training reads them, for batch statistics."""
    slots = programs.sliced.slots
    running = {block_run(i, decision) for i, decision in enumerate(arrangement)}
    return {name for i in running if i is not None for name in slots[i].block.parameters}


def _names(module: nn.Module) -> set[str]:
    tensors = chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    return {name for name, _ in tensors}


class _Code:
    """The programs of one arrangement, joined into one function. Not a module: it owns no parameters.

    Args:
        only: paths of the submodules that may run; any by default.

    Attributes:
        layers: paths of the submodules that `function` takes first.
        names: of the parameters, buffers and constants that it takes then, before the inputs.
        updates: names of the buffers whose new values `function` returns last, after the outputs.
    """

    def __init__(
        self, programs: Programs, arrangement: Sequence[Decision], only: Collection[str] | None = None
    ) -> None:
        captured = programs.sliced.captured
        key = programs.keys.of
        steps = programs.fold(arrangement)
        folded, layers = with_layers(steps, captured.model, programs.parameter_keys, programs.keys.lowest - 1, only)
        live = programs.live_at_end(arrangement)
        changed = {name: key(value) for value, name in captured.mutations if key(value) in live}
        reads = {read for program in folded for step in program.steps for read in step.reads}
        reads |= {key(output) for output in captured.outputs if isinstance(output, fx.Node)}
        kept = {k: name for k, name in programs.parameter_keys.items() if k in reads or name in changed}
        constants = {key(node): value for node, value in captured.constants.items() if key(node) in reads}
        self.constants = {f"_constant_{captured.mode}_{k}": value for k, value in constants.items()}
        self.layers = tuple(layers.values())
        self.parameters = tuple(kept.values())
        self.names = (*self.parameters, *self.constants)
        self.updates = tuple(changed)
        self.out_spec, self.rules = captured.out_spec, captured.rules
        inputs = [key(entry.node) if entry else None for entry in captured.inputs]
        results = [Ref(key(o)) if isinstance(o, fx.Node) else o for o in captured.outputs]
        self.function = emit(folded, [*layers, *kept, *constants, *inputs], [*results, *map(Ref, changed.values())])


def bound(programs: Programs, arrangement: Sequence[Decision], form: Form, inputs: Any) -> Callable[[], Any]:
    """A call on these inputs as the stand-alone network of an arrangement runs, on the model's own parameters."""
    code, model = _Code(programs, arrangement), programs.sliced.captured.model
    tensors = [code.constants[name] if name in code.constants else attrgetter(name)(model) for name in code.names]
    return partial(code.function, *map(model.get_submodule, code.layers), *tensors, *form.leaves(as_call(inputs)))


def _copy_tensors(
    model: nn.Module, target: nn.Module, code: _Code, layers: Collection[str], copies: dict[int, nn.Parameter]
) -> None:
    """Copy what `code` uses of `model` into `target`, under the original dotted names.

    Args:
        layers: paths of the submodules that run.
        copies: of parameters that were copied before, by the identity of the original: tied ones stay tied.
    """
    persistent = set(model.state_dict())
    inside = {f"{path}.{name}" for path in code.layers for name, _ in attrgetter(path)(model).named_parameters()}
    named = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    for name in [name for name, _ in named if name in inside or name in code.parameters]:
        path, _, leaf = name.rpartition(".")
        home, old = _home(target, path, model, layers), attrgetter(name)(model)
        if home._parameters.get(leaf) is not None or home._buffers.get(leaf) is not None:
            continue
        owner = model.get_submodule(path)
        if isinstance(owner, _BatchNorm) and owner.num_batches_tracked is not None:  # of which only training reads it
            home.register_buffer("num_batches_tracked", owner.num_batches_tracked.clone())
        if isinstance(old, nn.Parameter):
            if id(old) not in copies:
                copies[id(old)] = nn.Parameter(old.detach().clone(), requires_grad=old.requires_grad)
            home.register_parameter(leaf, copies[id(old)])
        else:
            home.register_buffer(leaf, old.detach().clone(), persistent=name in persistent)
    for name, value in code.constants.items():
        target.register_buffer(name, value.clone(), persistent=False)


def _home(root: nn.Module, path: str, model: nn.Module, layers: Collection[str]) -> nn.Module:
    """The submodule of `root` at a path, made if it is not there."""
    passed = ""
    for part in path.split(".") if path else []:
        model, passed = getattr(model, part), f"{passed}.{part}".removeprefix(".")
        if part not in root._modules:
            root.add_module(part, replica(model, runs=passed in layers))
        root = root.get_submodule(part)
    return root
