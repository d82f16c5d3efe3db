"""Which sizes of the inputs are free, and what a captured graph accepts of them, in words.

Beside the batch, lengths of sequences and sizes of images are free where the model itself runs at others.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import sympy
import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from resect.errors import ExportError, InputError

Place = tuple[int, int]  # the number of a tensor among the leaves of a call, and one of its dimensions
Size = Any  # an int, or an expression of symbols for what is free
_MOST_TERMS = 100  # of an expression of sizes, beyond which an export takes minutes
_OPERATORS: Final[dict[str, Callable[[Any, Any], Any]]] = {  # of expressions of sizes
    "Add": operator.add, "Mul": operator.mul, "Pow": operator.pow, "PowByNatural": operator.pow,
    "FloorDiv": operator.floordiv, "CleanDiv": operator.floordiv, "Mod": operator.mod, "PythonMod": operator.mod,
    "Max": max, "Min": min,
}  # fmt: skip


@dataclass(frozen=True)
class Input:
    """One tensor that the captured graph expects.

    Attributes:
        leaf: its number among the leaves of a call.
        label: how the user names it, e.g. "input 0" or "input_ids".
        sizes: ints, and expressions of symbols for what is free.
        batch: the dimension that counts the samples, None if none does.
    """

    leaf: int
    label: str
    sizes: tuple[Size, ...]
    dtype: torch.dtype
    batch: int | None

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Ints, and None for what is free."""
        return tuple(size if isinstance(size, int) else None for size in self.sizes)


@dataclass(frozen=True)
class SizeRules:
    """What a captured graph accepts of the sizes of its inputs.

    Attributes:
        inputs: the tensors that it expects.
        ranges: the smallest and the largest value (None for any) of every symbol.
        conditions: that must hold beside.
    """

    inputs: tuple[Input, ...]
    ranges: dict[sympy.Symbol, tuple[int, int | None]]
    conditions: tuple[sympy.Basic, ...]
    _accepted: set[tuple[tuple[int, ...], ...]] = field(default_factory=set, compare=False, repr=False)

    def allow_one(self, places: Collection[Place], allowed: bool = True) -> None:
        """Accept the size 1 at some places, which an export leaves out, as it takes it for no free size; or not."""
        for entry in self.inputs:
            for dimension, size in enumerate(entry.sizes):
                if (entry.leaf, dimension) in places and isinstance(size, sympy.Symbol):
                    low, high = self.ranges.get(size, (2, None))
                    self.ranges[size] = (1 if allowed and low == 2 else max(low, 2), high)
        self._accepted.clear()

    def check(self, leaves: Sequence[Any], *, dtypes: bool = True) -> None:
        """Raise InputError unless the leaves of a call have sizes (and `dtypes`) that the graph accepts."""
        for entry in self.inputs:
            self._check_one(entry, leaves[entry.leaf], dtypes)
        shapes = tuple(tuple(leaves[entry.leaf].shape) for entry in self.inputs)
        if shapes not in self._accepted:
            self._check_together(shapes)
            self._accepted.add(shapes)

    def _check_one(self, entry: Input, leaf: Any, dtypes: bool) -> None:
        is_tensor = isinstance(leaf, Tensor) and leaf.ndim == len(entry.sizes)
        wrong = [i for i, size in enumerate(entry.shape) if is_tensor and size not in (None, leaf.shape[i])]
        if is_tensor and not wrong and (leaf.dtype == entry.dtype or not dtypes):
            return
        want = "(" + ", ".join(self._letter(entry, i) for i in range(len(entry.sizes))) + ")"
        got = f"{tuple(leaf.shape)} {_dtype(leaf.dtype)}" if isinstance(leaf, Tensor) else type(leaf).__name__
        why = ""
        if wrong:
            why = (
                f" Dimension {wrong[0]} is {entry.sizes[wrong[0]]} in the graph and nothing else: the model, or its "
                "capture, is made for that size. If the model takes another, unravel it with an example of that size."
            )
        raise InputError(
            f"`inputs` must have {entry.label} of shape {want} {_dtype(entry.dtype)} as the example has, "
            f"got {got}.{_mend(entry, leaf) or why}"
        )

    def _check_together(self, shapes: Sequence[Sequence[int]]) -> None:
        values: dict[sympy.Symbol, int] = {}
        where: dict[sympy.Symbol, str] = {}
        for entry, shape in zip(self.inputs, shapes, strict=True):
            for i, (size, got) in enumerate(zip(entry.sizes, shape, strict=True)):
                if not isinstance(size, sympy.Symbol):
                    continue
                place = f"dimension {i} of {entry.label}"
                if values.setdefault(size, got) != got:
                    what = "one batch size" if i == entry.batch else "one size there"
                    raise InputError(
                        f"`inputs` must all have {what}, got {values[size]} for {where[size]} and {got} for {place}."
                    )
                where.setdefault(size, place)
                low, high = self.ranges.get(size, (0, None))
                if got < low or (high is not None and got > high):
                    limits = f"at least {low}" if high is None else f"{low} to {high}"
                    raise InputError(f"`inputs` must have in {place} a size of {limits}, got {got}.")
        for condition in self.conditions:
            if 1 in values.values():  # what holds of free sizes
                break
            if condition.free_symbols <= values.keys() and not _holds(condition, values):
                why = _condition(self._strictest(condition), where, values)
                raise InputError(f"`inputs` must have sizes that fit together: {why}.")

    def _strictest(self, condition: Any) -> Any:
        """An equality, where the condition is one of the two that make it."""
        other = isinstance(condition, sympy.Le) and sympy.Le(*condition.args[::-1], evaluate=False)
        return sympy.Eq(*condition.args) if other in self.conditions else condition

    def _letter(self, entry: Input, dimension: int) -> str:
        size = entry.sizes[dimension]
        if isinstance(size, int):
            return str(size)
        return "B" if dimension == entry.batch else {4: "  HW", 5: "  DHW"}.get(len(entry.sizes), " LMNO")[dimension]


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _mend(entry: Input, leaf: Any) -> str:
    """What makes a leaf fit, where that is plain."""
    if not isinstance(leaf, Tensor):
        return f" Give torch.as_tensor(..., dtype=torch.{_dtype(entry.dtype)})." if hasattr(leaf, "dtype") else ""
    if _fits(leaf.shape, entry.shape):
        return f" Give inputs.to(torch.{_dtype(entry.dtype)})."
    if leaf.ndim == 4 and _fits((leaf.shape[0], leaf.shape[3], *leaf.shape[1:3]), entry.shape):
        return " They have the channels last: give inputs.permute(0, 3, 1, 2)."
    if _fits(leaf.shape, entry.shape[1:]):
        return " That is a single sample: give inputs[None]."
    return ""


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(want in (None, got) for got, want in zip(shape, wanted, strict=True))


