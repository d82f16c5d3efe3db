"""Data sets of Hugging Face's `datasets`: saved on disk, in files that it reads, or on the Hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from resect.data.images import Preparation
from resect.data.names import SPLITS, DataSpec
from resect.data.offline import UNREACHABLE, hub_or_cache
from resect.data.samples import Samples, SampleSet
from resect.data.streams import Images
from resect.data.text import Reading, labelled, windows
from resect.errors import DataError, SpecError

_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}


@dataclass(frozen=True)
class Rows:
    """The images of a column, as files."""

    name: str
    column: Any  # decoded to {"bytes": ..., "path": ...}

    def __len__(self) -> int:
        return len(self.column)

    def place(self, number: int) -> str:
        """Which row it is, and its file if it has one."""
        return f"row {number} of {self.name}"

    def content(self, number: int) -> bytes:
        """Its bytes."""
        cell = self.column[number]
        if cell is None:
            raise OSError("there is none")
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()


def read_hub(
    spec: DataSpec,
    split: Literal["train", "test"],
    preparation: Callable[[], Preparation],
    reading: Callable[[], Reading | None],
) -> SampleSet:
    """Images, arrays or texts with classes, or one text; the columns are found by what they hold, or named.

    Raises:
        SpecError: datasets is not installed.
        DataError: there is no such data set, split or column, or the Hub does not answer.
    """
    try:
        datasets: Any = import_module("datasets")
    except ImportError as error:
        raise SpecError(f"{spec.text} needs datasets, which is not installed: pip install 'resect[hf]'.") from error
    table = _split(spec, _loaded(spec, datasets), split)
    features = table.features
    texts = [name for name, kind in features.items() if getattr(kind, "dtype", None) in ("string", "large_string")]
    image = _named(spec, "image", features)
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    arrays = [name for name, kind in features.items() if _is_array(kind, datasets)]
    if "text" in spec.options or (image is None and not images and not arrays and texts):
        column = _named(spec, "text", features) or _only(spec, "text", texts, features)
        if "task" in spec.options or not _is_labelled(spec, features, datasets):
            return windows(spec, "\n\n".join(row or "" for row in table[column]), reading())
        label, names = _label(spec, table, datasets)
        order = np.random.default_rng(0).permutation(len(table))  # as of images: they may be sorted by class
        chosen = table.select(order)
        return labelled(spec, list(chosen[column]), _classes(spec, chosen[label]), names, reading())
    image = image or _only(spec, "image", images or arrays, features)
    label, names = _label(spec, table, datasets)
    classes = _classes(spec, table[label])
    if not isinstance(features[image], datasets.Image):
        values = torch.from_numpy(np.stack([np.asarray(row) for row in table[image]]))
        values = values.float() if values.is_floating_point() else values
        known = len(names) if names else max(classes) + 1
        return Samples(spec.text, values, torch.tensor(classes), known, labels=names)
    column = table.cast_column(image, datasets.Image(decode=False))[image]
    return Images(spec.text, Rows(spec.text, column), classes, preparation(), names)


def _loaded(spec: DataSpec, datasets: Any) -> Any:
    """The data set, or its splits."""
    path = Path(spec.place).expanduser()
    config = spec.options.get("config")
    try:
        if path.is_dir() and {"dataset_dict.json", "state.json"} & {entry.name for entry in path.iterdir()}:
            return datasets.load_from_disk(str(path))
        if path.is_file():
            if path.suffix not in _BUILDERS:
                raise DataError(f"hf:FILE must be one of {', '.join(_BUILDERS)}, got {path}.")
            return datasets.load_dataset(_BUILDERS[path.suffix], data_files=str(path))
        if path.is_dir():
            return datasets.load_dataset(str(path), config)
        if path.is_absolute() or spec.place.startswith((".", "~")):
            raise DataError(f"there is no folder or file {path}. hf:PATH needs a data set there.")
        with hub_or_cache(spec.place) as offline:
            try:
                return datasets.load_dataset(spec.place, config)
            except Exception as error:  # as below, but offline the reason is known
                if not offline:
                    raise
                raise DataError(
                    f"there is no folder or file {spec.place}, {UNREACHABLE}. Connect, or name a data set on disk: "
                    "hf:PATH."
                ) from error
    except DataError:
        raise
    except Exception as error:  # datasets raises what it likes for files that are missing or wrong
        said = " ".join((str(error) or type(error).__name__).split())[:300].rstrip(".")
        raise DataError(f"{spec.text} must be a data set that `datasets` reads, but: {said}.") from error


def _split(spec: DataSpec, loaded: Any, split: Literal["train", "test"]) -> Any:
    if not isinstance(loaded, dict):
        if "split" in spec.options:
            raise DataError(f"{spec.place} has one split, without a name: leave out split={spec.options['split']}.")
        return loaded
    asked = spec.options.get("split")
    for name in (asked,) if asked else SPLITS[split]:
        if name in loaded:
            return loaded[name]
    if asked is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    raise DataError(
        f"{spec.place} must have the split {asked or ' or '.join(SPLITS[split])}, but has {', '.join(loaded)}. Name "
        f"one: {spec.text.partition(',split=')[0]},split={next(iter(loaded))}."
    )


def _named(spec: DataSpec, option: str, features: Any) -> str | None:
    """The column that an option names; DataError if there is none."""
    name = spec.options.get(option)
    if name is not None and name not in features:
        raise DataError(f"`{option}=` must name a column of {spec.place}, one of {_columns(features)}, got {name!r}.")
    return name


def _only(spec: DataSpec, option: str, names: list[str], features: Any) -> str:
    """The one column of a kind."""
    if len(names) != 1:
        several = f"several: {', '.join(names)}" if names else f"none among {_columns(features)}"
        raise DataError(
            f"{spec.place} must have one column for `{option}=`, but has {several}. Name it: {spec.text},{option}=NAME."
        )
    return names[0]


def _label(spec: DataSpec, table: Any, datasets: Any) -> tuple[str, tuple[str, ...] | None]:
    """The column of the classes, and their names if they have any."""
    features = table.features
    label = _named(spec, "label", features)
    if label is None:
        kinds = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
        whole = [name for name, kind in features.items() if str(getattr(kind, "dtype", "")).startswith(("int", "uint"))]
        usual = [name for name in whole if name in ("label", "labels", "target", "class", "y")]
        label = _only(spec, "label", kinds or usual or whole, features)
    kind = features[label]
    return label, tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else None


def _is_labelled(spec: DataSpec, features: Any, datasets: Any) -> bool:
    return "label" in spec.options or any(isinstance(kind, datasets.ClassLabel) for kind in features.values())


def _classes(spec: DataSpec, values: Any) -> list[int]:
    """The classes of all rows, as numbers from 0."""
    classes = list(values)
    wrong = [value for value in classes if not isinstance(value, int) or isinstance(value, bool) or value < 0]
    if wrong or not classes:
        got = f"got {wrong[0]!r}" if wrong else "got no rows"
        texts = any(isinstance(value, str) for value in wrong)
        hint = " Make classes of texts: dataset.class_encode_column." if texts else ""
        raise DataError(f"the labels of {spec.text} must be whole numbers from 0, {got}.{hint}")
    return classes


def _is_array(kind: Any, datasets: Any) -> bool:
    """Whether a column holds arrays of numbers."""
    if isinstance(kind, (datasets.Array2D, datasets.Array3D, datasets.Array4D)):
        return True
    nested = hasattr(kind, "feature")
    while hasattr(kind, "feature"):  # lists of lists
        kind = kind.feature
    return nested and str(getattr(kind, "dtype", "")).startswith(("float", "int", "uint"))


def _columns(features: Any) -> str:
    return ", ".join(
        f"{name} ({getattr(kind, 'dtype', None) or type(kind).__name__})" for name, kind in features.items()
    )
