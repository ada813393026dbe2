"""Masked characters, which an encoder learns to predict: which they are, and what stands there.

With a rate such as 0.15 this is the masked language model of BERT. With a rate that is drawn for
each window it is masked diffusion: the loss bounds the nats per character of the text from above
(Sahoo et al. 2024, arXiv 2406.07524; Nie et al. 2025, arXiv 2502.09992).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kqv.text.batches import Batch

STREAM = 1  # of random numbers for masks: that of stream 0 says where windows begin
GOLDEN = 0.6180339887498949  # multiples of the golden ratio, modulo 1, are evenly spread
REPLACED, KEPT = 0.8, 0.1  # shares of the chosen characters (Devlin et al. 2019, section 3.1)


@dataclass(frozen=True)
class Masking:
    """How windows of text are masked."""

    rate: float | Literal["uniform"]
    """share of the characters to predict, or a share drawn for each window"""
    mask: int
    """the id that stands for a masked character"""
    vocab_size: int
    """ids from which a wrong character is drawn"""

    def batch(self, windows: Tensor, seed: int, step: int, first: int, share: float = 1.0) -> Batch:
        """Windows (count, time) int64 as a batch: the masked ids, and the ids to predict.

        `first` is the number of the first window in the global batch of (seed, step), from which
        its masks follow.
        """
        count, time = windows.shape
        draws = window_draws(seed, step, first, count, 3 * time + 1)
        chances, kinds, others = np.split(draws[:, 1:], 3, axis=1)
        if self.rate == "uniform":
            # One number for all windows, moved on from each to the next: shares that are spread
            # evenly over a batch vary less than independent ones (Kingma et al. 2021, I.1).
            begin = window_draws(seed, step, 0, 1, 1)[0, 0]
            shares = (begin + GOLDEN * np.arange(first, first + count)) % 1
            masked = 1 + (shares * time).astype(np.int64)
        else:
            masked = np.full(count, max(1, round(self.rate * time)))
        chosen = chances.argsort(axis=1).argsort(axis=1) < masked[:, None]
        ids = windows.numpy().copy()
        if self.rate == "uniform":
            ids[chosen] = self.mask
            weights = chosen * (time / masked[:, None])
        else:
            ids[chosen & (kinds < REPLACED)] = self.mask
            wrong = chosen & (kinds >= REPLACED + KEPT)
            ids[wrong] = (others[wrong] * self.vocab_size).astype(np.int64)
            weights = chosen
        return Batch(
            torch.from_numpy(ids),
            windows,
            torch.from_numpy(weights.astype(np.float32)),
            None,
            share,
        )


def window_draws(seed: int, step: int, first: int, count: int, numbers: int) -> np.ndarray:
    """Uniform random numbers in [0, 1) for windows `first` to `first + count` of a global batch.

    Shape (count, numbers). Each window has its own, whatever part of the batch it is in.
    """
    # Philox makes four numbers at each value of its 256-bit counter, whose words are least first.
    draws = [
        np.random.Generator(
            np.random.Philox(
                key=np.array([seed, step], dtype=np.uint64),
                counter=np.array([0, 0, window, STREAM], dtype=np.uint64),
            )
        ).random(numbers)
        for window in range(first, first + count)
    ]
    return np.stack(draws)
