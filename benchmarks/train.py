"""Training on some of the blocks against training on all.

    python benchmarks/train.py [--quick] [--json] [--device cuda]

`keep-23-of-54`: seconds of ten steps of ResNet-110 on images of CIFAR-10's size (forward, backward, SGD with
momentum), with all blocks by the model itself, and with 23 random ones a step in `net.schedule(FixedCount(23))`.
`stochastic-depth`: the same with survival falling to 0.5, 40 of 54 blocks on average. Both sides have the same model,
batch, precision, memory format (channels last) and allocator (`resect.keep_freed_memory`). The two sides compute
different things, so `equal` compares one more step of the schedule, outputs and gradients, with the blocks called one
by one by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from _harness import Case, device, main, measure
from torch import Tensor
from torch.nn import functional as F

import resect
from resect.models.resnet import CifarResNet
from resect.network.schedules import FixedCount, StochasticDepth

SCHEDULES = {"keep-23-of-54": FixedCount(23), "stochastic-depth": StochasticDepth(0.5)}
WANTED = {"keep-23-of-54": 1.8}


class Training:
    """Ten steps at a time of one model, on the same images."""

    def __init__(self, name: str, batch: int, steps: int) -> None:
        resect.keep_freed_memory()
        torch.manual_seed(0)
        self.steps = steps
        self.model = CifarResNet(110).to(device()).to(memory_format=torch.channels_last)
        self.images = torch.randn(batch, 3, 32, 32).to(device()).to(memory_format=torch.channels_last)
        self.classes = torch.randint(0, 10, (batch,)).to(device())
        self.net = resect.unravel(self.model, self.images[:2])
        self.scheduled = self.net.schedule(SCHEDULES[name])
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        self.model.train()

    def full(self) -> None:
        """All blocks, by the model itself."""
        for _ in range(self.steps):
            self.step()

    def some(self) -> None:
        """The blocks of the schedule."""
        with self.scheduled:
            self.full()

    def step(self) -> Tensor:
        """Forward, backward and the optimizer's step; the logits before it."""
        with torch.autocast(device().type, torch.bfloat16):
            logits = self.model(self.images)
        self.optimizer.zero_grad()
        F.cross_entropy(logits.float(), self.classes).backward()
        self.optimizer.step()
        return logits

    def difference(self) -> float:
        """Between one more step of the schedule and the same blocks called by hand: outputs and gradients."""
        self.optimizer.param_groups[0]["lr"] = 0.0
        with self.scheduled:
            logits = self.step()
        found = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        self.optimizer.zero_grad()
        with torch.autocast(device().type, torch.bfloat16):
            x = self.model.stem(self.images)
            for i, block in enumerate(self.model.blocks):
                x = block(x) if i in self.scheduled.running else block.sc(x)
            expected = self.model.fc(F.relu(self.model.bn(x)).mean((2, 3)))
        F.cross_entropy(expected.float(), self.classes).backward()
        wanted = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        if wanted.keys() != found.keys():
            return float("inf")
        gaps = [(wanted[name] - found[name]).abs().max() for name in wanted]
        return float(torch.stack([*gaps, (logits - expected).detach().float().abs().max()]).max())


def run_case(name: str, quick: bool) -> Iterator[dict[str, Any]]:
    """The one row of a case."""
    batch, steps, pairs = (32, 4, 3) if quick else (128, 10, 5)
    training = Training(name, batch, steps)
    case = Case(
        name,
        baseline=training.full,
        resect=training.some,
        warm=training.full,
        difference=lambda full, some: training.difference(),
        wanted=None if quick else WANTED.get(name),  # of batches of 128
        sizes={"network": "ResNet-110", "images": batch, "steps": steps, "dtype": "bfloat16"},
    )
    yield measure(case, pairs)


if __name__ == "__main__":
    main(__file__, "Training", list(SCHEDULES), run_case)
