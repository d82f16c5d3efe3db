"""A program: the steps that a slice executes, on an environment of values keyed by integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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

    def run(
        self,
        base: Mapping[int, Any],
        state: Mapping[int, Any],
        intercept: Mapping[int, Callable[[Any], Any]] | None = None,
    ) -> Environment:
        """Execute the steps on parameters, constants and inputs (`base`) and the state; return the new state.

        Args:
            intercept: functions that replace the value of a key as soon as it is computed.
        """
        if intercept is None:
            found: Environment = self._function(state, base)
            return found
        values = dict(state)

        def read(value: Any) -> Any:
            if type(value) is Ref:
                key = value.key
                return values[key] if key in values else base[key]
            if type(value) in (list, tuple):
                return type(value)(read(item) for item in value)
            return value

        for step, dead in zip(self.steps, self.dead_after, strict=True):
            kwargs = {name: read(value) for name, value in step.kwargs.items()}
            value = step.target(*[read(argument) for argument in step.args], **kwargs)
            values[step.key] = intercept[step.key](value) if step.key in intercept else value
            for key in dead:
                values.pop(key, None)
        return {key: read(Ref(source)) for key, source in self.results}

    @cached_property
    def _function(self) -> Callable[[Mapping[int, Any], Mapping[int, Any]], Environment]:
        """The steps as one Python function of (state, base); looking every value up in a dictionary takes longer."""
        held: dict[str, Any] = {}
        made = {step.key for step in self.steps}
        reads = {key for step in self.steps for key in step.reads} | {source for _, source in self.results}
        lines = [f"{_local(k)} = state[{k}] if {k} in state else base[{k}]" for k in sorted(reads - made)]
        for i, (step, dead) in enumerate(zip(self.steps, self.dead_after, strict=True)):
            held[f"f{i}"] = step.target
            words = [_source(value, held) for value in step.args]
            words += [f"{name}={_source(value, held)}" for name, value in step.kwargs.items()]
            lines.append(f"{_local(step.key)} = f{i}({', '.join(words)})")
            # What `state` holds, too, is only let go here; the caller decides when it is gone.
            lines += [f"{_local(key)} = None" for key in dead]
        lines.append("return {" + ", ".join(f"{key}: {_local(source)}" for key, source in self.results) + "}")
        exec("def run(state, base):\n    " + "\n    ".join(lines), held)  # names and numbers of our own only
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
