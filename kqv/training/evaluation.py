"""The validation loss, and what else an evaluation looks at.

The loss is the mean cross-entropy in nats per token. Over the whole split: consecutive windows of
block_size, every token predicted once. As an estimate: a few fixed, evenly spaced windows. Both are
deterministic.
"""

import math
from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from kqv.generation.prompts import default_prompt
from kqv.generation.sampling import generate_text
from kqv.inside.figures import layer_figures
from kqv.machine.device import Machine
from kqv.machine.ranks import Ranks
from kqv.machine.wrapping import sharding
from kqv.options.settings import SampleSettings, TrainSettings
from kqv.text.batches import all_windows, spaced_windows
from kqv.text.token_files import Ids
from kqv.training.data import RunData
from model import GPT

COUNTED_TOKENS = 1 << 22  # the most tokens whose frequencies are counted
COUNTED_RUN = 1 << 12  # of them in a row
TRACED_WINDOWS = 4  # windows of the validation split over which the figures of the layers are means


class Evaluator:
    """Evaluates the model of a run on its validation split; all ranks call its methods together."""

    def __init__(
        self,
        model: GPT,
        data: RunData,
        settings: TrainSettings,
        machine: Machine,
        ranks: Ranks,
    ) -> None:
        self.model, self.data = model, data
        self.settings, self.machine, self.ranks = settings, machine, ranks

    def estimated_loss(self) -> float:
        """Mean loss over eval_iters batches of the validation split, nats per token."""
        return estimated_loss(self.model, self.data.val, self.settings, self.machine, self.ranks)

    def whole_loss(self) -> float:
        """Mean loss over the whole validation split, nats per token."""
        return whole_loss(self.model, self.data.val, self.settings, self.machine, self.ranks)

    def trivial_losses(self) -> tuple[float, float]:
        """Losses to compare it with: of guessing uniformly, and by token frequencies."""
        data = self.data
        return trivial_losses(data.train, data.val, data.tokenizer.vocab_size)

    def look(self, sample: bool) -> tuple[dict[str, list[float]], str]:
        """On rank 0, figures of each layer if --inner_figures asks for them, and a sample if
        `sample`; elsewhere, and where not asked for, nothing."""
        settings = self.settings
        if not settings.inner_figures and not sample:
            return {}, ""
        whole = sharding().gather(self.model, self.ranks) if settings.fsdp else self.model
        if not self.ranks.is_main:
            return {}, ""
        figures, text = {}, ""
        if settings.inner_figures:
            block_size = settings.block_size
            windows, _ = next(spaced_windows(self.data.val, TRACED_WINDOWS, block_size, 1))
            figures = layer_figures(whole, windows)
        if sample:
            sampling = SampleSettings(max_new_tokens=settings.sample_chars, seed=settings.seed)
            prompt = default_prompt(self.data.tokenizer)
            text = generate_text(whole.eval(), self.data.tokenizer, prompt, sampling)
        return figures, text


def estimated_loss(
    model: GPT, tokens: Ids, settings: TrainSettings, machine: Machine, ranks: Ranks | None = None
) -> float:
    """Mean loss over eval_iters batches spread evenly over the split, nats per token."""
    block_size = model.config.block_size
    windows = spaced_windows(tokens, settings.batch_size, block_size, settings.eval_iters)
    return _mean_loss(model, windows, machine, ranks or Ranks())


def whole_loss(
    model: GPT, tokens: Ids, settings: TrainSettings, machine: Machine, ranks: Ranks | None = None
) -> float:
    """Mean loss over every token of the split but the first, nats per token."""
    windows = all_windows(tokens, settings.batch_size, model.config.block_size)
    return _mean_loss(model, windows, machine, ranks or Ranks())


@torch.no_grad()
def _mean_loss(
    model: GPT, windows: Iterable[tuple[Tensor, Tensor]], machine: Machine, ranks: Ranks
) -> float:
    """Mean loss over batches (x, y) of windows, which the ranks share; nats per token."""
    model.eval()
    total, count, remaining = 0.0, 0.0, iter(windows)
    # Each rank takes one batch of a round. In the last round some have none left: they compute one
    # that does not count, because sharded weights are gathered by all ranks together.
    while batches := list(islice(remaining, ranks.world_size)):
        x, y = batches[min(ranks.rank, len(batches) - 1)]
        with machine.autocast():
            loss = float(model(x.to(machine.device), targets=y.to(machine.device)))
        if ranks.rank < len(batches):
            total += loss * y.numel()
            count += y.numel()
    total, count = ranks.all_reduce(total, count)
    return total / count


def trivial_losses(train_tokens: Ids, val_tokens: Ids, vocab_size: int) -> tuple[float, float]:
    """Two losses to compare a validation loss with, nats per token: that of guessing uniformly, and
    that of the token frequencies of the training split (with one added to each count). Of long
    texts a sample is counted."""
    counted = np.bincount(sample_of(train_tokens), minlength=vocab_size)
    expected = np.bincount(sample_of(val_tokens), minlength=vocab_size)
    probabilities = (counted + 1) / (counted.sum() + vocab_size)
    return math.log(vocab_size), float(-(expected / expected.sum()) @ np.log(probabilities))


def sample_of(tokens: Ids) -> np.ndarray:
    """All of a text of at most COUNTED_TOKENS; of a longer one as many, in evenly spaced runs."""
    if len(tokens) <= COUNTED_TOKENS:
        return tokens[0 : len(tokens)]
    starts = np.linspace(0, len(tokens) - COUNTED_RUN, COUNTED_TOKENS // COUNTED_RUN)
    return tokens[(starts.astype(np.int64)[:, None] + np.arange(COUNTED_RUN)).ravel()]