def _holds(condition: Any, values: Mapping[Any, int]) -> bool:
    try:
        return bool(condition.subs(values) != sympy.false)
    except ZeroDivisionError:  # a size below those it divides
        return False


def _condition(condition: Any, where: Mapping[Any, str], values: Mapping[Any, int]) -> str:
    """A condition in words, e.g. "dimension 1 of mask (9) must be at most dimension 1 of input_ids (7)"."""
    places = {symbol: f"{where[symbol]} ({values[symbol]})" for symbol in condition.free_symbols}
    if isinstance(condition, sympy.Rel):
        left, right = condition.args
        multiple = type(left).__name__ in ("Mod", "PythonMod") and left.args[1].is_Integer and right == 0
        if isinstance(condition, sympy.Eq) and multiple and left.args[0] in places:
            return f"{places[left.args[0]]} must be a multiple of {left.args[1]}"
        if (left in places or left.is_Integer) and (right in places or right.is_Integer):
            words = {"==": "be", "!=": "not be", "<=": "be at most", ">=": "be at least", "<": "be below"}
            ends = [places.get(end, str(end)) for end in (left, right)]
            return f"{ends[0]} must {words.get(condition.rel_op, 'be above')} {ends[1]}"
    if len(places) == 1:
        ((symbol, place),) = places.items()
        got = values[symbol]
        fitting = [n for n in range(max(2, got - 64), got + 65) if _holds(condition, {symbol: n})]
        nearest = sorted(sorted(fitting, key=lambda n: abs(n - got))[:2])
        if nearest:
            return f"{place} is no size that the network can run, but {' or '.join(map(str, nearest))} is"
    return f"{condition} must hold, where " + ", ".join(f"{symbol} is {place}" for symbol, place in places.items())


@contextmanager
def simple_sizes() -> Iterator[None]:
    """Give an export up when its sizes become long expressions, on which it would spend minutes."""
    own = ShapeEnv.evaluate_expr

    def evaluate(env: ShapeEnv, expr: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(expr, sympy.Basic) and _is_long(expr):
            raise ValueError("its sizes are too long expressions of those of the inputs")
        return own(env, expr, *args, **kwargs)

    ShapeEnv.evaluate_expr = evaluate  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        ShapeEnv.evaluate_expr = own  # type: ignore[method-assign]


def _is_long(expr: sympy.Basic) -> bool:
    pending, terms = [expr], 0
    while pending and terms <= _MOST_TERMS:
        pending.extend(pending.pop().args)
        terms += 1
    return terms > _MOST_TERMS


def operator_of(size: Size) -> Callable[[Any, Any], Any]:
    """What makes an expression of sizes of its parts.

    Raises:
        ExportError: it is none of sums, products, powers, whole parts and extremes.
    """
    calculate = _OPERATORS.get(type(size).__name__)
    if calculate is None:
        raise ExportError(
            "sizes in `model` must be sums, products and whole parts of those of its inputs for a branch to be "
            f"deleted, but one is {size}. Let forward() compute it with // in place of /."
        )
    return calculate
