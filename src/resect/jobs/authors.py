"""What the paper's authors measured: the raw results of their lesions, 5,261 rows in `authors.parquet`.

Source: github.com/gcr/fb.resnet.torch-lesion-study, commit 73f4a94 (M. Wilber, 5 May 2016, BSD licence); the networks
themselves are not there. Errors are fractions of the 10,000 test images of CIFAR-10 or the 50,000 validation images of
ImageNet.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

import pandas as pd

SOURCE = "their raw results (github.com/gcr/fb.resnet.torch-lesion-study, 73f4a94)"
_BLOCKS = {9: "20", 15: "32", 21: "44", 27: "56", 54: "110"}  # of CIFAR ResNets, and their depths
_STOCHASTIC = "stochastic-depth"  # in the names of networks that were trained with it


@cache
def lesions() -> pd.DataFrame:
    """One row a lesion.

    Columns: `data` ("cifar10", "imagenet"), `network` ("preresnet110", "stochdepth110", "resnet152", ...), `operation`
    ("intact", "delete", "delete several", "swap several", "repeat several"), `blocks` (JSON: blocks, or pairs of them,
    counted from 0), `count` (how many), `kendall_tau` (of swaps: how much of the order is left), `error`.
    """
    with resources.as_file(resources.files("resect.jobs") / "authors.parquet") as file:
        return pd.read_parquet(file).astype({"error": float, "kendall_tau": float})


def measured(network: str, operation: str) -> pd.DataFrame:
    """The lesions of one kind to one network; those of single blocks with a column `block`."""
    table = lesions()
    chosen = table[(table["network"] == network) & (table["operation"] == operation)].reset_index(drop=True)
    if operation == "delete":
        chosen = chosen.assign(block=[json.loads(blocks)[0] for blocks in chosen["blocks"]])
    return chosen


def intact(network: str) -> float:
    """The error of a network of theirs without a lesion."""
    return float(measured(network, "intact")["error"].iloc[0])


def counterpart(model: str, blocks: pd.DataFrame) -> str | None:
    """The authors' network with as many blocks that downsample at the same places; None if they had none.

    Args:
        model: the spec of a network; one trained with stochastic depth names it.
        blocks: its blocks, with the column `downsampling`.
    """
    depth, third = _BLOCKS.get(len(blocks)), len(blocks) // 3
    if depth is None or blocks["downsampling"].to_numpy().nonzero()[0].tolist() != [third, 2 * third]:
        return None
    name = f"{'stochdepth' if _STOCHASTIC in model else 'preresnet'}{depth}"
    return name if name in set(lesions()["network"]) else None


def beside(model: str, blocks: pd.DataFrame, operation: str) -> pd.DataFrame | None:
    """The lesions of one kind to the counterpart of a network; None if they made none."""
    network = counterpart(model, blocks)
    table = None if network is None else measured(network, operation)
    return table if table is not None and len(table) else None
