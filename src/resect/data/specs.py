"""Data specs: `digits`, `cifar10[:DIR]`, `npz:FILE`, `folder:DIR`, `hf:PATH`, `text:FILE`, `py:pkg.mod:factory`."""

from __future__ import annotations

import inspect
import io
import os
import traceback
import zipfile
import zlib
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch

from resect.data.folders import read_folder
from resect.data.hub import read_hub
from resect.data.images import AS_THEY_ARE, Preparation, require_channels
from resect.data.loaders import Again, Loader
from resect.data.names import DataSpec, parse_data_spec
from resect.data.normalization import Normalization, normalized
from resect.data.samples import Samples, SampleSet, classes_of
from resect.data.streams import Images
from resect.data.text import Reading, read_text
from resect.errors import DataError, SpecError

Split = Literal["train", "test"]
DIGITS_TEST = 500
_ROWS = 256  # of the batches in which samples of a user's own are read
OWN = {"digits": "0.5/0.5", "cifar10": "0.4914,0.4822,0.4465/0.2470,0.2435,0.2616"}  # how specs normalise pixels


class Model(Protocol):
    """What a model says of its inputs: files can be made to fit any."""

    def preparation(self) -> Preparation | None:
        """How images become its inputs; None if it takes any."""

    def reading(self) -> Reading | None:
        """How it reads text; None if it says nothing of that."""


def load_samples(
    spec: str,
    *,
    split: Split = "test",
    limit: int | None = None,
    seed: int = 0,
    normalize: str | None = None,
    card: Normalization | None = None,
    model: Model | None = None,
) -> SampleSet:
    """Load a data set by its spec; images of a folder are read when they are needed.

    Pixels become inputs as (pixel - mean) / std, of pixels scaled to [0, 1] (of digits, 16 is white). By default
    `digits` takes 0.5/0.5, which gives [-1, 1], `cifar10` the mean and deviation of its training images,
    0.4914,0.4822,0.4465/0.2470,0.2435,0.2616, and image files those of the model's configuration. A network that was
    trained on other inputs errs more: say on which.

    Args:
        spec: `digits` (scikit-learn's 1,797 handwritten digits, (N, 1, 8, 8), shipped with it), `cifar10:DIR` (a
            folder with the Hub's parquet files, (N, 3, 32, 32); `cifar10` takes the folder of RESECT_CIFAR10),
            `npz:FILE` (arrays `inputs` and `targets`), `folder:DIR` (images in DIR/class/, or in DIR/train/class/ and
            DIR/val/class/), `hf:PATH` (a data set of Hugging Face's `datasets`: a folder, a file, or a name on the
            Hub), `text:FILE` (windows of tokens), or `py:pkg.mod:factory` (a function that returns (inputs, targets)
            tensors, Samples, a DataLoader or a list of batches). Options follow with commas:
            `folder:DIR,split=val,size=64`. Floats of npz files and factories are left as they are by default; images of
            bytes (uint8) are scaled to [0, 1].
        split: "test" or "train"; an npz file, a text and a factory have one split.
        limit: only the first samples.
        seed: of the split of `digits`. Weights belong to the seed that they were trained with, shipped ones to 0:
            among the test samples of another seed are some that they have seen.
        normalize: "MEAN/STD", each one number or one a channel with commas between; "none" (pixels in [0, 1]),
            "imagenet", "card", or None (or "auto") for the card's if there is one, else the data spec's own.
        card: how the card of the model says that its training normalised.
        model: what says to which size its images are scaled, and which tokens it reads; None for images as they are,
            and bytes.

    Raises:
        SpecError: the spec, or `normalize`, is unknown or incomplete.
        DataError: the data are missing, damaged, empty or malformed.
    """
    parts, own = parse_data_spec(spec), OWN.get(spec.partition(":")[0])
    if parts.kind == "digits":
        samples: SampleSet = _digits(split, seed)
    elif parts.kind == "cifar10":
        samples = _cifar10(spec, parts.place, split, limit)
    elif parts.kind == "npz":
        samples = _npz(spec, Path(parts.place))
    elif parts.kind == "folder":
        samples = read_folder(parts, split, _preparation(parts, model))
    elif parts.kind == "hf":
        samples = read_hub(parts, split, lambda: _preparation(parts, model), lambda: _reading(model))
    elif parts.kind == "text":
        samples = read_text(parts, _reading(model))
    else:
        samples = _factory(spec, parts.place)
    samples = samples.limited(limit)
    if isinstance(samples, Images):
        return normalized(samples, samples.preparation.normalization or "none", normalize, card)
    _require_channels_first(samples)
    if isinstance(samples, Samples) and samples.inputs.dtype == torch.uint8 and samples.inputs.ndim == 4:
        samples, own = replace(samples, inputs=samples.inputs.float() / 255), "none"
    return normalized(samples, own, normalize, card)


def _preparation(parts: DataSpec, model: Model | None) -> Preparation:
    """How image files become pixels: as the model says, to the size that the spec names."""
    preparation = (model and model.preparation()) or AS_THEY_ARE
    require_channels(preparation, parts.text)
    size = parts.number("size")
    return preparation if size is None else preparation.sized(size)


