"""Options that several verbs share, and what they are turned into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from resect.errors import InputError

SEED = click.IntRange(0, 2**63 - 1)
DTYPES = ("float32", "float64", "bfloat16", "float16")
Decorated = Callable[..., Any]


def model_options(function: Decorated) -> Decorated:
    """--checkpoint and --model-arg."""
    function = click.option(
        "--model-arg",
        "model_args",
        multiple=True,
        metavar="K=V",
        callback=lambda context, option, pairs: parse_arguments(pairs),
        help="A keyword argument of the model; repeatable.",
    )(function)
    return click.option(
        "--checkpoint", type=click.Path(path_type=Path), help="Weights: safetensors or a PyTorch state dict."
    )(function)


def data_options(function: Decorated) -> Decorated:
    """--limit, --seed, --device and --dtype."""
    for option in (
        click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True),
        click.option("--device", default="cpu", show_default=True, help="cpu, cuda or mps."),
        click.option("--seed", default=0, show_default=True, type=SEED, help="Of random weights, plans and paths."),
        click.option("--limit", type=int, help="Use only the first samples."),
    ):
        function = option(function)
    return function


def batch_option(function: Decorated) -> Decorated:
    """--batch-size."""
    return click.option("--batch-size", default=500, show_default=True, type=click.IntRange(min=1))(function)


def output_options(function: Decorated) -> Decorated:
    """--format and --quiet."""
    function = click.option("--quiet", is_flag=True, help="No progress bars.")(function)
    return format_option(function)


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


def parse_arguments(pairs: tuple[str, ...]) -> dict[str, str | int | float | bool]:
    """Turn K=V strings into keyword arguments; V becomes a bool, int or float where it reads like one."""
    arguments: dict[str, str | int | float | bool] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"`--model-arg` must have the form K=V, got {pair!r}.")
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
