"""The batch of step n: a pure function of (seed, step), the same whoever asks and whenever.

Nothing is consumed and no state is kept, so a resumed run sees the batches it would have seen, and
several processes cut one global batch into parts without talking to each other.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from kqv.errors import UserError
from kqv.tokenizer import token_dtype


def open_tokens(path: Path, vocab_size: int, block_size: int) -> np.ndarray:
    """Map a .bin file of token ids into memory, shape (tokens,).

    Raises UserError if it holds no whole window, or an id that is not in the vocabulary.
    """
    dtype = token_dtype(vocab_size)
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the dataset's prepare.py again") from None
    itemsize = np.dtype(dtype).itemsize
    if size % itemsize:
        raise UserError(f"{path} is damaged: {size} bytes are no whole number of {itemsize}-byte ids; prepare it again")
    if size // itemsize <= block_size:
        raise UserError(
            f"the text is too short: its {path.stem} part has {size // itemsize} tokens, and a window takes "
            f"block_size + 1 = {block_size + 1}; use a longer text or a smaller --block_size"
        )
    tokens = np.memmap(path, dtype=dtype, mode="r")
    if (largest := int(tokens.max())) >= vocab_size:
        raise UserError(f"{path} has the token {largest}, and its vocabulary ends at {vocab_size - 1}: prepare it again")
    return tokens


def fingerprint(tokens: np.ndarray) -> str:
    """What tells one text from another: a hash of their number and of up to two million of them, evenly spaced."""
    sample = tokens[:: 1 + len(tokens) // 2_000_000]
    return hashlib.sha256(str(len(tokens)).encode() + sample.astype("<u4").tobytes()).hexdigest()


def training_batch(
    tokens: np.ndarray, seed: int, step: int, windows: int, block_size: int, part: int = 0, parts: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random windows for training step `step`, and the same windows one token later.

    A step's global batch has `windows` windows; this is part number `part` of `parts` nearly equal ones (micro-batches
    of gradient accumulation, of all processes).

    Returns x and y of shape (windows of this part, block_size), int64.
    """
    # Philox is a counter-based generator: any (seed, step) is reached at once (Salmon et al. 2011).
    random = np.random.Generator(np.random.Philox(key=np.array([seed, step], dtype=np.uint64)))
    starts = random.integers(len(tokens) - block_size, size=windows)
    return _windows(tokens, starts[part * windows // parts : (part + 1) * windows // parts], block_size)


def spaced_windows(
    tokens: np.ndarray, batch_size: int, block_size: int, batches: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Fixed, evenly spaced windows for a quick estimate of the loss: `batches` pairs as in `training_batch`."""
    count = min(batches * batch_size, (len(tokens) - 1) // block_size)
    starts = np.linspace(0, len(tokens) - block_size - 1, count).astype(np.int64)
    for first in range(0, count, batch_size):
        yield _windows(tokens, starts[first : first + batch_size], block_size)


def all_windows(
    tokens: np.ndarray, batch_size: int, block_size: int
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


def _windows(tokens: np.ndarray, starts: np.ndarray, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x and y (len(starts), length) int64: the windows at `starts`, gathered with one index."""
    window = torch.from_numpy(tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64))
    return window[:, :-1], window[:, 1:]
