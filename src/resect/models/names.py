"""What the text of a model spec says, before anything is built; and which weights are shipped."""

from __future__ import annotations

import difflib
import re
from importlib import resources

from resect.data.names import KINDS as DATA_KINDS
from resect.errors import LIKE, SpecError, closest, require_text

Value = str | int | float | bool
KINDS = ("resect", "torchvision", "timm", "hf", "py")
SPECIFIC = tuple(kind for kind in KINDS if kind not in DATA_KINDS)  # of models alone
WEIGHTS = resources.files("resect.models") / "weights"
SHIPPED = tuple(sorted(file.name.removesuffix(".json") for file in WEIGHTS.iterdir() if file.name.endswith(".json")))
_PARTS = re.compile(
    r"(?P<name>(?P<kind>resnet|highway)(?P<depth>\d+(?:\.\d+\.\d+)?)|vgg15)(?:-w(?P<width>\d+))?(?:-h(?P<hidden>\d+))?"
    r"(?:-x(?P<branches>\d+)|-b(?P<towers>\d+)-s(?P<merge>\d+))?"
    r"(?P<original>-original)?(?P<trained>-(?P<data>digits|cifar10)(?:-[a-z0-9-]+)?)?"
)
_OF_RESNETS = ("hidden", "branches", "towers", "original")
_NAMES = (
    "resnet20",
    "resnet56",
    "resnet110",
    "resnet110-original",
    "resnet56-x2",
    "resnet56-b2-s3",
    "resnet56-h8-b2-s3",
    "highway27",
    "vgg15",
    *SHIPPED,
)
_KNOWN = (
    "Known are resect:resnet110, resect:resnet110-w8 (width 8), resect:resnet18.5.13 (so many blocks in the three "
    "stages), resect:resnet110-h8 (8 channels inside the branches of "
    "the first stage), resect:resnet110-x2 (two branches a block, the network of twice the hidden width), "
    "resect:resnet110-b2-s3 (two towers, merged every three blocks), "
    "resect:resnet110-original, resect:highway27, resect:vgg15, those with weights "
    f"({', '.join(f'resect:{name}' for name in SHIPPED)}), torchvision:NAME, timm:NAME, hf:ID and py:pkg.mod:factory."
)
SHIPPED_FOR = ("digits", "cifar10")  # a ResNet-110, and a recipe


def require_model_spec(spec: str) -> None:
    """Raise SpecError unless the text is that of a model spec; names of other libraries are theirs to judge."""
    own = "A module of your own goes to resect.unravel; where a spec is needed, write a function that returns it: "
    require_text("a model spec", spec, "resect:resnet110", f"{own}'py:pkg.mod:function'.")
    kind, _, rest = spec.partition(":")
    if kind not in KINDS or not rest:
        raise _unknown(spec, kind)
    if kind == "resect":
        parts_of(spec)


def parts_of(spec: str) -> re.Match[str]:
    """The parts of a `resect:` spec: kind, depth, width, hidden, branches, towers, merge, original, trained and data.

    Raises:
        SpecError: there is no such network, or no such weights are shipped.
    """
    name = spec.removeprefix("resect:")
    parts = _PARTS.fullmatch(name)
    if not parts or (parts["kind"] != "resnet" and any(parts[name] for name in _OF_RESNETS)):
        raise _unknown(spec, "resect")
    if parts["trained"] is not None and name not in SHIPPED:
        bare = bare_name(name)
        raise SpecError(
            f"no weights are shipped for {spec}, only for {', '.join(SHIPPED)}. Train them with "
            f"`resect train {parts['data']} --model {bare} --out {name}.safetensors`, and load them with "
            f"`resect:{bare} --checkpoint {name}.safetensors`."
        )
    return parts


def depth_of(parts: re.Match[str]) -> int | tuple[int, ...]:
    """The depth that a spec says, or the blocks of each stage: (18, 5, 13) for resnet18.5.13."""
    numbers = tuple(map(int, parts["depth"].split(".")))
    return numbers if len(numbers) > 1 else numbers[0]


def bare_name(shipped: str) -> str:
    """The network of shipped weights: "resnet110" for "resnet110-cifar10-keep23"."""
    parts = _PARTS.fullmatch(shipped)
    return shipped.removesuffix(parts["trained"] or "") if parts else shipped


def is_shipped(spec: str) -> bool:
    """Whether a spec names a network that is shipped with its weights."""
    return spec.removeprefix("resect:") in SHIPPED


def control_for(data: str) -> str | None:
    """The spec of the plain network whose weights are shipped for a kind of data; None if there is none."""
    plain = (name for name in SHIPPED if name.startswith("vgg15-") and parts_of(name)["data"] == data)
    return next((f"resect:{name}" for name in plain), None)


def shipped_for(data: str) -> str | None:
    """The paper's network that is shipped for some data, if there is one."""
    kind = data.partition(":")[0]
    return f"resect:resnet110-{kind}" if kind in SHIPPED_FOR else None


def _unknown(spec: str, kind: str) -> SpecError:
    hint = ""
    if ":" not in spec and _PARTS.fullmatch(spec):
        hint = f" Did you mean resect:{spec}?"
    elif kind == "resect":
        hint = closest(spec, [f"resect:{name}" for name in _NAMES])
    elif kind in DATA_KINDS:
        hint = " That is a data spec."
    elif kind not in KINDS and (close := difflib.get_close_matches(kind, KINDS, n=1, cutoff=LIKE)):
        hint = f" Did you mean {close[0]}:?"
    return SpecError(f"unknown model spec {spec!r}.{hint} {_KNOWN}")
