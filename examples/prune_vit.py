# %% [markdown]
"""
# Pruning a vision transformer of timm

From scores to a smaller network in a file: what every block is worth, the network without the three that are worth
least, what that costs on images that took no part in the choice, a little more training, and the way to disk and back.
"""

# %%
from pathlib import Path

import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import resect

Path("out").mkdir(exist_ok=True)
torch.manual_seed(0)


# %%
def make() -> nn.Module:
    """A small vision transformer for 8x8 images: 4 layers, each with a block of attention and one of MLP."""
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, num_classes=10, embed_dim=48, depth=4, num_heads=3
    )


def fit(model: nn.Module, epochs: int, peak: float) -> nn.Module:
    """Train on the digits."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, epochs * -(-len(train) // 64))
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(train)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(train.inputs[chosen]), train.targets[chosen]).backward()
            optimizer.step()
            scheduler.step()
    return model.eval()


def error(model: nn.Module) -> float:
    """The part of the test images that a model gets wrong."""
    with torch.no_grad():
        return float((model(test.inputs).argmax(1) != test.targets).float().mean())


train, test = (resect.load_samples("digits", split=split) for split in ("train", "test"))
model = fit(make(), epochs=10, peak=4e-3)
net = resect.unravel(model, train.inputs[:2])
print(net.blocks.summary())
print("bit-identical to the model:", net.check(test.inputs[:50]).identical)

# %% [markdown]
# ## What every block is worth
# By the loss without it, and by the share of the gradient that passes through its branch, both on training images.

# %%
scores = resect.scores(net, train.limited(300), "loss_change", "share")
print(scores.summary())
scores.plot().figure.savefig("out/prune_vit.png")
scores.table

# %% [markdown]
# ## Without the least three
# `net.without` gives an ordinary module with copies of the parameters that are left. What it costs is paired with the
# intact network, image by image.

# %%
order = scores.table.sort_values("loss_change")["name"]
least = list(order[:3])
small = net.without(*least)
print(resect.lesion(net, test, resect.plans.explicit(net, net.intact.without(*least))).summary())
sizes = [sum(parameter.numel() for parameter in each.parameters()) for each in (model, small)]
print(f"Without {', '.join(least)}: {sizes[1]:,} of {sizes[0]:,} parameters, test error {error(small):.1%}.")

# %% [markdown]
# ## A little more training, and the way to disk
# The names in its state dict are the model's own. To read it, build the model and drop the same blocks.

# %%
fit(small, epochs=3, peak=1e-3)
print(f"Trained for 3 more epochs: test error {error(small):.1%}; the whole network errs on {error(model):.1%}.")
torch.save({"without": least, "weights": small.state_dict()}, "out/small_vit.pt")

saved = torch.load("out/small_vit.pt", weights_only=True)
again = resect.unravel(make(), train.inputs[:2]).without(saved["without"])
again.load_state_dict(saved["weights"])
print("Read again, its outputs are the same:", torch.equal(again(test.inputs), small(test.inputs)))
