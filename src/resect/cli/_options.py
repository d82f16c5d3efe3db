"""Options that several verbs share, and what they are turned into."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from resect.cli._process import silent_libraries
from resect.data.names import KNOWN
from resect.errors import InputError
from resect.jobs.source import DTYPES
from resect.measuring.meaning import TASKS

DATA_SPECS = f"DATA is {KNOWN}; options of folder:, hf: and text: follow with commas: folder:DIR,split=val,size=64."
SEED = click.IntRange(0, 2**63 - 1)
Decorated = Callable[..., Any]
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


class BatchSize(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """A whole number of at least 1, or "auto" (None)."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Parse one value."""
        if value == "auto" or value is None:
            return None
        if not str(value).isdigit() or int(value) < 1:
            self.fail(f"{value!r} is neither a whole number of at least 1 nor auto.", param, ctx)
        return int(value)


class Bytes(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """An amount of memory, e.g. 4GiB, 800M or 1000000 (bytes); units are powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse one value."""
        amount = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(value).strip().lower())
        if not amount or float(amount[1]) == 0:
            self.fail(f"{value!r} is no amount of memory such as 4GiB or 800M.", param, ctx)
        return int(float(amount[1]) * _UNITS[amount[2]])


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """Whole numbers with commas between, and ranges: "1-3,7" is 1, 2, 3, 7."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse one value."""
        if isinstance(value, tuple):
            return value
        numbers: list[int] = []
        for part in str(value).split(","):
            ends = re.fullmatch(r"\s*(\d{1,6})(?:\s*-\s*(\d{1,6}))?\s*", part)  # no typing error fills the memory
            if not ends or (ends[2] and int(ends[2]) < int(ends[1])):
                self.fail(
                    f"{value!r} must be whole numbers and ranges with commas between, e.g. 0,3 or 1-9, below a "
                    "million.",
                    param,
                    ctx,
                )
            numbers += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
        return tuple(numbers)


class Parts(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """Numbers with commas between: "0.5,0.75"."""

    name = "parts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse one value."""
        try:
            return value if isinstance(value, tuple) else tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} must be numbers with commas between, e.g. 0.5,0.75.", param, ctx)


class Blocks(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """Blocks by number, from the end if negative, in ranges, or by name, with commas between: "0-2,-1,layer2.0"."""

    name = "blocks"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int | str, ...]:
        """Parse one value; whether the network has such blocks shows later."""
        if isinstance(value, tuple):
            return value
        blocks: list[int | str] = []
        for part in map(str.strip, str(value).split(",")):
            if not part:
                self.fail(f"{value!r} must have a block's number or name between all its commas.", param, ctx)
            if re.fullmatch(r"-\d+", part):
                blocks.append(int(part))
            elif re.fullmatch(r"\d+(\s*-\s*\d+)?", part):
                blocks += Numbers().convert(part, param, ctx)
            else:
                blocks.append(part)
        return tuple(blocks)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a verb's options that the command line names."""
    source = click.get_current_context().get_parameter_source
    return {name: value for name, value in options.items() if source(name) is not ParameterSource.DEFAULT}


mass_option = click.option(
    "--mass",
    default=0.95,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Of the effective range.",
)


def whole(name: str, help: str | None = None, *, least: int = 1, **more: Any) -> Callable[[Decorated], Decorated]:
    """An option that is a whole number of at least `least`."""
    return click.option(name, help=help, show_default=True, type=click.IntRange(min=least), **more)


