"""Options that several verbs share, and what they are turned into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from resect.data import Samples, load_samples
from resect.errors import DataError, InputError
from resect.jobs.fit import placed
from resect.models.specs import LoadedModel, Value, load_model

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
SEED = click.IntRange(0, 2**63 - 1)
Decorated = Callable[..., Any]


def model_options(function: Decorated) -> Decorated:
    """--checkpoint and --model-arg."""
    function = click.option(
        "--model-arg", "model_args", multiple=True, metavar="K=V", help="A keyword argument of the model; repeatable."
    )(function)
    return click.option(
        "--checkpoint", type=click.Path(path_type=Path), help="Weights: safetensors or a PyTorch state dict."
    )(function)


def data_options(function: Decorated) -> Decorated:
    """--limit, --seed, --device and --dtype."""
    for option in (
        click.option("--dtype", type=click.Choice(list(DTYPES)), default="float32", show_default=True),
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
    return click.option("--format", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)(
        function
    )


@dataclass(frozen=True)
class Setting:
    """The options that say which model on which data."""

    model: str
    data: str | None
    checkpoint: Path | None
    model_args: tuple[str, ...]
    limit: int | None
    seed: int
    device: str
    dtype: str
    batch_size: int = 500

    def samples(self) -> Samples:
        """Load the samples in this dtype.

        The seed does not move the border between training and test samples: trained weights would be tested on
        what they were trained on.
        """
        assert self.data is not None
        samples = load_samples(self.data, limit=self.limit)
        if not samples.inputs.is_floating_point():
            return samples
        return replace(samples, inputs=samples.inputs.to(DTYPES[self.dtype]))

    def load(self) -> tuple[LoadedModel, Samples | None]:
        """Load samples and model, moved to device and dtype."""
        samples = None if self.data is None else self.samples()
        arguments = parse_arguments(self.model_args)
        loaded = load_model(
            self.model, checkpoint=self.checkpoint, arguments=arguments, samples=samples, seed=self.seed
        )
        if loaded.example is None:
            raise DataError(
                f"{self.model} does not say what its inputs look like. Let the factory return (model, example), or "
                "name data."
            )
        return self.placed(loaded), samples

    def placed(self, loaded: LoadedModel) -> LoadedModel:
        """The same model on this device and in this dtype."""
        placed(loaded.module, self.device, DTYPES[self.dtype])
        example = torch.utils._pytree.tree_map(self._place, loaded.example)
        return LoadedModel(loaded.module, loaded.spec, example, loaded.card)

    def _place(self, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return leaf.to(self.device, DTYPES[self.dtype] if leaf.is_floating_point() else leaf.dtype)


def parse_arguments(pairs: tuple[str, ...]) -> dict[str, Value]:
    """Turn K=V strings into keyword arguments; V becomes a bool, int or float where it reads like one."""
    found: dict[str, Value] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"`--model-arg` must have the form K=V, got {pair!r}.")
        found[name] = _value(text)
    return found


def _value(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def slug(spec: str) -> str:
    """A spec as part of a file name: "resnet50" for "timm:resnet50"."""
    name = Path(spec).stem if "/" in spec else spec.rpartition(":")[2]
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
