"""A program: the steps that a slice executes, on an environment of values keyed by integers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from resect.errors import InputError
from resect.graph.kernels import kernel_of

Environment = dict[int, Any]


@dataclass(frozen=True)
class Ref:
    """A value of the environment, as it stands in the arguments of a step."""

    key: int


@dataclass(frozen=True)
class Step:
    """One operator call: environment[key] = target(*args, **kwargs)."""

    key: int
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reads: tuple[int, ...]

    def arguments(self, value_of: Callable[[int], Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments, each `Ref` in them replaced by the value of its key."""

        def read(ref: Ref) -> Any:
            return value_of(ref.key)

        args = [substitute(value, Ref, read) for value in self.args]
        return args, {name: substitute(value, Ref, read) for name, value in self.kwargs.items()}


@dataclass(frozen=True)
class Program:
    """What one slice executes.

    Attributes:
        steps: in order.
        results: where each value that lives on after the slice comes from: (its key, the key that holds it).
        live_before: keys the slice needs from before (parameters, constants and inputs not counted).
    """

    steps: tuple[Step, ...]
    results: tuple[tuple[int, int], ...]
    live_before: frozenset[int]

    def run(self, base: Mapping[int, Any], state: Mapping[int, Any]) -> Environment:
        """Execute the steps on parameters, constants and inputs (`base`) and the state; return the new state.

        Raises:
            InputError: an operator cannot take the shapes that it gets, e.g. clips that lack some of their frames.
        """
        with own_errors(lambda: self._rows(base)):
            return self._function(base, state)

    def _rows(self, base: Mapping[int, Any]) -> list[int]:
        """How many rows the tables of its lookups have."""
        tables = [step.args[0] for step in self.steps if str(step.target).startswith("aten.embedding.")]
        return [len(base[table.key]) for table in tables if isinstance(table, Ref) and table.key in base]

    @cached_property
    def _function(self) -> Callable[[Mapping[int, Any], Mapping[int, Any]], Environment]:
        """The steps as one Python function of (base, state); looking every value up in a dictionary takes longer."""
        held: dict[str, Any] = {}
        made = {step.key for step in self.steps}
        reads = {key for step in self.steps for key in step.reads} | {source for _, source in self.results}
        lines = [f"{_local(k)} = state[{k}] if {k} in state else base[{k}]" for k in sorted(reads - made)]
        for i, (step, dead) in enumerate(zip(self.steps, self.dead_after, strict=True)):
            held[f"f{i}"] = kernel_of(step.target)
            words = [_source(value, held) for value in step.args]
            words += [f"{name}={_source(value, held)}" for name, value in step.kwargs.items()]
            lines.append(f"{_local(step.key)} = f{i}({', '.join(words)})")
            # What `state` holds, too, is only let go here; the caller decides when it is gone.
            lines += [f"{_local(key)} = None" for key in dead]
        lines.append("return {" + ", ".join(f"{key}: {_local(source)}" for key, source in self.results) + "}")
        exec("def run(base, state):\n    " + "\n    ".join(lines), held)  # names and numbers of our own only
        function: Callable[[Mapping[int, Any], Mapping[int, Any]], Environment] = held["run"]
        return function

    @cached_property
    def dead_after(self) -> tuple[tuple[int, ...], ...]:
        """The keys that no step reads after each step and that are no result."""
        needed = {source for _, source in self.results}
        dead: list[tuple[int, ...]] = []
        for step in reversed(self.steps):
            dead.append(tuple(key for key in {step.key, *step.reads} if key not in needed))
            needed.update(step.reads)
        return tuple(reversed(dead))


Run = Callable[[Program, Environment], Environment]
"""Executes a program on a state; returns the new one."""


@contextmanager
def own_errors(rows: Callable[[], Sequence[int]]) -> Iterator[None]:
    """Say in a sentence that an operator cannot take the shapes, or the indices, that it gets.

    Args:
        rows: how many rows the tables have that it may look up.
    """
    try:
        yield
    except (RuntimeError, IndexError) as error:
        said = str(error).partition("\n")[0]
        if re.search(r"index out of range in self", said):
            tables = " and ".join(str(number) for number in dict.fromkeys(rows()))
            raise InputError(
                "`inputs` must be numbers that the network's tables hold, but one of its lookups is out of range: a "
                "number is not in the vocabulary, or the sequence is longer than the table of positions."
                f"{f' Its tables have {tables} rows.' if tables else ''}"
            ) from error
        if re.search(r"on the same device|weight type .* should be the same", said):
            raise InputError(
                f"`inputs` must lie on the device of the network. One of its operators says: {said}"
            ) from error
        if not re.search(r"invalid for input of size|size of tensor|must match|out of bounds", said):
            raise
        raise InputError(
            f"`inputs` must be a batch that the network can run, but one of its operators says: {said} Where "
            "samples belong together (clips, graphs), their number may have to be a multiple of the example's."
        ) from error


def substitute(value: Any, kind: type, new: Callable[[Any], Any]) -> Any:
    """An argument with everything of one kind replaced by what `new` makes of it, in lists and tuples, too."""
    if isinstance(value, kind):
        return new(value)
    if isinstance(value, (list, tuple)):
        items = [substitute(item, kind, new) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def _local(key: int) -> str:
    return f"v{key}" if key >= 0 else f"x{-key}"


def _source(value: Any, held: dict[str, Any]) -> str:
    """An argument as Python source; what has no safe source text is put into `held` under a name."""
    if type(value) is Ref:
        return _local(value.key)
    if type(value) is list:
        return "[" + ", ".join(_source(item, held) for item in value) + "]"
    if type(value) is tuple:
        return "(" + "".join(_source(item, held) + ", " for item in value) + ")"
    if value is None or type(value) in (bool, int):
        return repr(value)
    name = f"c{len(held)}"
    held[name] = value
    return name
