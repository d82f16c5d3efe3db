"""Accelerate's loop in mixed precision on a schedule, with activation checkpointing of the whole model."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import resect
from resect.models.resnet import CifarResNet


def train(model: nn.Module, loader: DataLoader, epochs: int) -> nn.Module:
    """Train a model on 2 random blocks a step."""
    net = resect.unravel(model, next(iter(loader))[0][:2])
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with net.schedule(resect.schedules.FixedCount(2)) as scheduled:
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)  # what wraps forward() goes inside
        model.train()
        for _ in range(epochs):
            for images, classes in loader:
                logits = checkpoint(model, images, use_reentrant=False)  # computed again, on the same blocks
                accelerator.backward(F.cross_entropy(logits, classes))
                optimizer.step()
                optimizer.zero_grad()
    scheduled.fold()
    return accelerator.unwrap_model(model).eval()


def main() -> float:
    """Train a ResNet-8 on scikit-learn's digits."""
    torch.manual_seed(0)
    data = resect.load_samples("digits", split="train")
    model = CifarResNet(8, width=4, channels=1)
    trained = train(model, DataLoader(TensorDataset(data.inputs, data.targets), batch_size=64, shuffle=True), 2)
    test = resect.load_samples("digits")
    found = float((trained(test.inputs).argmax(1) != test.targets).float().mean())
    print(f"test error {found:.1%}")
    return found


if __name__ == "__main__":
    main()
