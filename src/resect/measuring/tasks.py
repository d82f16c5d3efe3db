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
from torch.nn import functional as F

from resect.errors import DataError, InputError
from resect.graph.outputs import IGNORED, logits_of, outputs_in_words
from resect.measuring import embeddings
from resect.measuring.meaning import Meaning, require_task
from resect.measuring.metrics import chance_error, check_targets, class_error, cross_entropy, over_positions, positions

PerSample = Callable[[Any, Tensor], Tensor]


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

    Example:
        >>> huber = resect.Task("huber", nn.HuberLoss(reduction="none"))
        >>> resect.lesion(net, data, plan, task=huber)
    """

    name: str
    loss: PerSample
    error: PerSample | None = None
    rate: bool = False
    output: str | None = None
    _own: bool = field(default=True, kw_only=True, repr=False)
    _scored: Callable[[Any, str | None], Any] = field(default=logits_of, kw_only=True, repr=False)
    _predict: PerSample | None = field(default=None, kw_only=True, repr=False)
    _outcome: str = field(default="sample", kw_only=True, repr=False)
    _words: tuple[str, str] = field(default=("error", "loss"), kw_only=True, repr=False)

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
        return None if self._own else f"{self.name}:{self.output or ''}{getattr(self.loss, 'keywords', '')}"

    @property
    def classes(self) -> bool:
        """Whether outputs are logits of classes, of which one is right."""
        return self.loss is cross_entropy

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the task has."""
        has = {"error": self.error, "loss": True, "agreement": self._predict, "kl": self.classes}
        return tuple(name for name, there in has.items() if there)

    def meaning(self, targets: Tensor) -> Meaning:
        """Error and loss in words."""
        error, loss = self._words
        outcome = "token" if self.classes and targets.ndim == 2 and self._outcome == "sample" else self._outcome
        loss = self.name if self._own else loss
        return Meaning(self.name, error if self.error else "", loss, self.rate and self.error is not None, outcome)

    @property
    def whole(self) -> bool:
        """Whether the loss of a sample depends on the others of its batch, which then cannot be cut."""
        return self.name == "contrastive"

    def scored(self, outputs: Any) -> Any:
        """What the functions are given; logits of classes with the classes last."""
        if self._own and self.output is None:
            return outputs
        return self._scored(outputs, self.output)

    def outcomes(self, outputs: Any, targets: Tensor) -> tuple[Tensor | None, Tensor]:
        """Error and loss of every sample, (B,) float32 each.

        Raises:
            DataError: shapes or classes do not fit, or a function of one's own gives something else.
        """
        scored = self.checked(outputs, targets)
        error = self.error and one_each("the error", self._called(self.error, scored, targets), targets).float()
        if error is not None and self.rate and self._own and not bool(((error == 0) | (error == 1)).all()):
            raise DataError(f"the error of {self.name} must be 0 or 1, as it is a rate. Make its Task with rate=False.")
        return error, one_each("the loss", self.loss_of(scored, targets), targets).float()

    def loss_of(self, scored: Any, targets: Tensor) -> Tensor:
        """The loss of what `checked` gives; DataError if a function of one's own fails."""
        return self._called(self.loss, scored, targets)

    def _called(self, function: PerSample, scored: Any, targets: Tensor) -> Tensor:
        try:
            values = function(scored, targets)
            each = self._own and isinstance(values, Tensor) and values.ndim > 1 and len(values) == len(targets)
            return values.reshape(len(targets), -1).mean(1) if each else values  # of torch's losses, one a number
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            if not self._own:
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
        assert self._predict is not None, "metrics that the task lacks are refused"
        return self._predict(self.scored(outputs), targets)

    def weights(self, targets: Tensor) -> Tensor:
        """How many outcomes each sample has, (B,) float32."""
        return positions(targets) if self.rate and not self._own else targets.new_ones(len(targets)).float()

    def chance(self, targets: np.ndarray) -> float | None:
        """The error of the best answer that does not look at the inputs; None where there is no such answer.

        Always the commonest class, of each label its commoner state, and of a regression each value's median.
        """
        if self.classes:
            return chance_error(targets)
        flat = targets.reshape(len(targets), -1)
        if self.name == "multi-label":
            present = np.ma.masked_equal(flat, IGNORED).mean(0)
            return float(np.minimum(present, 1 - present).mean())
        if self.name == "regression":
            return float(np.abs(flat - np.median(flat, axis=0)).mean())
        return None


