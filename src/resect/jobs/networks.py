"""Networks that have no weights, trained by the recipe of the data into a run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from resect.data.samples import SampleSet
from resect.errors import InputError
from resect.jobs.job import Lab
from resect.jobs.source import Source
from resect.jobs.train import TrainJob, shown
from resect.models.names import bare_name, is_shipped
from resect.models.specs import load_card, load_model
from resect.training.recipe import Recipe
from resect.training.recipes import NAMES, load_recipe_file


def trained_into(lab: Lab, spec: str, source: Source, samples: SampleSet) -> Path:
    """The weights of a resect: network, trained by the recipe of the data if they are not there yet.

    Args:
        spec: the network; of a shipped one the recipe is its own.
        source: says data, device and seed.
        samples: what it will see.

    Raises:
        InputError: there is no recipe for these data, or no run folder.
    """
    name, data = spec.removeprefix("resect:"), source.data or ""
    kind, bare = data.partition(":")[0], bare_name(name)
    if kind not in NAMES:
        raise InputError(f"{spec} has no weights for {data}: pass them as {spec}@FILE.")
    load_model(f"resect:{bare}", samples=samples)  # refuses an unknown name before anything is written
    if lab.folder is None:
        raise InputError(f"{spec} has no weights and is trained first, into the run folder: name one with --out.")
    file = lab.folder.path / "networks" / f"{name}.safetensors"
    if not file.exists():
        lab.folder.open()
        known = load_recipe_file(kind)
        settings = load_card(name).asked["recipe"] if is_shipped(spec) else known.settings
        recipe = replace(Recipe(**settings), seed=source.seed)
        job = TrainJob(bare, data, file, recipe, device=source.device, recipe_file=known)
        job.train(shown(lab.track, f"training {bare}"))
    return file
