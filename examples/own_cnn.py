# %% [markdown]
"""
# A network of your own

Twenty lines of PyTorch, trained on scikit-learn's handwritten digits for a few seconds. resect finds its residual
blocks without being told how it is written, deletes each of them, and splits its gradient by path length.
"""

# %%
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import resect

Path("out").mkdir(exist_ok=True)
torch.manual_seed(0)


# %%
class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.convolution(self.norm(x).relu())


class Network(nn.Module):
    def __init__(self, width: int = 16, depth: int = 6):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(depth)))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).relu().mean((2, 3)))


# %%
train, test = (resect.load_samples("digits", split=split) for split in ("train", "test"))
model = Network()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
for _ in range(8):
    for chosen in torch.randperm(len(train)).split(64):
        optimizer.zero_grad()
        cross_entropy(model(train.inputs[chosen]), train.targets[chosen]).backward()
        optimizer.step()
model.eval()

# %% [markdown]
# One batch of inputs is all that it takes. `check` runs both on 1, 2, 3 and all samples and compares every bit.

# %%
net = resect.unravel(model, train.inputs[:2])
print(net.blocks.summary())
print("bit-identical to the model:", net.check(test.inputs).identical)

# %% [markdown]
# Every block is deleted alone; every difference comes with a 95 % interval, paired over the test samples.

# %%
lesions = resect.lesion(net, test, resect.plans.single(net))
print(lesions.summary())
lesions.plot().figure.savefig("out/own_cnn_lesions.png")
lesions.table[["name", "error", "damage", "damage_low", "damage_high"]]

# %% [markdown]
# Six blocks are 2^6 paths. The shares of their lengths in the gradient are exact: they sum to 1.

# %%
spectrum = resect.path_spectrum(net, test.limited(100))
print(spectrum.summary())
spectrum.plot().figure.savefig("out/own_cnn_paths.png")
