"""Losses to compare a validation loss with, from the frequencies of tokens."""

import math

import numpy as np

from kqv.text.token_files import Ids

COUNTED_TOKENS = 1 << 22  # the most tokens whose frequencies are counted
COUNTED_RUN = 1 << 12  # of them in a row


def trivial_losses(train: np.ndarray, val: np.ndarray, vocab_size: int) -> tuple[float, float]:
    """Two losses to compare a validation loss with, nats per token: that of guessing uniformly, and
    that of the token frequencies of the training split (with one added to each count)."""
    counted = np.bincount(train, minlength=vocab_size)
    expected = np.bincount(val, minlength=vocab_size)
    probabilities = (counted + 1) / (counted.sum() + vocab_size)
    return math.log(vocab_size), float(-(expected / expected.sum()) @ np.log(probabilities))


def sample_of(tokens: Ids) -> np.ndarray:
    """All of a text of at most COUNTED_TOKENS; of a longer one as many, in evenly spaced runs."""
    if len(tokens) <= COUNTED_TOKENS:
        return tokens[0 : len(tokens)]
    starts = np.linspace(0, len(tokens) - COUNTED_RUN, COUNTED_TOKENS // COUNTED_RUN)
    return tokens[(starts.astype(np.int64)[:, None] + np.arange(COUNTED_RUN)).ravel()]
