"""What tests of devices share: the device, networks on it and on the CPU, and how far their numbers may be apart."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import resect

DEVICE = os.environ.get("RESECT_TEST_DEVICE", "cuda")
RELATIVE = 1e-4  # of float32 sums in another order
needs_device = pytest.mark.skipif(
    DEVICE.startswith("cuda") and not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"
)


def placed(value: Any, device: str = DEVICE) -> Any:
    """A module's copy, or nested tensors, on a device."""
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).to(device)
    return pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)


def both(model: nn.Module, example: Any) -> tuple[resect.Unraveled, resect.Unraveled]:
    """A model unravelled on the device and on the CPU."""
    here = resect.unravel(placed(model), placed(example))
    assert here.device.type == torch.device(DEVICE).type
    return here, resect.unravel(placed(model, "cpu"), example)


def close(got: Any, wanted: Any, relative: float = RELATIVE, what: str = "") -> None:
    """Fail unless numbers are those wanted, to a part of the largest of them."""
    one, other = (np.asarray(v.detach().cpu() if isinstance(v, Tensor) else v, dtype=float) for v in (got, wanted))
    assert one.shape == other.shape, what
    assert np.array_equal(np.isfinite(one), np.isfinite(other)), what
    known = np.isfinite(other)
    room = relative * max(np.abs(other[known]).max(initial=0), 1e-12)
    np.testing.assert_allclose(one[known], other[known], rtol=0, atol=room, err_msg=what)


def alike(got: pd.DataFrame, wanted: pd.DataFrame, relative: float = 1e-3, but: Sequence[str] = ()) -> None:
    """Fail unless two tables say the same, their numbers to a part of the largest of a column."""
    assert list(got.columns) == list(wanted.columns)
    assert len(got) == len(wanted)
    for name in wanted.columns.difference(list(but)):
        if pd.api.types.is_float_dtype(wanted[name]):
            close(got[name], wanted[name], relative, name)
        else:
            assert list(got[name]) == list(wanted[name]), name


@pytest.fixture(autouse=True)
def float32_means_float32() -> Iterator[None]:
    """Convolutions of cuDNN round to TF32 by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def gradients(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Of a loss, by parameter."""
    model.zero_grad(set_to_none=True)
    loss().backward()
    return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
