# %% [markdown]
"""
# The blocks of a GPT-2

A small GPT-2 learns to write Python's own documentation, byte by byte, for a few seconds. Then each block of attention
and each MLP is deleted, perplexity says what it was for, and a network without one of them goes on writing.
"""

# %%
from math import exp
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

import resect

Path("out").mkdir(exist_ok=True)
torch.manual_seed(0)

# %% [markdown]
# ## Data: windows of 32 bytes, and the byte behind each of them

# %%
text = torch.tensor(list("\n".join(topics.values()).encode()))
windows = text[: len(text) // 33 * 33].view(-1, 33)
windows = windows[torch.randperm(len(windows))]
test, train = windows[:100], windows[100:]
print(f"{len(text):,} bytes; {len(train):,} windows to train on, {len(test)} to test")

# %%
config = GPT2Config(
    vocab_size=256, n_positions=64, n_embd=64, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0,
    initializer_range=0.1, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
)  # fmt: skip
model = GPT2LMHeadModel(config)
steps = 120
optimizer = torch.optim.AdamW(model.parameters())
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
for _ in range(steps):
    chosen = train[torch.randint(len(train), (32,))]
    optimizer.zero_grad()
    logits = model(input_ids=chosen[:, :-1]).logits
    cross_entropy(logits.flatten(0, 1), chosen[:, 1:].flatten()).backward()
    optimizer.step()
    scheduler.step()
model.eval()

# %% [markdown]
# ## Every block deleted
# Targets of shape (B, L) are tokens. Intervals allow for tokens of one window that fail together.

# %%
net = resect.unravel(model, {"input_ids": test[:2, :-1], "use_cache": False})
print(net.blocks.summary())
data = [({"input_ids": part[:, :-1], "use_cache": False}, part[:, 1:]) for part in test.split(50)]
lesions = resect.lesion(net, data, resect.plans.single(net))
print(lesions.summary())
lesions.plot().figure.savefig("out/gpt2.png")
lesions.table[["name", "perplexity", "loss_change", "loss_change_low", "loss_change_high"]]

# %%
table = lesions.table.sort_values("perplexity")
least, most = table.iloc[0], table.iloc[-1]
print(
    f"Perplexity {exp(lesions.intact_loss):.2f}; without {least['name']} {least['perplexity']:.2f}, "
    f"without {most['name']} {most['perplexity']:.2f}."
)

# %% [markdown]
# ## How long the paths are along which it learns
# Of a network that reads tokens, gradients are those at the values that enter the first block.

# %%
spectrum = resect.path_spectrum(net, data[:1])
print(spectrum.summary())

# %% [markdown]
# ## It writes on without a block
# A stand-alone network is called as the model is, and may take its place.

# %%
small = net.without(least["name"])


def write(network: torch.nn.Module, start: torch.Tensor, count: int) -> str:
    """What a network goes on with, byte by byte, drawn from the probabilities that it gives."""
    draw = torch.Generator().manual_seed(1)
    tokens = start[None]
    with torch.no_grad():
        for _ in range(count):
            logits = network(input_ids=tokens[:, -32:], use_cache=False)["logits"]
            tokens = torch.cat([tokens, torch.multinomial((2 * logits[:, -1]).softmax(1), 1, generator=draw)], 1)
    return bytes(tokens[0, len(start) :].tolist()).decode(errors="replace")


start = test[0, :32]
print(f"{bytes(start.tolist())} goes on")
print("by the whole network as", repr(write(model, start, 60)))
print(f"without {least['name']} as", repr(write(small, start, 60)))
