"""Residual additions counted while a model runs: an independent count, which shares no code with `resect.graph`.

A dispatch mode watches the operators that one real forward pass executes and keeps, for every value, which values it
was made of. A view of all elements is its source; a write in place makes a new value of everything that shares the
storage. An executed addition a + b (or a - b, addcmul) of two floating-point signals of one shape is residual if

- a is among the values that b was made of, and a weight was used on the way (also a times a number or weights, or
  times a sigmoid); or
- a and b were last made of one value, a by linear operators alone, b by a non-linear one and weights.

Inside the branch of another, of which it is a part and nothing else, it counts if its own branch uses a matrix or
convolution and reads no signal beside the value that its skip carries, and its skip is not a part of that value. A sum
of branches added to one skip is one a branch. Known to be weaker than the captured graph: equal operators that run
twice count as two values (a skip and a branch that both begin with relu(x)); lists of experts chosen at run time leave
no trace of those that were not; a skip behind an activation of its own (DPN) is not seen; kernels that hide additions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_MATRIX = {"mm", "addmm", "bmm", "baddbmm", "convolution", "_convolution", "linear", "einsum", "mv", "addmv", "matmul"}
_MATRIX |= {"mkldnn_convolution", "slow_conv3d", "thnn_conv2d", "_grouped_mm", "mkldnn_rnn_layer"}
_LINEAR = _MATRIX | set(
    "add sub rsub neg clone copy copy_ _to_copy detach cat stack sum mean cumsum slice select expand narrow "
    "unsqueeze squeeze view _unsafe_view reshape permute transpose t as_strided split split_with_sizes unbind "
    "diagonal unfold constant_pad_nd pad reflection_pad2d replication_pad2d avg_pool2d _adaptive_avg_pool2d "
    "avg_pool1d avg_pool3d _adaptive_avg_pool3d adaptive_avg_pool1d upsample_nearest2d upsample_bilinear2d "
    "upsample_bicubic2d roll flip im2col col2im gather index index_select pixel_shuffle pixel_unshuffle "
    "native_batch_norm batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm repeat alias lift_fresh "
    "tril triu masked_fill slice_scatter select_scatter index_put channel_shuffle lerp upsample_nearest1d "
    "upsample_trilinear3d _upsample_bilinear2d_aa _fft_r2c _fft_c2r _fft_c2c view_as_real view_as_complex real "
    "imag scatter zeros_like new_zeros fill movedim mul div addcmul max_pool2d_with_indices "
    "max_pool3d_with_indices max_pool2d amax max _reshape_alias _conj swapaxes unsafe_split unsafe_chunk chunk "
    "native_dropout dropout max_unpool2d".split()
)
_PRODUCT = {"mul", "div", "addcmul", "lerp"} | _MATRIX
_PARTS = {"slice", "select", "split", "split_with_sizes", "unbind", "narrow", "chunk", "unsafe_split", "unsafe_chunk"}
_GATES = {"sigmoid", "hardsigmoid"}


@dataclass
class Value:
    """One value of the forward pass.

    Attributes:
        parents: the values that it was made of, by number.
        before: a bit for every value that it was made of, itself too.
        signal: whether it depends on the inputs; else it is a constant or made of weights.
        learned: whether a weight went into it directly, or into a value that is no signal.
        addends: the two operands of an addition of one shape.
        scaled: whether the second one is subtracted or scaled.
    """

    number: int
    name: str
    parents: tuple[int, ...]
    before: int
    signal: bool
    learned: bool
    floating: bool
    size: int
    module: str = ""
    addends: tuple[int, int] | None = None
    scaled: bool = False
    users: list[int] = field(default_factory=list)


class _Watch(TorchDispatchMode):
    """Records every value; tensors are kept, so that no address is used twice."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.values: list[Value] = []
        self.module = [""]
        self._kept: list[Tensor] = []
        self._of: dict[int, int] = {}
        self._sharing: dict[int, list[Tensor]] = defaultdict(list)
        for tensor in (*model.parameters(), *model.buffers()):
            self._bind(tensor, self._new("weight", (), tensor, learned=True))
        for leaf in pytree.tree_leaves(inputs):
            if isinstance(leaf, Tensor):
                self._bind(leaf, self._new("input", (), leaf, signal=True))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        parents = [self._read(tensor) for tensor in given]
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        written = [kwargs["out"]] if isinstance(kwargs.get("out"), Tensor) else []
        if (name.endswith("_") and not name.startswith("_")) or name in ("_index_put_impl_",):
            written, name = outputs or given[:1], name.removesuffix("_")
        for output in outputs or written:
            self._record(name, output, given, parents, args, kwargs, any(output is w for w in written))
        return result

    def _record(
        self, name: str, output: Tensor, given: list[Tensor], parents: list[int], args: Any, kwargs: Any, write: bool
    ) -> None:
        shares = [t for t in given if t.numel() == output.numel() and _storage(t) == _storage(output) and t.numel()]
        if shares and not write:
            self._bind(output, self._read(shares[0]))
            return
        old = parents[0] if write and name in ("copy", "fill", "zero") and parents else None
        used = parents[1:] if old is not None else parents
        number = self._new(name, tuple(dict.fromkeys(used)), output)
        value = self.values[number]
        tensors = [t for t in given if any(t is a for a in args)]
        operands = [parents[i] for i, t in enumerate(given) if any(t is a for a in args)]
        alike = len({tuple(t.shape) for t in tensors}) == 1
        if name in ("add", "sub", "rsub") and len(operands) == 2 and alike:
            value.addends, value.scaled = (operands[0], operands[1]), name != "add" or kwargs.get("alpha", 1) != 1
        elif name == "addcmul" and len(operands) == 3:
            branch = next((p for p in reversed(operands[1:]) if self.values[p].signal), operands[2])
            value.addends, value.scaled = (operands[0], branch), True
        if write:
            self._write(output, number)
        else:
            self._bind(output, number)

    def _write(self, target: Tensor, number: int) -> None:
        """Everything that shares the storage has a new value."""
        for tensor in list(self._sharing[_storage(target)]):
            if tensor is target or tensor.numel() == target.numel():
                self._of[id(tensor)] = number
            else:
                parents = (self._of[id(tensor)], number)
                self._of[id(tensor)] = self._new("slice_scatter", parents, tensor)
        self._bind(target, number)

    def _new(
        self, name: str, parents: tuple[int, ...], tensor: Tensor, signal: bool = False, learned: bool = False
    ) -> int:
        number, before = len(self.values), 0
        for parent in parents:
            value = self.values[parent]
            before |= value.before
            signal |= value.signal
            learned |= value.learned and not value.signal
            value.users.append(number)
        floating = tensor.is_floating_point()
        self.values.append(
            Value(
                number,
                name,
                parents,
                before | 1 << number,
                signal,
                learned,
                floating,
                tensor.numel(),
                self.module[-1],
            )
        )
        return number

    def _bind(self, tensor: Tensor, number: int) -> None:
        if id(tensor) not in self._of:
            self._kept.append(tensor)
            self._sharing[_storage(tensor)].append(tensor)
        self._of[id(tensor)] = number

    def _read(self, tensor: Tensor) -> int:
        if id(tensor) not in self._of:  # made before, outside of the model's weights
            self._bind(tensor, self._new("constant", (), tensor))
        return self._of[id(tensor)]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else id(tensor)


