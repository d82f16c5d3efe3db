"""Tasks: what targets mean, and how far a network's outputs are off them, sample by sample.

Letters: B samples, C classes or labels, L positions, D dimensions of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resect.errors import DataError, InputError
from resect.graph.outputs import logits_of, outputs_in_words
from resect.measuring import elementwise, embeddings
from resect.measuring.meaning import Meaning, require_task
from resect.measuring.metrics import chance_error, check_targets, class_error, cross_entropy, divergence, positions

PerSample = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Kind:
    """What is known of a task that has a name, beside its functions.

    Attributes:
        error, loss: what they are called, and their units.
        outcome: what is right or wrong, in the singular; of classes of positions it is a token.
        scored: (outputs, which of them) -> what the functions are given.
        predict: (scored, targets) -> what the network names, integers as the targets; None for nothing.
        divergence: (scored, scored of the intact network, targets) -> (B,), how far the two answers are apart, in nats.
        chance: targets -> the error of the best answer that does not look at the inputs; None where there is no such.
        whole: the loss of a sample depends on the others of its batch, which then cannot be cut.
    """

    error: str = "error"
    loss: str = "cross-entropy, nats"
    outcome: str = "sample"
    scored: Callable[[Any, str | None], Any] = logits_of
    predict: PerSample | None = None
    divergence: Callable[[Any, Any, Tensor], Tensor] | None = None
    chance: Callable[[np.ndarray], float | None] | None = None
    whole: bool = False


@dataclass(frozen=True)
class Task:
    """What a network is asked to do. Those that have names are `Task.named`; others are made of functions.

    Attributes:
        name: of the task.
        loss: (outputs, targets) -> (B,) floating-point, differentiable; what the model returns, or `output` of it. Of
            (B, ...), as torch's losses with reduction="none" give it, the mean of each sample is taken.
        error: (outputs, targets) -> (B,), the larger the worse; None for none.
        rate: the error is 0 or 1, so that its mean is an error rate.
        output: which of several outputs is meant, by name or place ("aux", "1"); None for `logits` or the first.
        kind: what is known of a task that has a name; None for one that is made of functions.

    Example:
        >>> huber = resect.Task("huber", nn.HuberLoss(reduction="none"))
        >>> resect.lesion(net, data, plan, task=huber)
    """

    name: str
    loss: PerSample
    error: PerSample | None = None
    rate: bool = False
    output: str | None = None
    kind: Kind | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        functions = callable(self.loss) and (self.error is None or callable(self.error))
        if not isinstance(self.name, str) or not functions:
            raise InputError(
                "a Task must have a name and functions (outputs, targets) -> one value a sample, got "
                f"Task({self.name!r}, {self.loss!r}, {self.error!r})."
            )

    @classmethod
    def named(cls, text: str, *, temperature: float = 0.05) -> Task:
        """A task by its name, one of `classification`, `next-token`, `masked-token`, `multi-label`, `segmentation`,
        `regression` and `contrastive`, with the output that it scores behind a colon: "segmentation:aux".

        Args:
            temperature: by which `contrastive` divides cosines.

        Raises:
            InputError: there is no such task.
        """
        name, _, output = (require_task(text) or "classification").partition(":")
        task = _contrastive(temperature) if name == "contrastive" else _NAMED[name]
        return replace(task, output=output or None)

    @property
    def key(self) -> str | None:
        """What tells the task from others in stores; None for one of functions, which nothing can tell."""
        return None if self.kind is None else f"{self.name}:{self.output or ''}{getattr(self.loss, 'keywords', '')}"

    @property
    def classes(self) -> bool:
        """Whether outputs are logits of classes, of which one is right."""
        return self.loss is cross_entropy

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the task has."""
        kind = self.kind or Kind()
        has = {"error": self.error, "loss": True, "agreement": kind.predict, "kl": kind.divergence}
        return tuple(name for name, there in has.items() if there)

    def meaning(self, targets: Tensor) -> Meaning:
        """Error and loss in words."""
        kind = self.kind or Kind(loss=self.name)
        outcome = "token" if self.classes and targets.ndim == 2 and kind.outcome == "sample" else kind.outcome
        error = kind.error if self.error else ""
        return Meaning(self.name, error, kind.loss, self.rate and self.error is not None, outcome)

    @property
    def whole(self) -> bool:
        """Whether the loss of a sample depends on the others of its batch, which then cannot be cut."""
        return self.kind is not None and self.kind.whole

    def scored(self, outputs: Any) -> Any:
        """What the functions are given; logits of classes with the classes last."""
        if self.kind is None:
            return outputs if self.output is None else logits_of(outputs, self.output)
        return self.kind.scored(outputs, self.output)

    def outcomes(self, outputs: Any, targets: Tensor) -> tuple[Tensor | None, Tensor]:
        """Error and loss of every sample, (B,) float32 each.

        Raises:
            DataError: shapes or classes do not fit, or a function of one's own gives something else.
        """
        scored = self.checked(outputs, targets)
        error = self.error and one_each("the error", self._called(self.error, scored, targets), targets).float()
        if error is not None and self.rate and self.kind is None and not bool(((error == 0) | (error == 1)).all()):
            raise DataError(f"the error of {self.name} must be 0 or 1, as it is a rate. Make its Task with rate=False.")
        return error, one_each("the loss", self.loss_of(scored, targets), targets).float()

    def loss_of(self, scored: Any, targets: Tensor) -> Tensor:
        """The loss of what `checked` gives; DataError if a function of one's own fails."""
        return self._called(self.loss, scored, targets)

    def _called(self, function: PerSample, scored: Any, targets: Tensor) -> Tensor:
        try:
            values = function(scored, targets)
            several = isinstance(values, Tensor) and values.ndim > 1 and len(values) == len(targets)
            return values.reshape(len(targets), -1).mean(1) if several and self.kind is None else values
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            if self.kind is not None:
                raise
            said = " ".join(str(error).split())
            raise DataError(
                f"the task {self.name} must run on the model's outputs, {outputs_in_words(scored)}, and targets "
                f"{tuple(targets.shape)}, but it says: {said}"
            ) from error

    def checked(self, outputs: Any, targets: Tensor) -> Any:
        """`scored`, if the targets fit it; DataError if not, which names the other outputs."""
        scored = self.scored(outputs)
        if self.classes:
            try:
                check_targets(scored, targets)
            except DataError as error:
                if isinstance(outputs, Tensor):
                    raise
                raise DataError(
                    f"{error} The model returns {outputs_in_words(outputs)}: `task` may name another, such as "
                    f"{self.name}:NAME."
                ) from None
        return scored

    def predictions(self, outputs: Any, targets: Tensor) -> Tensor:
        """What the network names, integers as the targets; of tasks that have the metric "agreement"."""
        assert self.kind and self.kind.predict, "metrics that the task lacks are refused"
        return self.kind.predict(self.scored(outputs), targets)

    def divergence(self, outputs: Any, intact: Any, targets: Tensor) -> Tensor:
        """How far outputs are from those of the intact network, (B,) in nats; of tasks that have the metric "kl"."""
        assert self.kind and self.kind.divergence, "metrics that the task lacks are refused"
        return self.kind.divergence(self.scored(outputs), self.scored(intact), targets)

    def weights(self, targets: Tensor) -> Tensor:
        """How many outcomes each sample has, (B,) float32."""
        return positions(targets) if self.rate and self.kind else targets.new_ones(len(targets)).float()

    def chance(self, targets: np.ndarray) -> float | None:
        """The error of the best answer that does not look at the inputs; None where there is no such answer.

        Always the commonest class, of each label its commoner state, and of a regression each value's median.
        """
        return self.kind.chance(targets) if self.kind and self.kind.chance else None


