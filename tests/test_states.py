"""How far blocks move the state, against hooks on the model's own modules."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import resect
from resect.engines.local import LOCAL
from resect.pruning.scores import angular_windows
from resect.pruning.states import moved


def seen(model: nn.Module, modules: list[nn.Module], x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What enters and leaves each module, float64."""
    pairs: list[tuple[Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _, given, out: pairs.append((given[0].double(), out.double())))
        for module in modules
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return pairs


def angle(one: Tensor, other: Tensor) -> np.ndarray:
    """Over pi, one number a sample."""
    cosine = nn.functional.cosine_similarity(one.flatten(1), other.flatten(1))
    return np.arccos(cosine.clamp(-1, 1).numpy()) / np.pi


def test_blocks_with_identity_skips_move_the_state_as_hooks_see_it(net, batch):
    pairs = seen(net.model, list(net.model.blocks), batch[0])
    arrays = moved(net, [batch], LOCAL)
    table = resect.scores(net, [batch], "block_influence", "angular", "norm_ratio").table
    for block, (before, behind) in zip(net.blocks, pairs, strict=True):
        if block.kind != "identity":
            continue
        i, one, other = block.index, before.flatten(1), behind.flatten(1)
        influence = 1 - nn.functional.cosine_similarity(one, other)
        ratio = (other - one).norm(dim=1) / one.norm(dim=1)
        np.testing.assert_allclose(arrays["influence"][i], influence.numpy(), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(arrays["norm_ratio"][i], ratio.numpy(), rtol=1e-9)
        assert table["block_influence"][i] == pytest.approx(float(influence.mean()))
        assert table["norm_ratio"][i] == pytest.approx(float(ratio.mean()))
        assert table["angular"][i] == pytest.approx(angle(one, other).mean())


def test_a_projection_is_compared_with_what_its_skip_hands_on(net, batch):
    i = next(block.index for block in net.blocks if block.kind == "projection")
    module = net.model.blocks[i]
    (_, behind), (_, skip) = seen(net.model, [module, module.sc], batch[0])[::-1]
    influence = 1 - nn.functional.cosine_similarity(skip.flatten(1), behind.flatten(1))
    np.testing.assert_allclose(moved(net, [batch], LOCAL)["influence"][i], influence.numpy(), rtol=1e-9)


def test_windows_are_of_one_shape_and_their_angles_those_between_their_ends(net, batch):
    pairs = seen(net.model, list(net.model.blocks), batch[0])
    table = angular_windows(net, [batch])
    assert len(table) == 3 * 6  # three stages of three blocks
    for row in table.itertuples():
        if net.blocks[row.start].kind == "identity":
            before, behind = pairs[row.start][0], pairs[row.start + row.length - 1][1]
            assert row.angular == pytest.approx(angle(before, behind).mean())
            assert row.angular_low <= row.angular <= row.angular_high


def test_sequences_are_measured_position_by_position(encoder, batch):
    norms = list(encoder.model.norms)
    between = [before for before, _ in seen(encoder.model, norms, batch[0])]  # (B, L, D), before every block
    influence = moved(encoder, [batch], LOCAL)["influence"]
    for i, (before, behind) in enumerate(pairwise(between)):
        by_position = 1 - nn.functional.cosine_similarity(before, behind, dim=-1).mean(1)
        # The model's attention runs a fused kernel, which differs in the last bits of float32.
        np.testing.assert_allclose(influence[i], by_position.numpy(), rtol=1e-6)


def test_scores_say_what_they_mean_and_what_a_task_lacks(net, batch):
    result = resect.scores(net, [batch], "kl", "angular")
    assert result.meaning["kl"].startswith("Divergence of the output distribution")
    deletions = resect.lesion(net, [batch], resect.plans.single(net), resect.LesionSettings("kl")).table
    pd.testing.assert_series_equal(result.table["kl"], deletions["kl"])
    values = torch.randn(6, 10)
    assert {"damage", "block_influence"} <= set(resect.scores(net, [(batch[0], values)]).values)
    with pytest.raises(
        resect.InputError, match="no distribution over classes or candidates, which the task has not, got 'kl'"
    ):
        resect.scores(net, [(batch[0], values)], "kl")
