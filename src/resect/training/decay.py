"""How the learning rate rises and falls over a training."""

from __future__ import annotations

from math import ceil

import torch

from resect.training.recipe import Recipe

_CYCLE = 0.05
_ROUNDING = 1e-3  # steps; 80 epochs of 164, a part of all steps, are a whole number of them again
_NUDGE = 1e-3  # PyTorch divides by the length of each half of the cycle, which may be 0 steps


def decay_of(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate of every step: one cycle, or a warm-up and drops to a tenth."""
    if recipe.decay == "one-cycle":
        swing = min(_CYCLE if recipe.momentum <= 1 - 2 * _CYCLE else (1 - recipe.momentum) / 2, recipe.momentum)
        part = recipe.warmup if abs(recipe.warmup * steps - 1) > _NUDGE else recipe.warmup * (1 - _NUDGE)
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            recipe.learning_rate,
            total_steps=steps,
            pct_start=min(float(part), 1 - _NUDGE),
            base_momentum=recipe.momentum - swing,
            max_momentum=recipe.momentum + swing,
        )
    warm, starts = recipe.warmup * steps, [ceil(part * steps - _ROUNDING) for part in recipe.drops]

    def factor(step: int) -> float:
        drops = sum(step >= start for start in starts)
        return min((step + 1) / warm, 1.0) * 0.1**drops if warm else 0.1**drops

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
