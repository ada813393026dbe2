"""The batch of step n: a pure function of (seed, step), the same whoever asks and whenever.

Nothing is consumed and no state is kept, so a resumed run sees the batches it would have seen, and
several processes cut one global batch into parts without talking to each other.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from kqv.text.token_files import Ids

ROUNDS = 8  # of the Feistel network: four make it as good as random (Luby & Rackoff 1988), small numbers like more


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

    The step's global batch has so many `windows`; this is part number `part` of `parts` nearly equal ones (the micro-batches
    of gradient accumulation, of all processes). With `order` random they begin anywhere, as nanoGPT's do; with epoch every
    window has its turn before one comes again.

    Returns x and y of shape (windows of this part, block_size), int64.
    """
    first, end = part * windows // parts, (part + 1) * windows // parts
    if order == "epoch":
        starts = epoch_starts(len(tokens), seed, step * windows + first, end - first, block_size)
    else:
        # Philox is a counter-based generator: any (seed, step) is reached at once (Salmon et al. 2011).
        random = np.random.Generator(np.random.Philox(key=np.array([seed, step], dtype=np.uint64)))
        starts = random.integers(len(tokens) - block_size, size=windows)[first:end]
    return _windows(tokens, starts, block_size)


def epoch_starts(length: int, seed: int, first: int, count: int, block_size: int) -> np.ndarray:
    """Where the windows number `first` to `first + count` of a run begin, shape (count,), if each epoch reads each once.

    An epoch cuts the text into consecutive windows from an offset of its own on and reads them in an order of its own, so
    of the ends of the text less than a window is left out, each time another part.
    """
    to_predict = length - 1
    windows = max(
        1, (to_predict - block_size + 1) // block_size
    )  # in an epoch, whatever its offset
    offsets = min(block_size, to_predict - windows * block_size + 1)
    numbers = first % windows + np.arange(
        count, dtype=np.uint64
    )  # counted from the beginning of the first one's epoch
    epoch, place = first // windows + numbers // windows, numbers % windows
    # Offsets and the keys of the permutation are hashes of (seed, epoch).
    offset, *keys = _mixed(
        _mixed(np.uint64(seed) + np.arange(ROUNDS + 1, dtype=np.uint64))[:, None] ^ epoch
    )
    return (
        offset % np.uint64(offsets) + permuted(place, windows, keys) * np.uint64(block_size)
    ).astype(np.int64)


def permuted(numbers: np.ndarray, count: int, keys: Sequence[np.ndarray]) -> np.ndarray:
    """Where a pseudo-random permutation of 0 ... count - 1 puts these numbers, (any,) uint64, each computed by itself.

    Each goes through a Feistel network: written with two digits, these change places again and again, and a hash of the one
    and of a round's key is added to the other. That permutes all numbers of two digits; one that comes out too large
    goes through it again until it does not (cycle-walking; both in Black & Rogaway 2002).
    """
    base = np.uint64(math.isqrt(count - 1) + 1)  # the least whose two digits count so far
    numbers, large = (
        numbers.copy(),
        np.arange(len(numbers)),
    )  # the places of those that are not done
    while len(large):
        high, low = np.divmod(numbers[large], base)
        for key in keys:
            high, low = low, (high + _mixed(low ^ key[large]) % base) % base
        numbers[large] = high * base + low
        large = large[numbers[large] >= count]
    return numbers


def _mixed(bits: np.ndarray | np.uint64) -> Any:
    """A hash of 64 bits to 64, each bit of which depends on all (the end of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):  # products are meant modulo 2^64
        bits = bits + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> np.uint64(31))


def spaced_windows(
    tokens: Ids, batch_size: int, block_size: int, batches: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Fixed, evenly spaced windows for a quick estimate of the loss: `batches` pairs as in `training_batch`."""
    count = min(batches * batch_size, (len(tokens) - 1) // block_size)
    starts = np.linspace(0, len(tokens) - block_size - 1, count).astype(np.int64)
    for first in range(0, count, batch_size):
        yield _windows(tokens, starts[first : first + batch_size], block_size)


def all_windows(
    tokens: Ids, batch_size: int, block_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The whole split in consecutive windows of block_size, every token but the first predicted once.

    Pairs of shape (up to batch_size, block_size); the last pair is one window of what remains.
    """
    whole = (len(tokens) - 1) // block_size
    starts = np.arange(whole) * block_size
    for first in range(0, whole, batch_size):
        yield _windows(tokens, starts[first : first + batch_size], block_size)
    rest = len(tokens) - 1 - whole * block_size
    if rest:
        yield _windows(tokens, np.array([whole * block_size]), rest)


def _windows(tokens: Ids, starts: np.ndarray, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x and y (len(starts), length) int64: the windows at `starts`, gathered with one index."""
    window = torch.from_numpy(tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64))
    return window[:, :-1], window[:, 1:]
