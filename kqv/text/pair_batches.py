"""The batch of pairs of step n: a pure function of (seed, step), like those of batches.py.

    epoch: all pairs in a random order
      ──▶ pools of up to 64 batches, each sorted by length ──▶ batches, dealt in a random order

So a batch has pairs of similar length and little padding, and every pair is used once an epoch.
"""

import functools
from collections.abc import Iterator

import numpy as np
import torch

from kqv.text.batches import FEISTEL_ROUNDS, Batch, hashed, permuted
from kqv.text.pair_splits import PairSplit

# Of a pool; with more there is less padding, and less chance in what goes together.
POOL_BATCHES = 64
PADDING = -1  # of sources: that of model.py, which nothing in kqv/text imports


def pair_batch(
    pairs: PairSplit, seed: int, step: int, count: int, part: int = 0, parts: int = 1
) -> Batch:
    """The pairs of training step `step`: at most `count`, of similar length.

    An epoch is cut into as few batches of at most `count` pairs as possible, whose sizes differ by
    at most one. This is part number `part` of `parts` nearly equal ones: the micro-batches of
    gradient accumulation, of all ranks. If there are fewer pairs than parts, a part without a pair
    has the share 0.
    """
    batches = -(-len(pairs) // count)  # of an epoch
    epoch, place = divmod(step, batches)
    pools = -(-batches // POOL_BATCHES)
    pool = place * pools // batches
    # The first batch of a pool is the first whose place gives this number.
    first, end = (-(-number * batches // pools) for number in (pool, pool + 1))
    numbers = _pool(pairs, seed, epoch, batches, first, end)[place - first]
    if part >= len(numbers):
        return make_batch(pairs, numbers[:1], share=0.0)
    predicted = pairs.spans(numbers).target_lengths + 1
    # Neighbours go to different parts, so that the ranks have equal work.
    share = float(predicted[part::parts].sum() / predicted.sum())
    return make_batch(pairs, numbers[part::parts], share)


@functools.lru_cache(maxsize=4)  # the steps of a pool follow each other
def _pool(
    pairs: PairSplit, seed: int, epoch: int, batches: int, first: int, end: int
) -> list[np.ndarray]:
    """The numbers of the pairs of batches `first` to `end` of an epoch, in the order they are
    dealt."""
    bounds = np.arange(first, end + 1, dtype=np.int64) * len(pairs) // batches
    places = np.arange(bounds[0], bounds[-1], dtype=np.uint64)
    numbers = np.uint64(seed) + np.arange(FEISTEL_ROUNDS + 1, dtype=np.uint64)
    *keys, for_dealing = hashed(hashed(numbers) ^ np.uint64(epoch))
    numbers = permuted(places, len(pairs), [np.broadcast_to(key, places.shape) for key in keys])
    numbers = numbers.astype(np.int64)
    numbers = by_length(pairs, numbers)
    sorted_batches = np.split(numbers, bounds[1:-1] - bounds[0])
    key = np.array([for_dealing, first], dtype=np.uint64)
    order = np.random.Generator(np.random.Philox(key=key)).permutation(len(sorted_batches))
    return [sorted_batches[number] for number in order]


def all_pairs(pairs: PairSplit, batch_size: int) -> Iterator[Batch]:
    """The whole split, each pair once, in batches of pairs of similar length, short ones first."""
    numbers = by_length(pairs, np.arange(len(pairs)))
    for first in range(0, len(numbers), batch_size):
        yield make_batch(pairs, numbers[first : first + batch_size])


def spaced_pairs(pairs: PairSplit, batch_size: int, batches: int) -> Iterator[Batch]:
    """Fixed pairs, evenly spaced over the split, for a quick estimate: up to `batches` batches."""
    numbers = by_length(pairs, spaced_numbers(pairs, batches * batch_size))
    for first in range(0, len(numbers), batch_size):
        yield make_batch(pairs, numbers[first : first + batch_size])


def spaced_numbers(pairs: PairSplit, count: int) -> np.ndarray:
    """Numbers of up to `count` pairs, evenly spaced over the split, shape (pairs,)."""
    count = min(count, len(pairs))
    return np.arange(count) * len(pairs) // count


def by_length(pairs: PairSplit, numbers: np.ndarray) -> np.ndarray:
    """Numbers of pairs sorted by the longer side, then by both together, shape (pairs,).

    Pairs of equal length stay in their order. On spelling to sounds and on German to English, nine
    tenths of a batch are tokens then, and eight if sorted by both sides together.
    """
    spans = pairs.spans(numbers)
    longer = np.maximum(spans.source_lengths, spans.target_lengths)
    return numbers[np.lexsort((spans.end - spans.source, longer))]


def make_batch(pairs: PairSplit, numbers: np.ndarray, share: float = 1.0) -> Batch:
    """The pairs of these numbers as tensors; shape (pairs,) gives:

    source   (pairs, longest source) int64, padded with -1
    ids      (pairs, longest target + 1) int64: U+0002, then the target; padded with 0
    targets  the same shape: the target, then U+0003; padded with 0
    weights  the same shape, float32: 1, and 0 where it is padded
    """
    spans = pairs.spans(numbers)
    lengths = spans.target_lengths
    width = int(lengths.max()) + 1
    source = _rows(pairs, spans.source, spans.source_lengths, PADDING)
    target = _rows(pairs, spans.target, lengths, 0)
    ids, targets = (np.zeros((len(numbers), width), dtype=np.int64) for _ in range(2))
    ids[:, 0], ids[:, 1:] = pairs.begin, target
    targets[:, :-1] = target
    targets[np.arange(len(numbers)), lengths] = pairs.end
    weights = (np.arange(width) <= lengths[:, None]).astype(np.float32)
    as_tensor = torch.from_numpy
    return Batch(as_tensor(ids), as_tensor(targets), as_tensor(weights), as_tensor(source), share)


def _rows(pairs: PairSplit, starts: np.ndarray, lengths: np.ndarray, padding: int) -> np.ndarray:
    """The ids from each of `starts` on, in rows of shape (pairs, longest), int64, padded."""
    columns = np.arange(int(lengths.max()))
    is_id = columns < lengths[:, None]
    rows = np.full(is_id.shape, padding, dtype=np.int64)
    rows[is_id] = pairs.tokens[(starts[:, None] + columns)[is_id]]
    return rows