def one_each(what: str, values: Any, targets: Tensor) -> Tensor:
    """Values of a function of one's own, (B,); DataError unless it gives one a sample."""
    if not isinstance(values, Tensor) or values.shape != targets.shape[:1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        mean = " Of torch's losses, give reduction='none'." if got == () else ""
        raise DataError(f"{what} must return one value a sample, a tensor ({len(targets)},), got {got}.{mean}")
    return values


def _classes_last(outputs: Any, output: str | None) -> Tensor:
    return logits_of(outputs, output).movedim(1, -1)


def _alike(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs in the shape of the targets, where only a dimension of one output is in the way."""
    for shaped in (outputs, *(outputs.squeeze(i) for i in (1, -1) if outputs.ndim > 1), outputs[..., None]):
        if shaped.shape == targets.shape:
            return shaped if shaped.dtype == torch.float64 else shaped.float()
    raise DataError(
        f"the targets must have the shape of the model's outputs, {tuple(outputs.shape)}, got {tuple(targets.shape)}."
    )


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of the counted values of every sample, (B,), in their dtype."""
    counted = counted.reshape(len(counted), -1)
    return (values.reshape(counted.shape) * counted).sum(1) / counted.sum(1).clamp_min(1)


def _label_error(logits: Tensor, targets: Tensor) -> Tensor:
    return over_positions((_alike(logits, targets) > 0) != (targets > 0.5), targets)


def _label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    logits, counted = _alike(logits, targets), targets != IGNORED
    wanted = targets.to(logits.dtype) * counted
    return _mean(F.binary_cross_entropy_with_logits(logits, wanted, reduction="none"), counted)


def _absolute(outputs: Tensor, targets: Tensor) -> Tensor:
    return (_alike(outputs, targets) - targets).abs().reshape(len(targets), -1).mean(1)


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (_alike(outputs, targets) - targets).square().reshape(len(targets), -1).mean(1)


def _class(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.argmax(-1).to(torch.int32)


def _labels(logits: Tensor, targets: Tensor) -> Tensor:
    return (_alike(logits, targets) > 0).to(torch.int32)


def _contrastive(temperature: float) -> Task:
    if not isinstance(temperature, (int, float)) or not temperature > 0:
        raise InputError(f"`temperature` must be above 0, got {temperature!r}.")
    return Task(
        "contrastive",
        partial(embeddings.loss, temperature=float(temperature)),
        embeddings.error,
        rate=True,
        _own=False,
        _scored=embeddings.embeddings_of,
        _predict=embeddings.nearest,
        _outcome="query",
        _words=("error", "InfoNCE, nats"),
    )


CLASSIFICATION = Task(
    "classification",
    cross_entropy,
    class_error,
    rate=True,
    _own=False,
    _predict=_class,
    _words=("error", "cross-entropy, nats"),
)
_NAMED = {
    **{name: replace(CLASSIFICATION, name=name) for name in ("classification", "next-token", "masked-token")},
    "segmentation": replace(CLASSIFICATION, name="segmentation", _scored=_classes_last, _outcome="pixel"),
    "multi-label": Task(
        "multi-label",
        _label_loss,
        _label_error,
        rate=True,
        _own=False,
        _predict=_labels,
        _outcome="label",
        _words=("error", "binary cross-entropy, nats"),
    ),
    "regression": Task(
        "regression",
        _squared,
        _absolute,
        _own=False,
        _outcome="value",
        _words=("mean absolute error", "mean squared error"),
    ),
}