def arguments_option(help: str) -> Callable[[Decorated], Decorated]:
    """--model-arg, for the parameter `model_args`."""

    def parsed(context: click.Context, option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
        return parse_arguments(pairs)

    return click.option("--model-arg", "model_args", multiple=True, metavar="K=V", callback=parsed, help=help)


def model_options(function: Decorated) -> Decorated:
    """--checkpoint and --model-arg."""
    function = arguments_option("A keyword argument of the model; repeatable.")(function)
    return click.option(
        "--checkpoint", type=click.Path(path_type=Path), help="Weights: safetensors or a PyTorch state dict."
    )(function)


def part_options(function: Decorated) -> Decorated:
    """--module and --batch-dim: which part of the model is taken, and where its inputs count the samples."""
    function = click.option(
        "--batch-dim", default=0, show_default=True, type=click.IntRange(0), help="Of samples; 1 for (L, B, ...)."
    )(function)
    said = "Take only this part of the model, on inputs as the model gives it."
    return click.option("--module", metavar="NAME", help=said)(function)


def normalize_option(names: str) -> Callable[[Decorated], Decorated]:
    """--normalize; None for auto."""

    def given(context: click.Context, option: click.Parameter, text: str) -> str | None:
        return None if text == "auto" else text

    help = f"Of pixels scaled to [0, 1]: 0.5/0.25, or one number a channel with commas between; {names}"
    return click.option("--normalize", metavar="MEAN/STD", default="auto", show_default=True, callback=given, help=help)


def run_options(function: Decorated) -> Decorated:
    """--limit, --seed, --device and --dtype."""
    for option in (
        click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True),
        click.option("--device", default="cpu", show_default=True, help="cpu, cuda or mps."),
        click.option("--seed", default=0, show_default=True, type=SEED, help="Of random weights, plans and paths."),
        click.option("--limit", type=int, help="Use only the first samples."),
    ):
        function = option(function)
    return function


def data_options(function: Decorated) -> Decorated:
    """--limit, --normalize, --calibrate, --seed, --device and --dtype."""
    for option in (
        run_options,
        click.option(
            "--calibrate",
            default=0,
            type=click.IntRange(0),
            metavar="N",
            help="Measure the statistics of batch norms on N samples first, for networks without training.",
        ),
        normalize_option("none, imagenet, or card, what the model's says. auto: the card, else the data's own."),
    ):
        function = option(function)
    return function


def task_option(function: Decorated) -> Decorated:
    """--task; None for auto."""
    said = f"What targets mean: {', '.join(TASKS)}; of an output NAME:OUTPUT. auto: guessed, and said."
    return click.option("--task", metavar="NAME", help=said)(function)


def batch_option(function: Decorated) -> Decorated:
    """--batch-size."""
    return whole("--batch-size", default=500)(function)


def output_options(function: Decorated) -> Decorated:
    """--format and --quiet."""
    return format_option(quiet_option(function))


def quiet_option(function: Decorated) -> Decorated:
    """--quiet; it works before anything slow is imported."""

    def silence(context: click.Context, option: click.Parameter, quiet: bool) -> bool:
        if quiet:
            context.with_resource(silent_libraries())
        return quiet

    said = "No progress bars, and no warnings of the libraries beneath."
    return click.option("--quiet", is_flag=True, callback=silence, help=said)(function)


def format_option(function: Decorated) -> Decorated:
    """--format."""
    return click.option("--format", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)(
        function
    )


def out_option(function: Decorated) -> Decorated:
    """--out, of a run folder."""
    return click.option(
        "--out", type=click.Path(path_type=Path), help="Run folder: tables, figures, and where a killed run goes on."
    )(function)


def renamed_option(old: str, new: str) -> Callable[[Decorated], Decorated]:
    """An option that has another name now: refused, with that name."""

    def refuse(context: click.Context, option: click.Parameter, value: str | None) -> None:
        if value is not None:
            raise InputError(f"`{old}` is now `{new}`.")

    return click.option(old, hidden=True, expose_value=False, callback=refuse)


def parse_arguments(pairs: tuple[str, ...], option: str = "model-arg") -> dict[str, str | int | float | bool]:
    """Turn K=V strings into keyword arguments; V becomes a bool, int or float where it reads like one."""
    arguments: dict[str, str | int | float | bool] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"`--{option}` must have the form K=V, got {pair!r}.")
        arguments[name] = _value(text)
    return arguments


def _value(text: str) -> str | int | float | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
