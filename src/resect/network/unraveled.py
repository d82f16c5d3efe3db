"""The one object that everything else takes: a network taken apart into blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from html import escape
from itertools import chain
from time import perf_counter
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.fx import Node

from resect.digest import fingerprint, tensors_digest
from resect.errors import InputError
from resect.graph.calls import as_call, outputs_of
from resect.graph.capture import capture
from resect.graph.copies import ungated
from resect.graph.decisions import Decision, Variant
from resect.graph.differences import largest_difference
from resect.graph.exporting import How, without_fused_attention
from resect.graph.outputs import by_sample
from resect.graph.program import Environment, Run
from resect.graph.resolve import Programs
from resect.graph.routes import Routes, Start
from resect.graph.slices import Sliced, cut
from resect.graph.untouched import Mode, untouched
from resect.network.arrangement import Arrangement
from resect.network.blocks import Block, BlockLike, Blocks
from resect.network.check import Check
from resect.network.fitting import validate
from resect.network.form import Form
from resect.network.gradients import require_own_gradient
from resect.network.rejections import Rejections
from resect.network.scheduled import Scheduled
from resect.network.schedules import Schedule
from resect.network.standalone import Standalone, bound
from resect.words import plural


class Unraveled:
    """A network as a fold over slices. Made by `unravel`; it shares the model's parameters and never changes them.

    Attributes:
        model: the model that was unravelled.
        plain: whether the blocks are the layers of a network taken as a plain one.
        rejected: the additions (layers) that were considered and are no blocks, each with the reason.
        intact: the arrangement in which every slot runs its own branch.
        layers: the weight layers on the longest path's branches.
        slices: the number of slices that a run goes through: the prelude, one for each join, the tail.
        inputs: the tensors that the network expects: how the user names them, their shapes and dtypes.
        batch_size: the one batch size that the graph accepts, None if it accepts any.
        batch_dim: the dimension of inputs and outputs that counts the samples.
        recorded: whether the graph is a recording of one forward pass, as `torch.export` does not accept the model.
        capture_seconds: what it took to capture the model.
    """

    capture_seconds = 0.0

    def __init__(self, sliced: Sliced, example: Any, *, plain: bool) -> None:
        self.model = sliced.captured.model
        self._example = example
        self._how = sliced.captured.how
        self.plain = plain
        self._own_gradient = False
        self._eval_graph: Unraveled | None = None
        self.sliced = sliced
        self.programs = Programs(sliced)
        self.rejected = Rejections(sliced.rejected)
        self.intact = validate(range(len(sliced.slots)), sliced)
        self.layers = sum(slot.block.layers for slot in sliced.slots)
        self.slices = len(sliced.slices)
        self.inputs = tuple(entry for entry in sliced.captured.inputs if entry)
        self.batch_size, self.batch_dim = sliced.captured.batch_size, self._how.batch_dim
        self.recorded = sliced.captured.recorded
        self._form = Form(self.model, as_call(example))

    @cached_property
    def blocks(self) -> Blocks:
        """Every residual block in the order of execution (with `plain=True`, every layer that can be deleted)."""
        sizes = {name: p.numel() for name, p in self.model.named_parameters(remove_duplicate=False)}
        return Blocks(
            Block(
                index=slot.index,
                name=slot.name,
                kind=slot.join.kind,
                span=slot.place.span,
                layers=slot.block.layers,
                parameters=sum(sizes.get(name, 0) for name in slot.block.parameters),
                entry_shape=slot.block.entry_shape,
                branch_shape=slot.block.branch_shape,
                parent=slot.place.parent,
            )
            for slot in self.sliced.slots
        )

    @property
    def example(self) -> Any:
        """The batch of inputs that the network was unravelled with."""
        return self._example

    @property
    def device(self) -> torch.device:
        """The device of the model's first parameter or buffer."""
        tensor = next(iter(self.model.parameters()), next(iter(self.model.buffers()), None))
        return torch.device("cpu") if tensor is None else tensor.device

    @cached_property
    def train_graph(self) -> Unraveled:
        """The same network in train mode (batch statistics, dropout), exported when first asked for."""
        graph = self._captured("train")
        graph._eval_graph = self
        return graph

    def _captured(self, mode: Mode) -> Unraveled:
        """The same network, exported in another mode."""
        return unraveled(self.model, self._example, self.plain, mode, self._how)

    def as_plain(self) -> Unraveled:
        """The same network with its layers as blocks, as `unravel(..., plain=True)` gives it, without a new capture."""
        if self.plain:
            return self
        net = Unraveled(cut(ungated(self.sliced.captured), plain=True), self._example, plain=True)
        net.capture_seconds = self.capture_seconds
        return net

    def require_own_gradient(self) -> None:
        """Raise ExportError if the graph has another gradient than the model (custom backwards); looked at once.

        Where random numbers keep the train graph from being compared, the graph in eval mode stands for it.
        """
        if not self._own_gradient:
            compared = require_own_gradient(self, self._example)
            if not compared and self.sliced.captured.mode == "train":
                (self._eval_graph or self._captured("eval")).require_own_gradient()
            self._own_gradient = True

    def arrangement(self, decisions: Sequence[Decision] | str) -> Arrangement:
        """The arrangement of decisions, one a slot, or of the text of one, that this network can run.

        Raises:
            ArrangementError: it has another length, an unknown block, or a branch in a slot that it does not fit.
        """
        return validate(decisions, self.sliced)

    def allowing(self, variant: Variant) -> tuple[int, ...]:
        """The blocks that can run as `variant`."""
        refused = {slot.index: slot.refusals.of(variant) for slot in self.sliced.slots}
        return tuple(index for index, why in refused.items() if not why)

    def routes(self, start: Start | None = None, output: str | None = None) -> Routes:
        """The routes of the signal from `start`, the stem by default: its paths, their number and lengths.

        Args:
            output: to which they lead, as in `logits_of`.
        """
        return Routes(self.sliced, start, output)

    def parameter_nodes(self, name: str) -> tuple[Node, ...]:
        """The nodes that hold a parameter in the graph: several where it is tied, none where it is not used."""
        tensors = dict(self.model.named_parameters(remove_duplicate=False))
        pairs = self.sliced.captured.parameters.items()
        return tuple(node for node, other in pairs if tensors.get(other) is tensors[name])

    def schedule(
        self, schedule: Schedule, *, seed: int = 0, correction: bool = True, graphs: bool = False
    ) -> Scheduled:
        """A context in which the model, called as ever, trains on the blocks that `schedule` draws.

        The model itself, or what wraps it (`DistributedDataParallel` with `find_unused_parameters=True`), stays in
        the training loop as it is; processes that have the same seed run the same blocks.

        Args:
            schedule: of `resect.schedules`: `FixedCount(23)`, `StochasticDepth(0.5)`, `Progressive(8, steps)`.
            seed: of the draws; with the number of the step it decides them alone.
            correction: scale every branch in eval mode by the part of the steps in which it runs (Huang et al. 2016).
            graphs: on a GPU, run the slices of the network as CUDA graphs, for batches of one size, in one process (not
                under `DistributedDataParallel`, which would not see the gradients) and without hooks on parameters.

        Raises:
            InputError: `correction` is asked for and a branch ends in no weights of its own. When it is opened or
                called: `graphs` is on where several processes train, parameters have hooks, or a slice has no graph.
            ExportError: in train mode, `torch.export` cannot capture the model, or the graph has another gradient.

        Example:
            >>> with net.schedule(resect.schedules.FixedCount(23)):
            ...     for images, classes in loader:
            ...         loss = cross_entropy(model(images), classes)
        """
        return Scheduled(self, schedule, seed=seed, correction=correction, graphs=graphs)

    def __call__(self, inputs: Any = None, arrangement: Sequence[Decision] | str | None = None, /, **named: Any) -> Any:
        """Run the network under an arrangement; intact, bit-identical to `model(inputs)` in the captured mode.

        Args:
            inputs: a tensor, tuple or dict, or by name in its place (`net(input_ids=ids)`), of the example's inputs;
                any batch size, and any length and image size that the model takes.
            arrangement: for each slot a block or None, or the text of an arrangement; `net.intact` by default. Also by
                name, unless the model has an input of that name, or before inputs that are given by name.

        Returns:
            What the model returns, with None in the place of what is no tensor (a language model's cache).

        Raises:
            ArrangementError: the arrangement cannot run on this network.
            InputError: `inputs` do not fit the captured graph.
        """
        if isinstance(inputs, Arrangement) and arrangement is None:
            if not named:
                raise InputError("`inputs` must come before the arrangement: net(inputs, arrangement). There are none.")
            inputs, arrangement = None, inputs
        if arrangement is None and "arrangement" not in self._form.names:
            arrangement = named.pop("arrangement", None)
        chosen = self.intact if arrangement is None else self.arrangement(arrangement)
        if "inputs" in named and "inputs" not in self._form.names:
            inputs = named.pop("inputs")
        base = self.bind(self._form.joined(inputs, named) if named else inputs)
        own = {**base, **{key: base[key].clone() for key in self.updates.values()}}  # autograd keeps the old values
        return self.outputs(base, self.run_by(lambda program, state: program.run(own, state), base, chosen))

    def run_by(self, run: Run, base: Environment, arrangement: Arrangement) -> Environment:
        """The state after the last slice, when `run` executes the programs; updates buffers in `base` in train mode."""
        state, updated = Environment(), Environment()
        for program in self.programs.fold(arrangement, shared=True):
            state = run(program, state)
            updated |= {key: state[key] for key in state.keys() & self.updates.keys()}
        if updated:
            written = sorted(updated.keys() & self.programs.live_at_end(arrangement))
            with torch.no_grad():
                torch._foreach_copy_([base[self.updates[key]] for key in written], [updated[key] for key in written])
        return state

    def bind(self, inputs: Any) -> dict[int, Any]:
        """The values that every slice may read: parameters, constants and the given inputs, by key."""
        self._require_values()
        captured, key_of = self.sliced.captured, self.programs.keys.of
        tensors: dict[str, Tensor] = dict(self.model.named_parameters(remove_duplicate=False))
        tensors.update(self.model.named_buffers(remove_duplicate=False))
        gone = [name for name in captured.parameters.values() if name not in tensors]
        if gone:
            raise InputError(
                f"`model` must have the parameters and buffers that it was unravelled with, but `{gone[0]}` is gone. "
                "Unravel it again."
            )
        base: dict[int, Any] = {key_of(node): tensors[name] for node, name in captured.parameters.items()}
        base |= {key_of(node): value for node, value in captured.constants.items()}
        return base | self.bound_inputs(inputs)

    def bound_inputs(self, inputs: Any) -> Environment:
        """The part of `bind` that is the given inputs."""
        leaves, key_of = self._leaves(inputs), self.programs.keys.of
        return {key_of(entry.node): leaves[entry.leaf] for entry in self.sliced.captured.inputs if entry}

    def _require_values(self) -> None:
        if self.device.type == "meta":
            raise InputError(
                f"`net` must hold values to be run, but {type(self.model).__name__} was unravelled on the meta device, "
                "where its blocks can be counted only. Load its weights and unravel it again."
            )

    def samples_of(self, inputs: Any) -> int:
        """The number of samples in a batch of inputs; 1 where the graph has no free batch dimension."""
        leaves, entries = self._leaves(inputs), self.inputs
        counts = [leaves[e.leaf].shape[e.batch] for e in entries if e.batch is not None and e.shape[e.batch] is None]
        return int(counts[0]) if counts else self.batch_size or 1

    def part_of(self, inputs: Any, which: slice | Tensor) -> Any:
        """The same inputs with only some of their samples; what holds no samples stays whole."""
        leaves = list(self._leaves(inputs))
        for entry in self.inputs:
            if entry.batch is not None and entry.shape[entry.batch] is None:
                leaves[entry.leaf] = leaves[entry.leaf][(slice(None),) * entry.batch + (which,)]
        args, kwargs = pytree.tree_unflatten(leaves, self.sliced.captured.in_spec)
        return kwargs if kwargs else args

    def _leaves(self, inputs: Any) -> list[Any]:
        captured = self.sliced.captured
        leaves = self._form.leaves(as_call(inputs))
        constants = self._form.constants
        captured.rules.check(leaves)
        for entry, leaf, constant in zip(captured.inputs, leaves, constants, strict=True):
            if entry is None and leaf is not constant and (isinstance(leaf, Tensor) or leaf != constant):
                got = "a tensor" if isinstance(leaf, Tensor) else repr(leaf)
                raise InputError(
                    f"`inputs` must have {constant!r} where the example has it, as the graph holds that, got {got}. "
                    "Unravel the model with an example that has what you want to give."
                )
        return leaves

    def outputs(self, base: dict[int, Any], state: dict[int, Any]) -> Any:
        """The model's output from the state after the last slice."""
        return pytree.tree_unflatten(self._values_of_outputs(base, state), self.sliced.captured.out_spec)

    def outputs_by_sample(self, base: dict[int, Any], state: dict[int, Any]) -> Any:
        """The same, all with the samples in dimension 0: what is scored."""
        return by_sample(self.sliced.captured, self._values_of_outputs(base, state))

    def _values_of_outputs(self, base: dict[int, Any], state: dict[int, Any]) -> list[Any]:
        key_of, values = self.programs.keys.of, {**base, **state}
        outputs = self.sliced.captured.outputs
        return [values[key_of(output)] if isinstance(output, Node) else output for output in outputs]

    @cached_property
    def updates(self) -> dict[int, int]:
        """The keys of the buffers that the graph updates (batch statistics, in train mode), by those of new values."""
        places = {name: key for key, name in self.programs.parameter_keys.items()}
        return {self.programs.keys.of(value): places[name] for value, name in self.sliced.captured.mutations}

    def check(self, batch: Any, sizes: Sequence[int] = (1, 2, 3)) -> Check:
        """Run the model and the intact network on the first samples of `batch` and compare every output bit.

        PyTorch's fused kernel for `nn.MultiheadAttention` without gradients is switched off meanwhile: no graph can
        hold it, and it differs from the module's own operators in the last bits.

        Args:
            batch: inputs as the example; `sizes` beyond its batch size, and those that the model cannot run, are left
                out, its own size is added.
        """
        full, fixed = self.samples_of(batch), self.batch_size
        differences: dict[int, float] = {}
        with untouched(self.model, self.sliced.captured.mode), without_fused_attention(), torch.no_grad():
            for size in sorted({size for size in (*sizes, full) if size <= full}) if fixed is None else [fixed]:
                part = self.part_of(batch, slice(size)) if size < full else batch
                try:
                    expected = outputs_of(self.model, as_call(part))
                except Exception:  # graphs without some of their nodes, clips without some of their frames
                    if size == full:
                        raise
                    continue
                differences[size] = largest_difference(expected, self(part))
        return Check(differences, self.recorded)

    def without(self, *blocks: BlockLike | Iterable[BlockLike]) -> Standalone:
        """A stand-alone module that computes this network without `blocks`, with no trace of their parameters.

        Args:
            blocks: by number or name, see `Arrangement.without`.

        Raises:
            ArrangementError: a block is unknown.
        """
        return self.standalone(self.intact.without(*blocks))

    def standalone(self, arrangement: Sequence[Decision] | str) -> Standalone:
        """A stand-alone module that computes this network under `arrangement`; parameters are copies."""
        return Standalone(self.programs, self.arrangement(arrangement), lambda: self.train_graph.programs, self._form)

    def bound(self, inputs: Any, arrangement: Sequence[Decision] | str) -> Callable[[], Any]:
        """A call on these inputs as the stand-alone network runs, without copies of parameters: what is timed."""
        self._leaves(inputs)  # refuses what does not fit
        return bound(self.programs, self.arrangement(arrangement), self._form, inputs)

    def fingerprint(self) -> str:
        """A hash of the graph, and of weights, buffers and constants as they are now, 32 hexadecimal digits."""
        self._require_values()
        graph = "".join(str(node.format_node()) for node in chain(*self.sliced.slices))
        constants = [value for value in self.sliced.captured.constants.values() if isinstance(value, Tensor)]
        content = f"{graph}{fingerprint(self.model)}{tensors_digest(*constants)}{self.batch_dim or ''}"
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def __deepcopy__(self, memo: dict[int, Any]) -> Unraveled:
        """The same network over a copy of the model; the graph, which never changes, is shared."""
        captured = self.sliced.captured
        constants = {
            node: deepcopy(value, memo) if isinstance(value, Tensor) else value
            for node, value in captured.constants.items()
        }
        copied = replace(captured, model=deepcopy(self.model, memo), constants=constants)
        sliced = replace(self.sliced, captured=copied)
        net = Unraveled(sliced, deepcopy(self._example, memo), plain=self.plain)
        net.capture_seconds = self.capture_seconds
        return net

    def __reduce__(self) -> Any:
        """Model and example are pickled, and captured again when they are read."""
        return unraveled, (self.model, self._example, self.plain, self.sliced.captured.mode, self._how)

    def __repr__(self) -> str:
        units = plural(len(self.blocks), "layer" if self.plain else "block")
        deep = "" if self.plain else f", {plural(self.layers, 'layer')}"
        how = f", recorded at batch size {self.batch_size}" if self.recorded else ""
        differs = self.model.training and self.sliced.captured.mode == "eval"
        other = "; runs as in eval mode, the model itself is in train mode" if differs else ""
        return f"<Unraveled {type(self.model).__name__}: {units}{deep}{how}{other}>"

    def _repr_html_(self) -> str:
        return f"<p>{escape(type(self.model).__name__)}</p>{self.blocks._repr_html_()}"


def unraveled(model: nn.Module, example: Any, plain: bool, mode: Mode, how: How | None = None) -> Unraveled:
    """A network captured in one mode; for `how` see `capture`."""
    started = perf_counter()
    net = Unraveled(cut(capture(model, example, mode, how), plain=plain), example, plain=plain)
    net.capture_seconds = perf_counter() - started
    return net