def _reading(model: Model | None) -> Reading | None:
    return None if model is None else model.reading()


def _require_channels_first(samples: SampleSet) -> None:
    """Raise DataError for what looks like (N, H, W, C), as NumPy's users have images; a network would take it."""
    shape = (len(samples), *samples.shape)
    if len(shape) == 4 and shape[1] == shape[2] > 3 and shape[3] in (1, 3):
        raise DataError(
            f"the images of {samples.name} must be (N, C, H, W), but {shape} looks like (N, H, W, C). Transpose them: "
            "inputs.transpose(0, 3, 1, 2)."
        )


def _digits(split: Split, seed: int) -> Samples:
    from sklearn.datasets import load_digits

    raw = load_digits()
    order = np.random.default_rng(seed).permutation(len(raw.images))
    chosen = order[:DIGITS_TEST] if split == "test" else order[DIGITS_TEST:]
    pixels = torch.from_numpy(raw.images[chosen]).float().unsqueeze(1) / 16  # 17 grey levels, 0 to 16
    return Samples("digits", pixels, torch.from_numpy(raw.target[chosen]).long(), 10)


def _cifar10(spec: str, folder: str, split: Split, limit: int | None) -> Samples:
    """The first images of a split; only those are decoded."""
    folder = folder or os.environ.get("RESECT_CIFAR10", "")
    if not folder:
        raise SpecError(
            f"{spec!r} must name the folder with CIFAR-10's parquet files: cifar10:DIR. Or set RESECT_CIFAR10 to it."
        )
    path = Path(folder) / f"{split}-00000-of-00001.parquet"
    if not path.is_file():
        missing = f"file {path}" if path.parent.is_dir() else f"folder {path.parent}"
        raise DataError(
            f"there is no {missing}. cifar10:DIR needs a folder with the parquet files of the Hub's cifar10, "
            f"{path.name} among them."
        )
    try:
        table = pd.read_parquet(path)
        table = table if limit is None else table.head(max(limit, 1))
        images = np.stack([_decode(image["bytes"]) for image in table["img"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} must be whole and have the columns img.bytes and label of the Hub's cifar10: {error}"
        ) from error
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return Samples(spec, pixels, torch.from_numpy(table["label"].to_numpy(np.int64, copy=True)), 10)


def _decode(image: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def _npz(spec: str, path: Path) -> Samples:
    if path.suffix == ".npy":
        raise DataError(f"{path} is one array. npz:FILE needs two, `inputs` and `targets`: np.savez(file, inputs=...).")
    if not path.is_file():
        raise DataError(f"there is no file {path}. npz:FILE needs a file with the arrays `inputs` and `targets`.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if missing := {"inputs", "targets"} - set(arrays):
                raise DataError(
                    f"{path} must be an npz file with the arrays `inputs` and `targets`, but has no `{min(missing)}`; "
                    f"it has {', '.join(arrays) or 'none'}."
                )
            inputs, targets = torch.from_numpy(arrays["inputs"]), torch.from_numpy(arrays["targets"])
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        why = "it is none" if "pickle" in str(error) else error  # numpy advises to trust it
        raise DataError(f"{path} must be an npz file with the arrays `inputs` and `targets`: {why}") from error
    if inputs.is_floating_point():
        inputs = inputs.float()
    return Samples(spec, inputs, targets, classes_of(targets))


def _factory(spec: str, target: str) -> SampleSet:
    result = call_factory(spec, target)
    if isinstance(result, (Samples, Images, Loader)):
        return result
    if isinstance(result, tuple) and len(result) == 2 and all(isinstance(t, torch.Tensor) for t in result):
        return Samples(spec, *result, classes_of(result[1]))
    if callable(getattr(result, "batches", None)):  # samples of the user's own
        return Loader(spec, Again(result.batches, _ROWS), own=result)
    if isinstance(result, (str, bytes, tuple)) or not hasattr(result, "__iter__"):
        raise DataError(
            f"{spec} must return (inputs, targets) tensors, Samples, a DataLoader or a list of batches, got "
            f"{type(result).__name__}."
        )
    return Loader(spec, result)


def call_factory(spec: str, target: str, **arguments: Any) -> Any:
    """Import `pkg.mod:factory`, also from the working directory, and call it.

    Raises:
        SpecError: there is no such function, or it does not take these arguments.
    """
    import sys

    name, _, attribute = target.partition(":")
    added = "" not in sys.path
    if added:
        sys.path.insert(0, "")
    try:
        factory = getattr(import_module(name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(f"{spec} must name a function that can be imported, pkg.mod:factory: {error}.") from error
    finally:
        if added:
            sys.path.remove("")
    if not callable(factory):
        raise SpecError(f"{spec} must name a function, got {type(factory).__name__}.")
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise SpecError(f"{spec} does not take these arguments: {error}.") from error
    except ValueError:  # some built-in callables have no signature
        pass
    try:
        return factory(**arguments)
    except Exception as error:  # a factory of the user's raises what it likes; the message says where
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise SpecError(
            f"{spec} must return without an error, but {type(error).__name__} came from "
            f"{Path(place.filename).name}:{place.lineno}: {error}."
        ) from error
