"""The validation loss, and what it means.

Mean cross-entropy in nats per token. Over the whole split: cut into consecutive windows of block_size,
every token predicted once. As an estimate: over a few fixed, evenly spaced windows. Both are deterministic.
"""

import math
from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from kqv.machine.device import Machine
from kqv.machine.ranks import Ranks
from kqv.options.settings import TrainSettings
from kqv.text.batches import all_windows, spaced_windows
from kqv.text.token_files import Ids
from kqv.text.tokenizer import Tokenizer
from model import GPT

COUNTED = 1 << 22  # tokens at most, whose frequencies are counted
RUN = 1 << 12  # of them that stand together


def estimated_loss(
    model: GPT, tokens: Ids, settings: TrainSettings, machine: Machine, ranks: Ranks | None = None
) -> float:
    """Mean loss over eval_iters batches spread evenly over the split, which the processes of a run share."""
    windows = spaced_windows(
        tokens, settings.batch_size, model.config.block_size, settings.eval_iters
    )
    return _mean_loss(model, windows, machine, ranks)


def whole_loss(
    model: GPT, tokens: Ids, settings: TrainSettings, machine: Machine, ranks: Ranks | None = None
) -> float:
    """Mean loss over every token of the split but the first, which nothing comes before."""
    windows = all_windows(tokens, settings.batch_size, model.config.block_size)
    return _mean_loss(model, windows, machine, ranks)


@torch.no_grad()
def _mean_loss(
    model: GPT, windows: Iterable[tuple[Tensor, Tensor]], machine: Machine, ranks: Ranks | None
) -> float:
    ranks = ranks or Ranks()
    model.eval()
    total, count, remaining = 0.0, 0.0, iter(windows)
    # Each process takes one batch of a round. In the last round some have none: they compute one that does not count, for
    # sharded weights are gathered by all together.
    while batches := list(islice(remaining, ranks.world_size)):
        x, y = batches[min(ranks.rank, len(batches) - 1)]
        with machine.autocast():
            loss = float(model(x.to(machine.device), targets=y.to(machine.device)))
        if ranks.rank < len(batches):
            total += loss * y.numel()
            count += y.numel()
    total, count = ranks.all_reduce(total, count)
    return total / count


def characters_per_token(tokens: Ids, tokenizer: Tokenizer) -> float:
    """How many characters a token stands for, mean over all of the split but the first token, which is not predicted.

    Losses per token of two vocabularies cannot be compared; divided by this they are losses per character, which can.
    """
    if tokenizer.kind == "char":
        return 1.0
    begun, step = tokenizer.characters_begun(), 1 << 20
    return sum(
        int(begun[tokens[first : first + step]].sum()) for first in range(1, len(tokens), step)
    ) / (len(tokens) - 1)


def describe_loss(loss: float, characters: float = 1.0) -> str:
    """A loss in the usual units; `characters` is how many a token has.

    >>> describe_loss(1.5)
    '1.5000 nats per character (2.164 bits)'
    >>> describe_loss(3, 2)
    '3.0000 nats per token, 1.5000 per character (2.164 bits)'
    """
    each = loss / max(characters, 1e-9)
    units = (
        f"{loss:.4f} nats per character"
        if characters == 1
        else f"{loss:.4f} nats per token, {each:.4f} per character"
    )
    return f"{units} ({each / math.log(2):.3f} bits)"


def trivial_losses(train_tokens: Ids, val_tokens: Ids, vocab_size: int) -> tuple[float, float]:
    """What a validation loss is to be compared with, nats per token: the loss of guessing
    uniformly, and of knowing how frequent each token is in the training split (one added to each
    count). Of long texts a sample is counted."""
    counted = np.bincount(_sample(train_tokens), minlength=vocab_size)
    expected = np.bincount(_sample(val_tokens), minlength=vocab_size)
    probabilities = (counted + 1) / (counted.sum() + vocab_size)
    return math.log(vocab_size), float(-(expected / expected.sum()) @ np.log(probabilities))


def _sample(tokens: Ids) -> np.ndarray:
    """All of a text of at most COUNTED tokens; of a longer one so many, in evenly spaced runs."""
    if len(tokens) <= COUNTED:
        return tokens[0 : len(tokens)]
    starts = np.linspace(0, len(tokens) - RUN, COUNTED // RUN).astype(np.int64)
    return tokens[(starts[:, None] + np.arange(RUN)).ravel()]


def describe_trivial_losses(uniform: float, frequencies: float, characters: float = 1.0) -> str:
    """The same in words; `characters` is how many a token has.

    >>> describe_trivial_losses(4.1744, 3.3127)
    '4.1744 by guessing, 3.3127 by letter frequencies'
    >>> describe_trivial_losses(6.931, 5.9, 2)
    '6.9310 by guessing (3.4655 per character), 5.9000 by token frequencies (2.9500)'
    """
    if characters == 1:
        return f"{uniform:.4f} by guessing, {frequencies:.4f} by letter frequencies"
    each = [loss / max(characters, 1e-9) for loss in (uniform, frequencies)]
    guessing = f"{uniform:.4f} by guessing ({each[0]:.4f} per character)"
    return f"{guessing}, {frequencies:.4f} by token frequencies ({each[1]:.4f})"
