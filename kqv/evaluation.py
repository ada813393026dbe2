"""The validation loss, and what it means.

Mean cross-entropy in nats per token. Over the whole split: cut into consecutive windows of block_size,
every token predicted once. As an estimate: over a few fixed, evenly spaced windows. Both are deterministic.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from kqv.batches import all_windows, spaced_windows
from kqv.hardware import Machine
from kqv.settings import TrainSettings
from model import GPT, cross_entropy


def estimated_loss(model: GPT, tokens: np.ndarray, settings: TrainSettings, machine: Machine) -> float:
    """Mean loss over eval_iters batches spread evenly over the split."""
    windows = spaced_windows(tokens, settings.batch_size, model.config.block_size, settings.eval_iters)
    return _mean_loss(model, windows, machine)


def whole_loss(model: GPT, tokens: np.ndarray, settings: TrainSettings, machine: Machine) -> float:
    """Mean loss over every token of the split but the first, which nothing comes before."""
    return _mean_loss(model, all_windows(tokens, settings.batch_size, model.config.block_size), machine)


@torch.no_grad()
def _mean_loss(model: GPT, windows: Iterable[tuple[Tensor, Tensor]], machine: Machine) -> float:
    model.eval()
    total, count = 0.0, 0
    for x, y in windows:
        with machine.autocast():
            logits = model(x.to(machine.device))
        total += float(cross_entropy(logits, y.to(machine.device), reduction="sum"))
        count += y.numel()
    return total / count


def describe_loss(loss: float) -> str:
    """A loss of a character model in both usual units.

    >>> describe_loss(1.5)
    '1.5000 nats per character (2.164 bits)'
    """
    return f"{loss:.4f} nats per character ({loss / math.log(2):.3f} bits)"
