"""What training can rely on of batches of pairs: every pair once an epoch, whatever the ranks."""

import time
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kqv.text import pair_batches
from kqv.text.batches import Batch
from kqv.text.pair_batches import all_pairs, make_batch, pair_batch, spaced_pairs
from kqv.text.pair_splits import PairSplit

BEGIN, END = 98, 99
Numbers = list[tuple[tuple[int, ...], tuple[int, ...]]]


def split_of(lengths: list[tuple[int, int]], block_size: int = 10**6) -> PairSplit:
    """Pairs of these lengths, all of them different."""
    ids = [[number % 97 for _ in range(length)] for number, length in enumerate(sum(lengths, ()))]
    bounds = np.cumsum([0, *map(len, ids)]).astype(np.uint64)
    left_out = [i for i, (a, b) in enumerate(lengths) if max(a, b + 1) > block_size]
    tokens = np.concatenate([np.array(each, dtype=np.uint16) for each in ids])
    return PairSplit(tokens, bounds, BEGIN, END, np.array(left_out, dtype=np.int64), 0)


def rows(batch: Batch) -> Numbers:
    """The pairs of a batch, each read from its row, whose form is checked."""
    found = []
    assert batch.source is not None and batch.weights is not None
    assert batch.ids.dtype == batch.targets.dtype == batch.source.dtype == torch.int64
    assert batch.weights.dtype == torch.float32
    assert batch.ids.shape == batch.targets.shape == batch.weights.shape
    for ids, targets, weights, source in zip(*batch[:4], strict=True):
        length, source_length = int(weights.sum()), int((source >= 0).sum())
        assert weights.tolist() == [1.0] * length + [0.0] * (len(weights) - length)
        assert source[source_length:].tolist() == [-1] * (len(source) - source_length)
        assert ids[0] == BEGIN and targets[length - 1] == END
        assert ids[1:length].tolist() == targets[: length - 1].tolist()
        assert not ids[length:].any() and not targets[length:].any()
        found.append((tuple(source[:source_length].tolist()), tuple(ids[1:length].tolist())))
    assert batch.weights.sum(0)[-1] and (batch.source >= 0).sum(0)[-1]  # no column is padding only
    return found


def pairs_in(batches: Iterable[Batch]) -> Counter:
    """How often each pair is in some batches."""
    return Counter(row for batch in batches for row in rows(batch))


def every_pair(pairs: PairSplit) -> Counter:
    """Each pair once."""
    return Counter(tuple(map(tuple, pairs.pair(number))) for number in range(len(pairs)))


LENGTHS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=60)