def one_each(what: str, values: Any, targets: Tensor) -> Tensor:
    """Values of a function of one's own, (B,); DataError unless it gives one a sample."""
    if not isinstance(values, Tensor) or values.shape != targets.shape[:1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        mean = " Of torch's losses, give reduction='none'." if got == () else ""
        raise DataError(f"{what} must return one value a sample, a tensor ({len(targets)},), got {got}.{mean}")
    return values


def _classes_last(outputs: Any, output: str | None) -> Tensor:
    return logits_of(outputs, output).movedim(1, -1)


def _class(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.argmax(-1).to(torch.int32)


def _contrastive(temperature: float) -> Task:
    if not isinstance(temperature, (int, float)) or not temperature > 0:
        raise InputError(f"`temperature` must be above 0, got {temperature!r}.")
    loss = partial(embeddings.loss, temperature=float(temperature))
    kind = replace(_EMBEDDINGS, divergence=partial(embeddings.divergence, temperature=float(temperature)))
    return Task("contrastive", loss, embeddings.error, rate=True, kind=kind)


_CLASSES = Kind(predict=_class, divergence=divergence, chance=chance_error)
_EMBEDDINGS = Kind(
    loss="InfoNCE, nats",
    outcome="query",
    scored=embeddings.embeddings_of,
    predict=embeddings.nearest,
    whole=True,
)
_LABELS = Kind(
    loss="binary cross-entropy, nats",
    outcome="label",
    predict=elementwise.labels_named,
    chance=elementwise.label_chance,
)
_VALUES = Kind(
    error="mean absolute error",
    loss="mean squared error",
    outcome="value",
    chance=elementwise.absolute_chance,
)
CLASSIFICATION = Task("classification", cross_entropy, class_error, rate=True, kind=_CLASSES)
_NAMED = {
    "classification": CLASSIFICATION,
    "next-token": replace(CLASSIFICATION, name="next-token"),
    "masked-token": replace(CLASSIFICATION, name="masked-token"),
    "segmentation": replace(
        CLASSIFICATION, name="segmentation", kind=replace(_CLASSES, outcome="pixel", scored=_classes_last)
    ),
    "multi-label": Task("multi-label", elementwise.label_loss, elementwise.label_error, rate=True, kind=_LABELS),
    "regression": Task("regression", elementwise.squared_error, elementwise.absolute_error, kind=_VALUES),
}
