"""A compiled model on a schedule: it trains as it is written, as its graph changes from step to step."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import resect
from resect.models.resnet import CifarResNet


def train(model: nn.Module, loader: DataLoader, epochs: int) -> None:
    """Train a model, at first on 1 random block a step, in the end on all."""
    net = resect.unravel(model, next(iter(loader))[0][:2])
    compiled = torch.compile(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with net.schedule(resect.schedules.Progressive(1, epochs * len(loader))):
        compiled.train()
        for _ in range(epochs):
            for images, classes in loader:
                loss = F.cross_entropy(compiled(images), classes)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def main() -> float:
    """Train a ResNet-8 on scikit-learn's digits."""
    torch.manual_seed(0)
    data = resect.load_samples("digits", split="train")
    model = CifarResNet(8, width=4, channels=1)
    train(model, DataLoader(TensorDataset(data.inputs, data.targets), batch_size=64, shuffle=True), 2)
    test = resect.load_samples("digits")
    found = float((model.eval()(test.inputs).argmax(1) != test.targets).float().mean())
    print(f"test error {found:.1%}")
    return found


if __name__ == "__main__":
    main()
