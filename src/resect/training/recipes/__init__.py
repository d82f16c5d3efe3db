"""Recipes that `resect train` knows by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from resect.errors import SpecError
from resect.training.recipe import Recipe

_HERE = resources.files(__name__)
NAMES = tuple(sorted(file.name.removesuffix(".yaml") for file in _HERE.iterdir() if file.name.endswith(".yaml")))


@dataclass(frozen=True)
class RecipeFile:
    """What a recipe file says: settings of `Recipe`, and a model spec, its arguments and a data spec, or None."""

    name: str
    settings: dict[str, Any]
    model: str | None
    data: str | None
    model_args: dict[str, Any]

    def settings_with(self, schedule: str | None) -> dict[str, Any]:
        """The settings, without those that belong to the file's own schedule where another is asked for."""
        same = schedule in (None, self.settings.get("schedule", "full"))
        return {name: value for name, value in self.settings.items() if same or name not in ("keep", "survival")}


def load_recipe_file(name: str) -> RecipeFile:
    """A recipe by its name, one of `NAMES`, or from a YAML file of `data`, `model`, `model_args` and the settings of
    `Recipe`, all optional.

    Raises:
        SpecError: there is no such recipe, or the file does not hold one.
    """
    path = Path(name)
    if name in NAMES:
        text = (_HERE / f"{name}.yaml").read_text(encoding="utf-8")
    elif path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise SpecError(f"there is no file {path}. Name a recipe ({', '.join(NAMES)}) or a YAML file.")
        text = path.read_text(encoding="utf-8", errors="replace")
    else:
        raise SpecError(f"unknown recipe {name!r}. Known are {', '.join(NAMES)}, and files that end in .yaml.")
    try:
        content = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise SpecError(f"{name} must be YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise SpecError(f"{name} must hold settings, one a line (epochs: 13), got {type(content).__name__}.")
    if "arguments" in content:
        raise SpecError(f"`arguments:` of {name} is now `model_args:`.")
    known = {*Recipe.names(), "model", "data", "model_args"}
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise SpecError(f"{name} has unknown settings: {', '.join(unknown)}. Known are {', '.join(sorted(known))}.")
    settings = {key: _checked(name, key, value) for key, value in content.items() if key in Recipe.names()}
    for key in ("model", "data"):
        if not isinstance(content.get(key, ""), str):
            raise SpecError(f"`{key}:` of {name} must be a spec, such as resect:resnet110, got {content[key]!r}.")
    model_args = content.get("model_args", {})
    if not isinstance(model_args, dict) or not all(isinstance(key, str) for key in model_args):
        raise SpecError(f"`model_args:` of {name} must be names with values, such as {{width: 8}}, got {model_args!r}.")
    return RecipeFile(name, settings, content.get("model"), content.get("data"), model_args)


def _checked(name: str, key: str, value: Any) -> Any:
    """A setting of the kind that the recipe has; YAML reads `5e-4`, without a point, as text."""
    default = getattr(Recipe(), key)
    wanted = {"keep": 23, "survival": 0.5}.get(key, default)
    if isinstance(default, tuple) or (value is None and default is None):  # the recipe judges what is in a list
        return value
    if isinstance(wanted, float) and isinstance(value, str) and re.fullmatch(r"\d+[eE]-?\d+", value):
        return float(value)
    kinds = (int, float) if isinstance(wanted, float) else type(wanted)
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(wanted, bool):
        raise SpecError(f"`{key}:` of {name} must be like {wanted!r}, got {value!r}.")
    return value
