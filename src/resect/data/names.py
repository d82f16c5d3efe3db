"""What the text of a data spec says, before anything is read."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from resect.errors import LIKE, SpecError, require_text

_TEXT = ("tokenizer", "window", "stride", "task", "seed")
_OPTIONS = {  # of each kind; those in _NUMBERS are whole numbers of at least so much
    "digits": (),
    "cifar10": (),
    "npz": (),
    "folder": ("split", "size", "classes"),
    "hf": ("split", "config", "image", "label", "size", "text", *_TEXT),
    "text": _TEXT,
    "py": (),
}
_HELD = {  # by those kinds that take no options
    "digits": "images of one channel, (N, 1, 8, 8)",
    "cifar10": "images of three channels, (N, 3, 32, 32)",
    "npz": "what the file's arrays hold",
    "py": "what the function returns",
}
_NUMBERS = {"size": 1, "window": 1, "stride": 1, "seed": 0}
KINDS = tuple(_OPTIONS)
SPLITS = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}  # what they are called
_PREDICTED = ("next-token", "masked-token")
KNOWN = "digits, cifar10:DIR, npz:FILE, folder:DIR, hf:PATH, text:FILE or py:pkg.mod:factory"
_FILES = {
    ".npz": "npz", ".npy": "npz", ".txt": "text", ".md": "text", ".parquet": "hf", ".csv": "hf", ".jsonl": "hf",
    ".arrow": "hf",
}  # fmt: skip


@dataclass(frozen=True)
class DataSpec:
    """The parts of a data spec: "hf:PATH,split=test,size=32" has a kind, a place and options.

    Attributes:
        text: the whole.
        place: a file, a folder, a name on the Hub, or a function.
    """

    text: str
    kind: str
    place: str
    options: Mapping[str, str]

    def number(self, name: str) -> int | None:
        """An option that is a whole number; None where it is not given."""
        return int(self.options[name]) if name in self.options else None


def parse_data_spec(spec: str) -> DataSpec:
    """The parts of a data spec.

    Raises:
        SpecError: the text is none, or has an option that its kind does not take.
    """
    own = "Samples of your own are resect.Samples, or (inputs, targets) batches."
    require_text("a data spec", spec, "digits", own)
    _require_no_options(spec)
    kind, _, rest = spec.partition(":")
    whole = {"digits": spec == "digits", "cifar10": True, "py": ":" in rest}.get(kind, bool(rest))
    if kind not in KINDS or not whole:
        raise SpecError(f"unknown data spec {spec!r}.{_hint(spec)} Known are {KNOWN.replace(' or ', ' and ')}.")
    place, options = rest, {}
    while _OPTIONS[kind] and (last := re.fullmatch(r"(.+),(\w+)=([^,]*)", place, re.DOTALL)):
        place, name, options[name] = last[1], last[2], last[3]
        _require_option(spec, kind, name, last[3])
    return DataSpec(spec, kind, place, options)


def _require_no_options(spec: str) -> None:
    """Raise SpecError if options follow on a kind that takes none; a path may look like that."""
    given = re.fullmatch(r"((\w+)(?::.+?)?),(\w+=[^,]*(?:,\w+=[^,]*)*)", spec, re.DOTALL)
    if given and given[2] in _HELD and not os.path.exists(spec.partition(":")[2]):
        raise SpecError(
            f"{given[2]} takes no options, got {given[3]!r} in {spec!r}: its samples are {_HELD[given[2]]}. Give "
            f"{given[1]}. How pixels are normalised, `normalize` says; folder:, hf: and text: take options."
        )


def _require_option(spec: str, kind: str, name: str, value: str) -> None:
    if name not in _OPTIONS[kind]:
        close = difflib.get_close_matches(name, _OPTIONS[kind], n=1, cutoff=LIKE)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise SpecError(f"{kind}: takes the options {', '.join(_OPTIONS[kind])}, got {name!r} in {spec!r}.{hint}")
    least = _NUMBERS.get(name)
    if least is not None and (not re.fullmatch(r"\d{1,9}", value) or int(value) < least):
        raise SpecError(f"`{name}=` of {kind}: must be a whole number of at least {least}, got {value!r} in {spec!r}.")
    if name == "task" and value not in _PREDICTED:
        raise SpecError(f"`task=` of {kind}: must be one of {', '.join(_PREDICTED)}, got {value!r} in {spec!r}.")
    if not value:
        raise SpecError(f"`{name}=` of {kind}: must have a value, got none in {spec!r}.")


def require_data_spec(spec: str) -> None:
    """Raise SpecError unless the text is that of a data spec."""
    parse_data_spec(spec)


def _hint(spec: str) -> str:
    """What may be meant by a spec that is none."""
    kind, _, rest = spec.partition(":")
    if kind == "digits":
        meant = "digits"
    elif Path(spec).suffix in _FILES:
        place = rest if rest and kind.isalpha() and not Path(spec).exists() else spec  # behind a scheme that is none
        meant = f"{_FILES[Path(spec).suffix]}:{place}"
    elif os.path.isdir(spec):  # which takes text that can be no path
        meant = f"{_folder_kind(spec)}:{spec}"
    elif close := difflib.get_close_matches(kind.lower().replace("-", ""), KINDS, n=1, cutoff=LIKE):
        meant = f"{close[0]}:{rest}".removesuffix(":") if close[0] != spec else ""
    else:
        meant = f"py:{spec}" if re.fullmatch(r"[a-z_][\w.]*:[a-z_]\w*", spec, re.IGNORECASE) else ""
    return f" Did you mean {meant}?" if meant else ""


def _folder_kind(folder: str) -> str:
    """The kind of data that a folder looks like."""
    names = os.listdir(folder)
    if any(name.endswith("-00000-of-00001.parquet") for name in names):
        return "cifar10"
    saved = {"dataset_info.json", "dataset_dict.json", "state.json"} & set(names)
    return "hf" if saved or any(name.endswith((".parquet", ".csv", ".jsonl")) for name in names) else "folder"
