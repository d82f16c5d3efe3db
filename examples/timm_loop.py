"""A loop of one's own on a schedule: a timm model, AdamW, mixup, averaged weights, and the best of them kept."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.models.convmixer import ConvMixer
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import resect


def error(model: nn.Module, loader: DataLoader) -> float:
    """The part of the samples that a model gets wrong."""
    with torch.no_grad():
        wrong = [model(images).argmax(1) != classes for images, classes in loader]
    return float(torch.cat(wrong).float().mean())


def train(model: nn.Module, loader: DataLoader, tests: DataLoader, epochs: int, best: Path) -> float:
    """Train a model; keep the averaged weights that err least, and return how much they err."""
    net = resect.unravel(model, next(iter(loader))[0][:2])
    ema = ModelEmaV3(model, decay=0.9)  # a copy, made before the schedule is opened
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    mixup, criterion = Mixup(mixup_alpha=0.1, num_classes=10), SoftTargetCrossEntropy()
    least = 1.0
    with net.schedule(resect.schedules.StochasticDepth(0.8)) as scheduled:
        for _ in range(epochs):
            model.train()
            for images, classes in loader:  # a DataLoader reads what does not fit into memory
                inputs, targets = mixup(images, classes)
                loss = criterion(model(inputs), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                ema.update(model)
            averaged = scheduled.fold(copy.deepcopy(ema.module)).eval()
            if (now := error(averaged, tests)) < least:
                least = now
                torch.save(averaged.state_dict(), best)
    return least


def main() -> float:
    """Train a small ConvMixer on scikit-learn's digits."""
    torch.manual_seed(0)
    model = ConvMixer(24, 4, kernel_size=3, patch_size=2, in_chans=1, num_classes=10)
    data = {split: resect.load_samples("digits", split=split) for split in ("train", "test")}
    sets = {split: TensorDataset(samples.inputs, samples.targets) for split, samples in data.items()}
    loader = DataLoader(sets["train"], batch_size=64, shuffle=True, drop_last=True)
    with tempfile.TemporaryDirectory() as folder:
        found = train(model, loader, DataLoader(sets["test"], batch_size=500), 3, Path(folder) / "best.pt")
    print(f"test error {found:.1%}")
    return found


if __name__ == "__main__":
    main()
