"""Which entries of the model's lists of layers an arrangement removes: what a checkpoint of other tools can express."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from torch import nn

from resect.errors import ExportError
from resect.graph.decisions import Decision, Variant
from resect.network.arrangement import Arrangement
from resect.network.unraveled import Unraveled

ANY_NETWORK = "`torch` writes the stand-alone network of any arrangement."
_OF_TRANSFORMERS = ("hf", "mergekit", "gguf-layers")


def other_ways(kind: str) -> str:
    """Which formats take what this one cannot express, in a sentence."""
    if kind not in _OF_TRANSFORMERS:
        return ANY_NETWORK
    return (
        "`hf-zero` writes a checkpoint of transformers with removed branches set to zero (loads anywhere, exact, not "
        "faster), `torch` the stand-alone network (faster)."
    )


@dataclass(frozen=True)
class Shortened:
    """A list of layers (ModuleList or Sequential) of which some are removed.

    Attributes:
        path: of the list in the model, e.g. "model.layers".
        names: of its n entries, "0", "1", ...
        kept: positions of those that stay, in order.
    """

    path: str
    names: tuple[str, ...]
    kept: tuple[int, ...]

    @property
    def removed(self) -> tuple[int, ...]:
        """Positions of those that go."""
        return tuple(i for i in range(len(self.names)) if i not in self.kept)

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.removed))} of the {len(self.names)} in {self.path}"


def gone_blocks(arrangement: Arrangement, kind: str) -> frozenset[int]:
    """The slots that run nothing.

    Raises:
        ExportError: other slots do not run their own branches.
    """
    gone = frozenset(i for i, decision in enumerate(arrangement) if decision in _GONE)
    for slot, decision in enumerate(arrangement):
        if slot not in gone and decision != slot:
            raise ExportError(
                f"{kind} can only express blocks that are removed, but slot {slot} runs {decision}. {ANY_NETWORK}"
            )
    if not gone:
        raise ExportError("`arrangement` must remove a block to be exported, but it is the intact network.")
    return gone


_GONE: tuple[Decision, ...] = (None, Variant.BYPASS)


def shortened_lists(net: Unraveled, arrangement: Arrangement, kind: str) -> list[Shortened]:
    """The lists of layers that lose entries, whose blocks are all removed; outermost ones first.

    Raises:
        ExportError: a layer loses some of its blocks and keeps others, or a list loses all that it has.
    """
    gone, names = gone_blocks(arrangement, kind), net.blocks.names
    lost: defaultdict[str, set[int]] = defaultdict(set)
    for slot in sorted(gone):
        entry = next((e for e in entries(net.model, names[slot]) if blocks_in(e, names) <= gone), None)
        if entry is None:
            raise _half(net, arrangement, gone, slot, kind)
        path, _, name = entry.rpartition(".")
        lost[path].add(_children(net.model, path).index(name))
    lists = []
    for path, positions in lost.items():
        children = _children(net.model, path)
        kept = tuple(i for i in range(len(children)) if i not in positions)
        if not kept:
            raise ExportError(f"{kind} must keep a layer of {path}, but all {len(children)} are removed.")
        lists.append(Shortened(path, children, kept))
    return lists


def require_gone(
    net: Unraveled, arrangement: Arrangement, lists: Sequence[Shortened], kept: Set[str], kind: str
) -> None:
    """Raise ExportError if the pruned network still reads weights of removed layers, other than those in `kept`."""
    reads = {read for program in net.programs.fold(arrangement) for step in program.steps for read in step.reads}
    names = sorted(name for key, name in net.programs.parameter_keys.items() if key in reads and name not in kept)
    for entry in lists:
        for i in entry.removed:
            if name := next((n for n in names if n.startswith(f"{entry.path}.{entry.names[i]}.")), None):
                raise ExportError(
                    f"{kind} cannot express this network: without the blocks of layer {i} of {entry.path} it still "
                    f"reads {name}, as where a projection or a normalisation stands on the skip, or later layers "
                    f"share keys and values. A search keeps to what {kind} can express with --fits {kind}. "
                    f"{other_ways(kind)}"
                )


def _children(model: nn.Module, path: str) -> tuple[str, ...]:
    return tuple(name for name, _ in model.get_submodule(path).named_children())


def entries(model: nn.Module, name: str) -> Iterator[str]:
    """The entries of lists in which a block stands, outermost first."""
    parts = name.partition("#")[0].split(".")
    for depth in range(1, len(parts) + 1):
        owner = model.get_submodule(".".join(parts[: depth - 1]))
        if isinstance(owner, (nn.ModuleList, nn.Sequential)):
            yield ".".join(parts[:depth])


def blocks_in(entry: str, names: tuple[str, ...]) -> set[int]:
    """The blocks of an entry of a list."""
    return {i for i, name in enumerate(names) if name == entry or name.startswith((f"{entry}.", f"{entry}#"))}


def _half(net: Unraveled, arrangement: Arrangement, gone: frozenset[int], slot: int, kind: str) -> ExportError:
    layer = arrangement.layers[slot]
    stays = [b.name for b in net.blocks if b.index not in gone and arrangement.layers[b.index] == layer]
    rest = f", but {stays[0]} of the same layer stays" if stays else ", which is no layer of its own"
    return ExportError(
        f"{kind} can only express whole layers that are removed: block {slot} ({net.blocks[slot].name}) goes{rest}. "
        f"`resect prune --unit layer` removes whole layers. {other_ways(kind)}"
    )