@contextmanager
def _named(model: nn.Module, watch: _Watch) -> Iterator[None]:
    def enter(name: str) -> Any:
        return lambda module, args: watch.module.append(name)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        watch.module.pop()

    hooks = [part.register_forward_pre_hook(enter(name)) for name, part in model.named_modules()]
    hooks += [part.register_forward_hook(leave) for part in model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class Residual:
    """An executed addition that is residual: where it ran, and the values at which skip and branch part."""

    number: int
    module: str
    skip: int
    branch: int
    starts: tuple[int, ...]


def residual_additions(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Residual]:
    """The residual additions that one forward pass of `model` executes, in order."""
    watch = _Watch(model, (args, kwargs))
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), _named(model, watch), watch:
            model(*args, **kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    return _Judge(watch.values).residual()


class _Judge:
    def __init__(self, values: list[Value]) -> None:
        self.values = values
        self.after = [0] * len(values)  # a bit for every value made of it, itself too
        for value in reversed(values):
            self.after[value.number] |= 1 << value.number
            for parent in value.parents:
                self.after[parent] |= self.after[value.number]
        self.signals = sum(1 << v.number for v in values if v.signal and v.floating)

    def residual(self) -> list[Residual]:
        joins = {}
        for value in self.values:
            if value.addends and (join := self._judge(value, joins)):
                joins[value.number] = join
        regions = {n: self._region(join) for n, join in joins.items()}
        kept = dict(joins)
        for number, join in joins.items():
            around = [n for n in kept if n != number and regions[n] >> number & 1 and self._only_into(number, n)]
            if around and not self._counts_inside(join, regions[number]):
                del kept[number]
        return [term for join in kept.values() for term in self._terms(join, joins)]

    def _judge(self, value: Value, joins: dict[int, Residual]) -> Residual | None:
        assert value.addends
        one, other = (self.values[number] for number in value.addends)
        signal = (one.signal or one.learned) and (other.signal or other.learned) and (one.signal or other.signal)
        if not (signal and one.floating and other.floating) or one is other:
            return None
        orders = [(one, other)] if value.scaled else [(one, other), (other, one)]
        for skip, branch in orders:
            starts = self._starts(skip, branch, joins)
            if starts:
                return Residual(value.number, value.module, skip.number, branch.number, starts)
        return None

    def _starts(self, skip: Value, branch: Value, joins: dict[int, Residual]) -> tuple[int, ...]:
        """Where the two part, () if they are no skip and branch."""
        root = skip
        while root.number in joins and len(root.users) == 1 and not self.values[joins[root.number].skip].scaled:
            root = self.values[joins[root.number].skip]
        for base in (root, *self._unscaled(root)):
            if branch.before >> base.number & 1 and base is not branch:
                return (base.number,) if self._uses_weights(self._between(base.number, branch.number)) else ()
        common = root.before & branch.before & self.signals
        nearest = [n for n in _numbers(common) if not self.after[n] & ~(1 << n) & common]
        if not nearest:
            return ()
        on_skip = self._ways(nearest, root.number)
        on_branch = self._ways(nearest, branch.number)
        if not self._linear(on_skip) or self._linear(on_branch) or not self._uses_weights(on_branch):
            return ()
        if self._uses_weights(on_skip) and self._parts(on_skip) != self._parts(on_branch):
            return ()
        return tuple(nearest)

    def _unscaled(self, skip: Value) -> Iterable[Value]:
        """The signals x where the skip is x times a number, weights, or a sigmoid."""
        if skip.name not in ("mul", "div"):
            return
        operands = [self.values[n] for n in skip.parents if self.values[n].signal]
        for operand in operands:
            others = [o for o in operands if o is not operand]
            if operand.size == skip.size and all(self._is_gate(other) for other in others):
                yield operand

    def _is_gate(self, value: Value) -> bool:
        while value.name in ("rsub", "sub", "add", "mul", "neg"):
            signals = [n for n in value.parents if self.values[n].signal]
            if len(signals) != 1:
                return False
            value = self.values[signals[0]]
        return value.name in _GATES

    def _between(self, start: int, end: int) -> int:
        return self.after[start] & self.values[end].before & ~(1 << start)

    def _ways(self, starts: Iterable[int], end: int) -> int:
        bits = 0
        for start in starts:
            bits |= self._between(start, end)
        return bits

    def _region(self, join: Residual) -> int:
        return self._ways(join.starts, join.branch)

    def _uses_weights(self, bits: int) -> bool:
        return any(self._reads_weights(self.values[n]) for n in _numbers(bits))

    def _reads_weights(self, value: Value) -> bool:
        return any(self.values[n].learned and not self.values[n].signal for n in value.parents)

    def _matrices(self, bits: int) -> set[int]:
        return {n for n in _numbers(bits) if self.values[n].name in _MATRIX and self._reads_weights(self.values[n])}

    def _linear(self, bits: int) -> bool:
        for value in (self.values[n] for n in _numbers(bits)):
            signals = sum(self.values[n].signal and self.values[n].floating for n in value.parents)
            if value.name not in _LINEAR or (value.name in _PRODUCT and signals > 1):
                return False
        return True

    def _parts(self, bits: int) -> list[str]:
        """The names of the parts that the ways take first."""
        first = [n for n in _numbers(bits) if not bits & self.values[n].before & ~(1 << n)]
        return [f"{self.values[n].name}{n}" for n in first if self.values[n].name in _PARTS]

    def _only_into(self, number: int, outer: int) -> bool:
        """Whether everything made of a value goes through the addition `outer`."""
        todo, seen = [number], {number}
        while todo:
            for user in self.values[todo.pop()].users:
                if user != outer and user not in seen:
                    if user > outer:
                        return False
                    seen.add(user)
                    todo.append(user)
        return True

    def _counts_inside(self, join: Residual, region: int) -> bool:
        skip_ways = self._ways(join.starts, join.skip)
        if not self._matrices(region) or self._parts(skip_ways):
            return False
        given = region | skip_ways | sum(1 << start for start in join.starts)
        read = (p for n in _numbers(region) for p in self.values[n].parents)
        return all(given >> p & 1 or not (self.values[p].signal and self.values[p].floating) for p in read)

    def _terms(self, join: Residual, joins: dict[int, Residual]) -> list[Residual]:
        """One residual a branch where a sum of branches is added."""
        total = self.values[join.branch]
        while not total.addends and len(total.users) == 1 and total.name in ("mul", "div", "clone", "expand"):
            signals = [n for n in total.parents if self.values[n].signal]
            if len(signals) != 1:
                break
            total = self.values[signals[0]]
        if not total.addends or total.number in joins or len(total.users) != 1:
            return [join]
        regions = [self._ways(join.starts, term) for term in total.addends]
        matrices = [self._matrices(region) for region in regions]
        apart = all(matrices) and not matrices[0] & matrices[1]
        if not apart or any(self._linear(a & ~b) for a, b in (regions, regions[::-1])):
            return [join]
        parts = [Residual(join.number, join.module, join.skip, term, join.starts) for term in total.addends]
        return [term for part in parts for term in self._terms(part, joins)]


def _numbers(bits: int) -> Iterator[int]:
    """The numbers of the bits that are set, in order."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low
