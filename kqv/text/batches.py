"""The batch of step n: a pure function of (seed, step).

Nothing is consumed and no state is kept. So a resumed run sees the batches it would have seen, and
ranks cut one global batch into micro-batches without communication.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kqv.text.token_files import Ids

# Rounds of the Feistel network. Four make it as good as random (Luby & Rackoff 1988); small
# numbers need more.
FEISTEL_ROUNDS = 8


class Batch(NamedTuple):
    """What a model reads at a time, and what it is to predict."""

    ids: Tensor
    """(batch, time) int64"""
    targets: Tensor
    """(batch, time) int64"""
    weights: Tensor | None = None
    """(batch, time) float32, how much each target counts; None if all count alike"""
    source: Tensor | None = None
    """(batch, source_time) int64, what an encoder-decoder translates, padded with -1"""
    share: float = 1.0
    """how much the loss of a micro-batch counts in that of the step"""

    @property
    def total_weight(self) -> float:
        """What the mean loss is to be multiplied with, to add up to that of several batches."""
        return self.targets.numel() if self.weights is None else float(self.weights.sum())

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""

        def move(tensor: Tensor | None) -> Any:
            return None if tensor is None else tensor.to(device)

        return Batch(
            move(self.ids), move(self.targets), move(self.weights), move(self.source), self.share
        )


def training_batch(
    tokens: Ids,
    seed: int,
    step: int,
    windows: int,
    block_size: int,
    part: int = 0,
    parts: int = 1,
    order: str = "random",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The windows for training step `step`, and the same windows one token later.

    The global batch of the step has so many `windows`; this is part number `part` of `parts`
    nearly equal ones: the micro-batches of gradient accumulation, of all ranks. With order
    "random" windows begin anywhere, as in nanoGPT; with "epoch" every window is used before one
    comes again.

    Returns x and y, both of shape (windows of this part, block_size), int64.
    """
    first, end = part * windows // parts, (part + 1) * windows // parts
    if order == "epoch":
        starts = epoch_starts(len(tokens), seed, step * windows + first, end - first, block_size)
    else:
        # Philox is a counter-based generator: any (seed, step) is reached at once (Salmon et al.
        # 2011).
        random = np.random.Generator(np.random.Philox(key=np.array([seed, step], dtype=np.uint64)))
        starts = random.integers(len(tokens) - block_size, size=windows)[first:end]
    return _windows(tokens, starts, block_size)


def epoch_starts(length: int, seed: int, first: int, count: int, block_size: int) -> np.ndarray:
    """Where windows number `first` to `first + count` of a run begin, if each epoch is a shuffle.

    An epoch cuts a text of `length` tokens into consecutive windows from a random offset on, and
    reads each of them once, in a random order. What it leaves out at the ends is less than a
    window, and differs between epochs.

    Returns positions of shape (count,), int64.
    """
    to_predict = length - 1
    windows = max(1, (to_predict - block_size + 1) // block_size)  # of an epoch, at any offset
    offsets = min(block_size, to_predict - windows * block_size + 1)
    # Number windows from the beginning of the epoch in which the first one lies.
    numbers = first % windows + np.arange(count, dtype=np.uint64)
    epoch, place = first // windows + numbers // windows, numbers % windows
    # The offset and the keys of the permutation are hashes of (seed, epoch).
    seeds = hashed(np.uint64(seed) + np.arange(FEISTEL_ROUNDS + 1, dtype=np.uint64))
    offset, *keys = hashed(seeds[:, None] ^ epoch)
    shuffled = permuted(place, windows, keys)
    starts = offset % np.uint64(offsets) + shuffled * np.uint64(block_size)
    return starts.astype(np.int64)


def permuted(numbers: np.ndarray, count: int, keys: Sequence[np.ndarray]) -> np.ndarray:
    """Apply a pseudo-random permutation of 0 ... count - 1 to numbers, each computed by itself.

    Each number goes through a Feistel network: it is written with two digits in base √count; in
    every round the digits swap places, and a hash of one digit and the round's key is added to the
    other. That permutes all two-digit numbers. One that comes out as `count` or more goes through
    the network again until it does not (cycle walking; both in Black & Rogaway 2002).

    `numbers` has shape (n,), uint64, and each of `keys` too: one key per round and number.
    """
    base = np.uint64(math.isqrt(count - 1) + 1)  # the least base with count two-digit numbers
    numbers = numbers.copy()
    pending = np.arange(len(numbers))  # indices of the numbers that are not done
    while len(pending):
        high, low = np.divmod(numbers[pending], base)
        for key in keys:
            high, low = low, (high + hashed(low ^ key[pending]) % base) % base
        numbers[pending] = high * base + low
        pending = pending[numbers[pending] >= count]
    return numbers


def hashed(bits: np.ndarray | np.uint64) -> Any:
    """Hash 64 bits to 64, each of which depends on all (end of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):  # products are modulo 2^64
        bits = bits + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> np.uint64(31))


def spaced_windows(
    tokens: Ids, batch_size: int, block_size: int, batches: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Fixed, evenly spaced windows for a quick estimate of the loss.

    Yields up to `batches` pairs x, y as in `training_batch`.
    """
    count = min(batches * batch_size, (len(tokens) - 1) // block_size)
    starts = np.linspace(0, len(tokens) - block_size - 1, count).astype(np.int64)
    for first in range(0, count, batch_size):
        yield _windows(tokens, starts[first : first + batch_size], block_size)


def all_windows(
    tokens: Ids, batch_size: int, block_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The whole split in consecutive windows, every token but the first predicted once.

    Yields pairs x, y of shape (up to batch_size, block_size); the last pair is one window of the
    remaining tokens.
    """
    whole = (len(tokens) - 1) // block_size
    starts = np.arange(whole) * block_size
    for first in range(0, whole, batch_size):
        yield _windows(tokens, starts[first : first + batch_size], block_size)
    rest = len(tokens) - 1 - whole * block_size
    if rest:
        yield _windows(tokens, np.array([whole * block_size]), rest)


def _windows(tokens: Ids, starts: np.ndarray, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x and y of shape (len(starts), length), int64: the windows at `starts`, in one look-up."""
    window = torch.from_numpy(tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64))
    return window[:, :-1], window[:, 1:]
