# %% [markdown]
"""
# A compiled model on a schedule

It may be compiled before or inside. While the schedule is open it runs as it is written, as its graph is another in
every step.
"""

# %%
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import resect
from resect.models.resnet import CifarResNet

torch.manual_seed(0)

# %%
train, test = (resect.load_samples("digits", split=split) for split in ("train", "test"))
loader = DataLoader(TensorDataset(train.inputs, train.targets), batch_size=64, shuffle=True)
model = CifarResNet(8, width=4, channels=1)

# %% [markdown]
# At first one random block in every step, in the end all three.

# %%
net = resect.unravel(model, train.inputs[:2])
compiled = torch.compile(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
epochs = 2
with net.schedule(resect.schedules.Progressive(1, epochs * len(loader))):
    compiled.train()
    for _ in range(epochs):
        for images, classes in loader:
            loss = cross_entropy(compiled(images), classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

# %%
test_error = float((model.eval()(test.inputs).argmax(1) != test.targets).float().mean())
print(f"test error {test_error:.1%}")
