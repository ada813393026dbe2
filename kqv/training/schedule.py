"""The learning-rate schedule: one factor for the peak rates of all optimizers."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kqv.options.settings import TrainSettings

if TYPE_CHECKING:
    from kqv.training.optimizers import Optimizer


def rate_factor(settings: TrainSettings, step: int) -> float:
    """Factor of the peak rates in training step `step`: linear warm-up, then the chosen decay down
    to min_lr / learning_rate, where it stays."""
    if not settings.decay_lr:
        return 1.0
    end = settings.lr_decay_iters or settings.max_iters
    if step < settings.warmup_iters:
        return (step + 1) / (settings.warmup_iters + 1)
    floor = min(1.0, settings.min_lr / settings.learning_rate) if settings.learning_rate else 1.0
    progress = min(1.0, (step - settings.warmup_iters) / max(1, end - settings.warmup_iters))
    if settings.lr_schedule == "cosine":
        height = 0.5 * (1 + math.cos(math.pi * progress))
    elif settings.cooldown:
        height = min(1.0, (1 - progress) / settings.cooldown)
    else:
        height = float(progress < 1)
    return floor + height * (1 - floor)


def set_rates(optimizers: Iterable["Optimizer"], factor: float) -> None:
    """Set each group's rate to `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]
