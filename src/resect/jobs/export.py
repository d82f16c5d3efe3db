"""`resect export`: which network, without which blocks, by the words of a command or the record of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resect.data.normalization import Normalization, kept_of
from resect.errors import InputError
from resect.jobs.plan_file import read_plan
from resect.jobs.source import Source
from resect.runs.command import command_line
from resect.runs.record import Record, finished

if TYPE_CHECKING:
    from resect.network.arrangement import Arrangement
    from resect.network.unraveled import Unraveled
    from resect.pruning.export.card import Origin


@dataclass(frozen=True)
class ExportAsked:
    """What is exported.

    Attributes:
        source: the network.
        without: blocks that go, by number or name.
        arrangement: what runs, as text, instead.
        record: of the run that says both.
        command: does it again.
        healed: the folder of the run whose healed weights are exported; None for those of the source.
    """

    source: Source
    without: tuple[int | str, ...] | None
    arrangement: str | None
    record: Record | None
    command: str
    healed: Path | None = None

    @classmethod
    def of(cls, subject: str, targets: tuple[str, ...], options: Mapping[str, Any]) -> ExportAsked:
        """From what the command line gives.

        Args:
            subject: a run folder or a model spec.
            options: those given: `without`, `arrangement`, `plan`, and those of a source.

        Raises:
            InputError: nothing says what goes, or two things do.
            ExportError: a target cannot hold the healed weights of a run.
        """
        _require_subject(subject)
        record = Record.read(subject) if finished(Path(subject)) else None
        own = {name: options[name] for name in ("without", "arrangement", "plan") if name in options}
        healed = _healed(record, Path(subject), own, targets)
        rest = {name: value for name, value in options.items() if name not in own}
        if record is not None:
            source, own = _source(record, rest), own or _removed(record, subject)
        else:
            source = Source(subject, **rest)
        if len(own) != 1:
            got = " and ".join(f"`{name}`" for name in own) or "none"
            raise InputError(f"one of `without`, `arrangement` and `plan` must say what goes, got {got}.")
        if "plan" in own:
            own = {"arrangement": read_plan(own["plan"])}
        command = command_line("export", [subject, *targets], options)
        return cls(source, own.get("without"), own.get("arrangement"), record, command, healed)

    def network(self) -> Unraveled:
        """The network; that of a run as it was built for the run's samples, with the weights that it healed."""
        from resect.network.entrance import unravel

        if self.source.data is None:
            return unravel(self.source.part(self.source.load()), batch_dim=self.source.batch_dim)
        net = self.source.unravel()[0]
        if self.healed is not None and self.record is not None:
            from resect.jobs.healed import put_back

            put_back(net.model, self.healed, self.record.found["healing"]["weights"])
        return net

    def chosen(self, net: Unraveled) -> Arrangement:
        """The arrangement of a network."""
        return net.arrangement(self.arrangement) if self.arrangement else net.intact.without(*(self.without or ()))

    def origin(self) -> Origin:
        """What the model card says."""
        from resect.pruning.export.card import Origin

        measured = str(self.record.found.get("summary", "")) if self.record else ""
        commands = [self.record.command] if self.record else []
        return Origin(self.source.model, "\n    ".join([*commands, self.command]), measured, self._normalization())

    def _normalization(self) -> dict[str, Any] | None:
        """How pixels become inputs, as records have it; None if nothing says so."""
        source, kept = self.source, self.record.found.get("normalization") if self.record else None
        if kept is not None:
            return dict(kept)
        asked = None if source.normalize in (None, "card") else Normalization.parse(str(source.normalize))
        return kept_of(asked or source.card())


def _require_subject(subject: str) -> None:
    """Raise InputError for what can be neither a run nor a model: a path, where there is no run that is over."""
    if ":" not in subject and not finished(folder := Path(subject)) and (folder.exists() or folder.name != subject):
        why = "holds no finished run" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
        raise InputError(
            f"{subject!r} must be the folder of a finished run, or a model spec such as resect:resnet110, but {why}."
        )


def _healed(record: Record | None, folder: Path, own: Mapping[str, Any], targets: tuple[str, ...]) -> Path | None:
    """The folder, if its run healed what it cut.

    Raises:
        InputError: something else is to go.
        ExportError: a target cannot hold the healed weights.
    """
    if record is None or not record.found.get("healing"):
        return None
    if own:
        raise InputError(
            f"`{next(iter(own))}` says what goes, but {folder} holds a network that was healed without other blocks. "
            f"Leave it out, or name the model, {record.asked['model']}, whose weights are not healed."
        )
    from resect.pruning.export.formats import require_weights

    require_weights(targets, str(record.asked["model"]))
    return folder


def _source(record: Record, options: Mapping[str, Any]) -> Source:
    """The network of a run."""
    if options:
        raise InputError(f"`{next(iter(options))}` is an option of a model, but here a run names it. Leave it out.")
    return Source.of(record.asked)


def _removed(record: Record, folder: str) -> dict[str, Any]:
    """What a run removed.

    Raises:
        InputError: it removed nothing, or put something else in the place of blocks, which no format can hold.
    """
    if (removal := record.asked.get("removal", "zero")) != "zero":
        raise InputError(
            f"{folder} must hold a run that removed blocks, but its removal is {removal}, which no export can hold. "
            "Say what goes: --without or --arrangement."
        )
    if record.found.get("arrangement"):
        return {"arrangement": record.found["arrangement"]}
    if record.asked.get("without"):
        return {"without": tuple(record.asked["without"])}
    raise InputError(
        f"{folder} must hold a run that removed blocks, as `resect prune` and `resect lesion --without` do, but is "
        f"one of `resect {record.kind}`. Say what goes: --without or --arrangement."
    )
