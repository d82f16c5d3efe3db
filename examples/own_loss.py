# %% [markdown]
"""
# A loss of your own

Whoever reads amounts of money does not mind every error alike: a 3 read as an 8 costs 5. The network is trained to be
off by little, blocks are deleted to see by how much it is off without them, and the gradient of just that is split by
path length.
"""

# %%
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import resect

Path("out").mkdir(exist_ok=True)
torch.manual_seed(0)


# %%
def expected_distance(logits: Tensor, targets: Tensor) -> Tensor:
    """By how much a digit drawn from the network's probabilities is off, on average: (B,)."""
    distances = (torch.arange(10) - targets[:, None]).abs()
    return (logits.softmax(1) * distances).sum(1)


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


# %%
train, test = (resect.load_samples("digits", split=split) for split in ("train", "test"))
layers = [Residual(nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)) for _ in range(6)]
model = nn.Sequential(nn.Flatten(), *layers, nn.LayerNorm(64), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
for _ in range(10):
    for chosen in torch.randperm(len(train)).split(64):
        optimizer.zero_grad()
        logits, targets = model(train.inputs[chosen]), train.targets[chosen]
        (cross_entropy(logits, targets) + expected_distance(logits, targets).mean()).backward()
        optimizer.step()
model.eval()

# %% [markdown]
# A task is a loss, and an error if there is one: functions of outputs and targets with one value a sample. Changes get
# 95 % intervals over samples, the same resamples for all blocks.


# %%
def distance(logits: Tensor, targets: Tensor) -> Tensor:
    """By how much the digit that the network names is off: (B,)."""
    return (logits.argmax(1) - targets).abs().float()


net = resect.unravel(model, train.inputs[:2])
task = resect.Task("amounts", expected_distance, distance)
lesions = resect.lesion(net, test, resect.plans.single(net), task=task)
print(lesions.summary())
worst = lesions.table.loc[lesions.table["loss"].idxmax()]
print(
    f"The network expects to be off by {lesions.intact_loss:.3f}; without {worst['name']} by {worst['loss']:.3f}, "
    f"{worst['loss_change']:+.3f} [{worst['loss_change_low']:+.3f}, {worst['loss_change_high']:+.3f}]."
)
lesions.table

# %% [markdown]
# The gradient of the same loss, by path length.

# %%
spectrum = resect.path_spectrum(net, test, task=task)
print(spectrum.summary())
spectrum.plot().figure.savefig("out/own_loss.png")