@given(LENGTHS, st.integers(0, 2**62), st.integers(0, 5), st.integers(1, 70), st.integers(1, 4))
def test_every_pair_is_used_once_an_epoch_in_batches_of_nearly_equal_size(
    lengths: list[tuple[int, int]], seed: int, epoch: int, count: int, pool: int
) -> None:
    pairs = split_of(lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_batches, "POOL_BATCHES", pool)
        steps = -(-len(lengths) // count)
        batches = [pair_batch(pairs, seed, epoch * steps + i, count) for i in range(steps)]
    assert pairs_in(batches) == every_pair(pairs)
    sizes = [len(batch.ids) for batch in batches]
    assert max(sizes) <= count and max(sizes) - min(sizes) <= 1


@given(LENGTHS, st.integers(0, 9), st.integers(1, 70), st.integers(1, 9))
def test_the_parts_of_a_batch_are_the_whole_and_their_shares_add_up(
    lengths: list[tuple[int, int]], step: int, count: int, parts: int
) -> None:
    pairs = split_of(lengths)
    whole = pair_batch(pairs, 5, step, count)
    each = [pair_batch(pairs, 5, step, count, part, parts) for part in range(parts)]
    assert pairs_in(batch for batch in each if batch.share) == pairs_in([whole])
    assert sum(batch.share for batch in each) == pytest.approx(1) and whole.share == 1
    for batch in each:
        assert len(batch.ids)
        if batch.share:
            share = float(batch.weights.sum() / whole.weights.sum())
            assert batch.share == pytest.approx(share)


@given(LENGTHS, st.integers(0, 2**62), st.integers(0, 10**6))
def test_a_batch_depends_on_seed_and_step_only(
    lengths: list[tuple[int, int]], seed: int, step: int
) -> None:
    before = pair_batch(split_of(lengths), seed, step, 7)
    other = split_of(lengths)
    pair_batch(other, seed + 1, step + 5, 3)
    again = pair_batch(other, seed, step, 7)
    assert all(torch.equal(a, b) for a, b in zip(before[:4], again[:4], strict=True))


def test_epochs_and_seeds_have_other_orders_and_pairs_meet_others() -> None:
    pairs = split_of([(1 + i % 7, 1 + i % 5) for i in range(96)])
    orders = {
        (seed, epoch): [rows(pair_batch(pairs, seed, epoch * 12 + i, 8)) for i in range(12)]
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    assert len({repr(order) for order in orders.values()}) == 4
    dealt = [max(len(target) for _, target in batch) for batch in orders[1, 0]]
    assert dealt != sorted(dealt) and dealt != sorted(dealt, reverse=True)


def test_a_batch_has_pairs_of_similar_length() -> None:
    lengths = np.random.default_rng(1).integers(1, 60, (3000, 2))
    pairs = split_of([tuple(map(int, pair)) for pair in lengths])
    batches = [pair_batch(pairs, 1, step, 30) for step in range(100)]
    filled = sum(float((batch.source >= 0).sum() + batch.weights.sum()) for batch in batches)
    assert filled / sum(batch.source.numel() + batch.ids.numel() for batch in batches) > 0.7
    plain = [make_batch(pairs, np.arange(i, i + 30)) for i in range(0, 3000, 30)]
    filled = sum(float((batch.source >= 0).sum() + batch.weights.sum()) for batch in plain)
    assert filled / sum(batch.source.numel() + batch.ids.numel() for batch in plain) < 0.6


@settings(max_examples=50)
@given(LENGTHS, st.integers(2, 10), st.integers(1, 9))
def test_pairs_that_are_left_out_are_in_no_batch(
    lengths: list[tuple[int, int]], block_size: int, count: int
) -> None:
    pairs = split_of([(1, 1), *lengths], block_size)
    kept = every_pair(pairs)
    assert all(len(s) <= block_size and len(t) < block_size for s, t in kept)
    assert kept.total() == 1 + sum(a <= block_size and b < block_size for a, b in lengths)
    steps = -(-len(pairs) // count)
    assert pairs_in(pair_batch(pairs, 1, step, count) for step in range(steps)) == kept
    assert pairs_in(all_pairs(pairs, count)) == kept


@given(LENGTHS, st.integers(1, 9), st.integers(1, 9))
def test_an_estimate_takes_fixed_pairs_evenly_spaced_over_the_split(
    lengths: list[tuple[int, int]], batch_size: int, batches: int
) -> None:
    pairs = split_of(lengths)
    taken = list(spaced_pairs(pairs, batch_size, batches))
    count = min(batch_size * batches, len(lengths))
    assert sum(len(batch.ids) for batch in taken) == count
    assert len(taken) == -(-count // batch_size)
    places = np.arange(count) * len(lengths) // count
    expected = Counter(tuple(map(tuple, pairs.pair(number))) for number in places)
    assert pairs_in(taken) == expected


def test_a_step_takes_milliseconds() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 60, 2 * 200_000)
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)
    tokens = rng.integers(0, 97, int(bounds[-1])).astype(np.uint16)
    pairs = PairSplit(tokens, bounds, BEGIN, END, np.empty(0, np.int64), 0)
    pair_batch(pairs, 1, 0, 256)
    started = time.process_time()
    for step in range(100):
        pair_batch(pairs, 1, step, 256)
    assert (time.process_time() - started) / 100 < 0.02
