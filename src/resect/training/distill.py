"""What a network learns of another one's outputs, beside the targets or in their place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from resect.graph.outputs import IGNORED
from resect.measuring.tasks import Task


@dataclass(frozen=True)
class Teacher:
    """A network whose outputs are learned, where they are logits of classes.

    Attributes:
        outputs: inputs, as the network in training takes them -> what the teacher returns.
        weight: of the divergence from its outputs, above 0 to 1; the loss of the targets has the rest, and is left out
            at 1.
        temperature: by which the logits of both are divided; the divergence is multiplied by its square, so that
            gradients keep their size.

    Source: G. Hinton, O. Vinyals and J. Dean, Distilling the Knowledge in a Neural Network (2015), section 2.
    """

    outputs: Callable[[Tensor], Any]
    weight: float
    temperature: float

    def loss(self, task: Task, inputs: Tensor, outputs: Any, targets: Tensor, own: Tensor) -> Tensor:
        """The mean loss of a batch, over the positions whose target is not ignored.

        Args:
            outputs: of the network in training.
            own: its loss of the targets.
        """
        with torch.no_grad():
            wanted = task.scored(self.outputs(inputs))
        divergence = self._divergence(task.scored(outputs), wanted, targets)
        return divergence if self.weight == 1 else self.weight * divergence + (1 - self.weight) * own

    def _divergence(self, logits: Tensor, wanted: Tensor, targets: Tensor) -> Tensor:
        counted = targets.reshape(-1) != IGNORED
        student, teacher = (
            F.log_softmax(given.float().reshape(len(counted), -1) / self.temperature, -1) for given in (logits, wanted)
        )
        each = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
        return self.temperature**2 * (each * counted).sum() / counted.sum().clamp_min(1)
