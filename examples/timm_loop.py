# %% [markdown]
"""
# A loop of one's own on a schedule

A timm model with AdamW, mixup and averaged weights, of which the best are kept.
"""

# %%
import copy
from pathlib import Path

import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.models.convmixer import ConvMixer
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import resect

Path("out").mkdir(exist_ok=True)
torch.manual_seed(0)


# %%
def error(model: nn.Module, loader: DataLoader) -> float:
    """The part of the samples that a model gets wrong."""
    with torch.no_grad():
        wrong = [model(images).argmax(1) != classes for images, classes in loader]
    return float(torch.cat(wrong).float().mean())


samples = [resect.load_samples("digits", split=split) for split in ("train", "test")]
train, test = (TensorDataset(split.inputs, split.targets) for split in samples)
loader, tests = DataLoader(train, batch_size=64, shuffle=True, drop_last=True), DataLoader(test, batch_size=500)
model = ConvMixer(24, 4, kernel_size=3, patch_size=2, in_chans=1, num_classes=10)

# %% [markdown]
# Block l of L survives a step with probability 1 - 0.2 l/L; `fold` corrects a copy of the averaged weights for that.

# %%
net = resect.unravel(model, next(iter(loader))[0][:2])
ema = ModelEmaV3(model, decay=0.9)  # a copy, made before the schedule is opened
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
mixup, criterion = Mixup(mixup_alpha=0.1, num_classes=10), SoftTargetCrossEntropy()
least = 1.0
with net.schedule(resect.schedules.StochasticDepth(0.8)) as scheduled:
    for _ in range(3):
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
            torch.save(averaged.state_dict(), "out/best.pt")

# %%
model.load_state_dict(torch.load("out/best.pt", weights_only=True))
test_error = error(model.eval(), tests)
print(f"test error {test_error:.1%}")
