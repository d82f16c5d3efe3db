"""`export`: write a pruned network for others, load it in a fresh process, and only then keep it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from resect.errors import ExportError, closest
from resect.files import whole, whole_folder
from resect.graph.decisions import Decision
from resect.network.arrangement import Arrangement
from resect.network.requirements import require_blocks
from resect.network.unraveled import Unraveled
from resect.pruning.export import hugging_face, image_models, programs, recipes
from resect.pruning.export.card import Origin, write_card
from resect.pruning.export.fresh import Proof

Track = Callable[[str, float], Callable[[float], None]]


@dataclass(frozen=True)
class Format:
    """One kind of target.

    Attributes:
        said: what it is.
        write: writes a network to a path, and returns what is to be said of it.
        prove: loads it in a fresh process and compares.
        folder: whether the path is a folder, which gets a model card.
        recipe: it holds no weights, but says what another tool takes out of a checkpoint that is there.
    """

    said: str
    write: Callable[[Unraveled, Arrangement, Path], tuple[str, ...]]
    prove: Callable[[Unraveled, Arrangement, Path], Proof]
    folder: bool = False
    recipe: bool = False


FORMATS = {
    "hf": Format(
        "a folder for from_pretrained of transformers, without the removed layers",
        hugging_face.write,
        partial(hugging_face.prove, kind="hf"),
        folder=True,
    ),
    "hf-zero": Format(
        "the same with all layers, the removed branches set to zero: loads anywhere, exact, not faster",
        hugging_face.write_zeroed,
        partial(hugging_face.prove, kind="hf-zero"),
        folder=True,
    ),
    "timm": Format(
        "a folder for create_model of timm, without the removed layers",
        image_models.write_timm,
        image_models.prove_timm,
        folder=True,
    ),
    "torch": Format(
        "the stand-alone network as an archive of torch.export", programs.write_torch, programs.prove_torch
    ),
    "mergekit": Format("a passthrough recipe of mergekit", recipes.write_mergekit, recipes.prove_recipe, recipe=True),
    "gguf-layers": Format(
        "the numbers for llama-quantize --prune-layers", recipes.write_gguf_layers, recipes.prove_recipe, recipe=True
    ),
    "onnx": Format("the stand-alone network as ONNX", programs.write_onnx, programs.prove_onnx),
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
    kind, path = parsed(target)
    arrangement, form, advance = net.arrangement(arrangement), FORMATS[kind], track(f"export {kind}", 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (whole_folder if form.folder else whole)(path) as place:
        notes = form.write(net, arrangement, place)
        advance(1)
        proof = form.prove(net, arrangement, place)
        exported = Exported(kind, path, proof.difference, (*notes, *proof.notes))
        if form.folder:
            write_card(place, net, arrangement, exported.summary(), origin or Origin())
        advance(1)
    return exported


def require_weights(targets: Sequence[str]) -> None:
    """Raise ExportError if one of the targets cannot hold weights that are not those of the model."""
    for kind in (parsed(target)[0] for target in targets):
        if FORMATS[kind].recipe:
            others = ", ".join(name for name, form in FORMATS.items() if not form.recipe)
            raise ExportError(
                f"{kind} is a recipe for the original checkpoint, which has not the healed weights. Write them as one "
                f"of {others}."
            )


def parsed(target: str) -> tuple[str, Path]:
    """Kind and path of a target; ExportError if it is none, or something else lies there."""
    kind, colon, rest = target.partition(":") if isinstance(target, str) else ("", "", "")
    if kind not in FORMATS or not rest:
        known = ", ".join(f"{name}:PATH" for name in FORMATS)
        raise ExportError(f"`target` must be one of {known}, got {target!r}.{closest(kind, FORMATS) if colon else ''}")
    path, folder = Path(rest), FORMATS[kind].folder
    if path.exists() and path.is_dir() != folder:
        raise ExportError(f"{kind} writes a {'folder' if folder else 'file'}, but {path} is none. Choose another path.")
    if path.is_file():
        raise ExportError(f"{path} must be new, but is a file already. Choose another path, or remove it.")
    if folder and path.is_dir() and any(path.iterdir()):
        raise ExportError(f"{path} must be new, or an empty folder, but holds files. Choose another path.")
    return kind, path
