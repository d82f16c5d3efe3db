"""`export`: write a pruned network for others, load it in a fresh process, and only then keep it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from resect.errors import ExportError, closest
from resect.files import whole, whole_folder
from resect.graph.decisions import Decision
from resect.network.arrangement import Arrangement
from resect.network.requirements import require_blocks
from resect.network.unraveled import Unraveled
from resect.pruning.export import (
    hugging_face,
    programs,
    recipes,
    resect_models,
    timm_models,
    torchvision_models,
)
from resect.pruning.export.card import Origin, write_card
from resect.pruning.export.fresh import Proof
from resect.pruning.export.removed import ANY_NETWORK

Track = Callable[[str, float], Callable[[float], None]]


@dataclass(frozen=True)
class Needs:
    """Packages, and the extra of resect that brings them."""

    extra: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Format:
    """One kind of target.

    Attributes:
        said: what it is.
        express: raises ExportError, before anything is written, if a network cannot be written so.
        write: writes a network to a path, and returns what is to be said of it.
        prove: loads it in a fresh process and compares.
        load: of a folder, which gets a model card: the lines of Python that load what lies there.
        models: the kind of spec of the only models that it can hold; None for those of any kind.
        needs: packages, and the extra of resect that brings them.
        recipe: it holds no weights, but says what another tool takes out of a checkpoint that is there.
        suffixes: of a file, those by which it is known, the usual one first.
    """

    said: str
    express: Callable[[Unraveled, Arrangement], object]
    write: Callable[[Unraveled, Arrangement, Path, Origin], tuple[str, ...]]
    prove: Callable[[Unraveled, Arrangement, Path], Proof]
    load: Callable[[Path], str] | None = None
    models: str | None = None
    needs: Needs = Needs("", ())
    recipe: bool = False
    suffixes: tuple[str, ...] = ()

    @property
    def folder(self) -> bool:
        """Whether the path is a folder."""
        return self.load is not None


def _alike(
    write: Callable[[Unraveled, Arrangement, Path], tuple[str, ...]],
) -> Callable[[Unraveled, Arrangement, Path, Origin], tuple[str, ...]]:
    """A writer of what is the same wherever the network comes from."""
    return lambda net, arrangement, path, origin: write(net, arrangement, path)


FORMATS = {
    "hf": Format(
        "a folder for from_pretrained of transformers, without the removed layers",
        hugging_face.shorter,
        _alike(hugging_face.write),
        partial(hugging_face.prove, kind="hf"),
        hugging_face.load,
        models="hf",
    ),
    "hf-zero": Format(
        "the same with all layers, the removed branches set to zero: loads anywhere, exact, not faster",
        hugging_face.zeros,
        _alike(hugging_face.write_zeroed),
        partial(hugging_face.prove, kind="hf-zero"),
        hugging_face.load,
        models="hf",
    ),
    "timm": Format(
        "a folder for create_model of timm, without the removed layers",
        timm_models.shorter,
        _alike(timm_models.write_timm),
        timm_models.prove_timm,
        timm_models.load_timm,
        models="timm",
    ),
    "torchvision": Format(
        "a folder with weights for a constructor of torchvision, without the removed layers",
        torchvision_models.shorter,
        _alike(torchvision_models.write_torchvision),
        torchvision_models.prove_torchvision,
        torchvision_models.load_torchvision,
        models="torchvision",
    ),
    "resect": Format(
        "weights for a shorter network of resect:, for --checkpoint",
        resect_models.shorter,
        resect_models.write_resect,
        resect_models.prove_resect,
        models="resect",
        suffixes=(".safetensors",),
    ),
    "torch": Format(
        "the stand-alone network as an archive of torch.export",
        lambda net, arrangement: None,
        _alike(programs.write_torch),
        programs.prove_torch,
        suffixes=(".pt2",),
    ),
    "onnx": Format(
        "the stand-alone network as ONNX",
        programs.require_small,
        _alike(programs.write_onnx),
        programs.prove_onnx,
        needs=Needs("onnx", ("onnx", "onnxscript", "onnxruntime")),
        suffixes=(".onnx",),
    ),
    "mergekit": Format(
        "a passthrough recipe of mergekit",
        recipes.sliced,
        _alike(recipes.write_mergekit),
        recipes.prove_recipe,
        models="hf",
        recipe=True,
        suffixes=(".yaml", ".yml"),
    ),
    "gguf-layers": Format(
        "the numbers for llama-quantize --prune-layers",
        recipes.numbered,
        _alike(recipes.write_gguf_layers),
        recipes.prove_recipe,
        models="hf",
        recipe=True,
        suffixes=(".txt",),
    ),
}
"""What can be written, by its kind."""


@dataclass(frozen=True)
class Exported:
    """What was written and read again.

    Attributes:
        kind, path: as they were asked for.
        difference: the largest between the outputs of what a fresh process loaded and those of the pruned network; 0
            where they have the same bits; None for a recipe, which another tool follows.
        notes: what else is to be said of it, in sentences.
    """

    kind: str
    path: Path
    difference: float | None
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """How it compares with the pruned network."""
        if self.difference is None:
            return " ".join(["A recipe, which another tool follows; nothing was run.", *self.notes])
        how = "to the bit" if self.difference == 0 else f"up to {self.difference:.2g}"
        return " ".join([f"Loaded in a fresh process, it computes what the pruned network does, {how}.", *self.notes])


def export(
    net: Unraveled,
    arrangement: Sequence[Decision] | str,
    target: str,
    *,
    origin: Origin | None = None,
    track: Track = lambda what, total: lambda amount: None,
) -> Exported:
    """Write a pruned network for others; what was written is loaded in a fresh process and compared before it is kept.

    Args:
        net: an unravelled network.
        arrangement: what runs, e.g. `net.intact.without(2, 3)`.
        target: "KIND:PATH", KIND one of `FORMATS`: "hf:DIR", "timm:DIR", "torch:FILE.pt2", "onnx:FILE.onnx".
        origin: why these blocks and by which command, for the model card.
        track: opens bars that show the progress.

    Raises:
        ExportError: the format cannot express the network, a package is missing, or what was written computes something
            else; nothing is left behind then.
        ArrangementError: the arrangement cannot run on this network.

    Example:
        >>> resect.export(net, net.intact.without("model.layers.3.self_attn", "model.layers.3.mlp"), "hf:pruned")
    """
    require_blocks(net)
    require_target(target)
    kind, path = parsed(target)
    arrangement, form, origin = net.arrangement(arrangement), FORMATS[kind], origin or Origin()
    form.express(net, arrangement)
    advance = track(f"export {kind}", 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (whole_folder if form.folder else whole)(path) as place:
        notes = form.write(net, arrangement, place, origin)
        advance(1)
        proof = form.prove(net, arrangement, place)
        exported = Exported(kind, path, proof.difference, (*notes, *proof.notes))
        if form.load is not None:
            write_card(place, net, arrangement, exported.summary(), form.load(place), origin)
        advance(1)
    return exported


def require_target(target: str, model: str | None = None) -> None:
    """What can be said of a target before a network is loaded.

    Args:
        model: the spec of the network; what a factory returns is not known yet.

    Raises:
        ExportError: it is none, something lies there, it is called like another format's file, a package is missing,
            or it can never hold such a model.
    """
    kind, path = parsed(target)
    _require_named(kind, path)
    _require_free(kind, path)
    form, own = FORMATS[kind], model.partition(":")[0] if model else "py"
    if missing := [name for name in form.needs.packages if find_spec(name) is None]:
        raise ExportError(
            f"{kind} needs {missing[0]}, which is not installed: pip install 'resect[{form.needs.extra}]'."
        )
    if form.models is not None and own not in (form.models, "py"):
        raise ExportError(f"{kind} can only write models of {form.models}:, but {model} is none. {ANY_NETWORK}")


def require_targets(targets: Sequence[str], model: str | None = None, out: Path | None = None) -> None:
    """The same of several targets, each at a place of its own.

    Args:
        out: a run folder, which is none of them.
    """
    places: set[Path] = set()
    for target in targets:
        require_target(target, model)
        path = parsed(target)[1]
        if path.absolute() in places:
            raise ExportError(f"`target` must have another path each time, got {path} twice.")
        if out is not None and path.absolute() == out.absolute():
            raise ExportError(f"`target` must have another path than the run folder, got {path} for both.")
        places.add(path.absolute())


def require_expressible(net: Unraveled, arrangement: Arrangement, targets: Sequence[str]) -> None:
    """Raise ExportError if a target cannot hold an arrangement."""
    for target in targets:
        FORMATS[parsed(target)[0]].express(net, arrangement)


def require_weights(targets: Sequence[str], model: str) -> None:
    """Raise ExportError if one of the targets cannot hold weights that are not those of the model, a spec."""
    own = model.partition(":")[0]
    for kind in (parsed(target)[0] for target in targets):
        if FORMATS[kind].recipe:
            fit = {None, own} if own != "py" else {form.models for form in FORMATS.values()}
            others = ", ".join(name for name, form in FORMATS.items() if not form.recipe and form.models in fit)
            raise ExportError(
                f"{kind} is a recipe for the original checkpoint, which has not the healed weights. Write them as one "
                f"of {others}."
            )


def parsed(target: str) -> tuple[str, Path]:
    """Kind and path of a target; ExportError if it is none."""
    kind, colon, rest = target.partition(":") if isinstance(target, str) else ("", "", "")
    if kind not in FORMATS or not rest:
        known = ", ".join(f"{name}:PATH" for name in FORMATS)
        raise ExportError(f"`target` must be one of {known}, got {target!r}.{closest(kind, FORMATS) if colon else ''}")
    return kind, Path(rest)


def _require_named(kind: str, path: Path) -> None:
    """Raise ExportError if a path has the suffix of another format's files, as others would take it for one."""
    form, suffix = FORMATS[kind], path.suffix.lower()
    other = next((name for name, other in FORMATS.items() if suffix in other.suffixes), kind)
    if other != kind:
        own = form.suffixes[0] if form.suffixes else ""
        raise ExportError(
            f"{kind} writes a {f'{own} file' if own else 'folder'}, but {path} is called like a file of {other}. Give "
            f"{kind}:{path.with_suffix(own)}, or {other}:{path}."
        )


def _require_free(kind: str, path: Path) -> None:
    """Raise ExportError if something lies where a target is to be written."""
    folder = FORMATS[kind].folder
    if path.exists() and path.is_dir() != folder:
        raise ExportError(f"{kind} writes a {'folder' if folder else 'file'}, but {path} is none. Choose another path.")
    if path.is_file():
        raise ExportError(f"{path} must be new, but is a file already. Choose another path, or remove it.")
    if folder and path.is_dir() and any(path.iterdir()):
        raise ExportError(f"{path} must be new, or an empty folder, but holds files. Choose another path.")
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        why = "cannot be written to" if existing.is_dir() else "is a file"
        raise ExportError(f"{path} must be a place that can be written to, but {existing} {why}. Choose another path.")
