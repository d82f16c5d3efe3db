# %% [markdown]
"""
# Accelerate's loop on a schedule

In mixed precision, with activation checkpointing of the whole model: it computes a call again on the blocks that the
call drew. What wraps `forward()` goes inside the schedule, or before `unravel`.
"""

# %%
import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import resect
from resect.models.resnet import CifarResNet

torch.manual_seed(0)

# %%
train, test = (resect.load_samples("digits", split=split) for split in ("train", "test"))
loader = DataLoader(TensorDataset(train.inputs, train.targets), batch_size=64, shuffle=True)
model = CifarResNet(8, width=4, channels=1)

# %% [markdown]
# Two random blocks of three in every step; `fold` makes the model alone, for good, what it is in eval mode.

# %%
net = resect.unravel(model, train.inputs[:2])
accelerator = Accelerator(mixed_precision="bf16", cpu=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
with net.schedule(resect.schedules.FixedCount(2)) as scheduled:
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    prepared.train()
    for _ in range(2):
        for images, classes in loader:
            logits = checkpoint(prepared, images, use_reentrant=False)
            accelerator.backward(cross_entropy(logits, classes))
            optimizer.step()
            optimizer.zero_grad()
scheduled.fold()

# %%
trained = accelerator.unwrap_model(prepared).eval()
test_error = float((trained(test.inputs).argmax(1) != test.targets).float().mean())
print(f"test error {test_error:.1%}")
