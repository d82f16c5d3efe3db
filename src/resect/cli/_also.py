"""The trainings of `resect train --also`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resect.errors import InputError
from resect.training.recipe import Recipe

if TYPE_CHECKING:  # which loads torch
    from resect.jobs.train import TrainJob

_FOLDERS = ("history", "logs")


def also_jobs(recipe: str, first: TrainJob, options: Mapping[str, Any], also: Sequence[str]) -> list[TrainJob]:
    """The first training, and for each text of `also` ("schedule=fixed-count,keep=23") the same with other settings.

    Each is written beside the first, with its settings in its name, and has a folder of its own in those of all.

    Raises:
        InputError: a setting is unknown, two trainings write to the same file, or a launcher started several processes.
    """
    from resect.jobs.source import slug
    from resect.jobs.train import TrainJob

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("`--also` must be left out where a launcher starts several processes for one training.")
    jobs = []
    for text in ("", *also):
        given = dict(part.partition("=")[::2] for part in re.split(r",(?=[\w-]+=)", text)) if text else {}
        changed = dict(_setting(*each, text) for each in given.items())
        out = first.out.with_stem("-".join([first.out.stem, *map(slug, given.values())]))
        folders = {name: Path(options[name]) / out.stem for name in _FOLDERS if options.get(name)}
        jobs.append(TrainJob.from_options(recipe, out, {**options, **folders, **changed}))
    if len({job.out for job in jobs}) < len(jobs):
        raise InputError(f"`--also` must name another network each time, got {' and '.join(also)}.")
    return jobs


def _setting(name: str, value: str, text: str) -> tuple[str, Any]:
    """A setting of the command, read as its option would be."""
    context = click.get_current_context()
    name = name.strip().replace("-", "_")
    option = next((option for option in context.command.params if option.name == name), None)
    if name not in (*Recipe.names(), "model") or option is None or not value:
        raise InputError(f"`--also` must be settings of a recipe, as in schedule=fixed-count,keep=23, got {text!r}.")
    return name, option.type_cast_value(context, value)
