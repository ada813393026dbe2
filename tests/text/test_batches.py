"""What a user can rely on of batches: pure functions of seed and step, and no token left out."""

import time

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from kqv.text.batches import all_windows, permuted, spaced_windows, training_batch

TOKENS = np.arange(1000, dtype=np.uint16)  # a token's id is its place


@given(st.integers(0, 2**63), st.integers(0, 10**12))
def test_a_batch_depends_on_seed_and_step_alone(seed: int, step: int) -> None:
    x, _ = training_batch(TOKENS, seed, step, windows=8, block_size=10)
    # What is asked for in between does not matter.
    training_batch(TOKENS, seed + 1, step + 5, windows=3, block_size=7)
    again, _ = training_batch(TOKENS, seed, step, windows=8, block_size=10)
    assert torch.equal(x, again)
    for other in (
        (seed + 1, step),
        (seed, step + 1),
        (step, seed) if seed != step else (seed + 2, step),
    ):
        assert not torch.equal(x, training_batch(TOKENS, *other, windows=8, block_size=10)[0])


def test_targets_are_the_characters_that_follow() -> None:
    x, y = training_batch(TOKENS, seed=1, step=0, windows=8, block_size=10)
    assert x.shape == y.shape == (8, 10) and x.dtype == y.dtype == torch.int64
    assert torch.equal(x, x[:, :1] + torch.arange(10)) and torch.equal(y, x + 1)


def test_windows_begin_everywhere_and_nowhere_too_late() -> None:
    starts = [
        training_batch(TOKENS[:20], 1, step, windows=8, block_size=5)[0][:, 0] for step in range(50)
    ]
    assert sorted(set(torch.cat(starts).tolist())) == list(range(15))
    assert training_batch(TOKENS[:6], 1, 0, windows=2, block_size=5)[1][:, -1].tolist() == [5, 5]


@given(
    st.integers(1, 7),
    st.integers(1, 20),
    st.integers(0, 10**12),
    st.sampled_from(["random", "epoch"]),
)
def test_parts_are_cut_from_one_global_batch(
    parts: int, windows: int, step: int, order: str
) -> None:
    whole, _ = training_batch(TOKENS, 3, step, windows, block_size=10, order=order)
    cut = [
        training_batch(TOKENS, 3, step, windows, 10, part, parts, order)[0] for part in range(parts)
    ]
    assert torch.equal(torch.cat(cut), whole) and len(whole) == windows
    assert max(map(len, cut)) - min(map(len, cut)) <= 1


# --- --order=epoch --------------------------------------------------------------------------------


@given(
    st.integers(2, 300),
    st.integers(1, 30),
    st.integers(1, 9),
    st.integers(0, 2**62),
    st.integers(0, 10**9),
)
def test_an_epoch_reads_each_window_once(
    length: int, block_size: int, windows: int, seed: int, epoch: int
) -> None:
    length = max(length, block_size + 1)
    in_epoch = max(1, (length - block_size) // block_size)
    first = epoch * in_epoch
    steps = range(first // windows, -(-(first + in_epoch) // windows))
    batches = [
        training_batch(TOKENS[:length], seed, step, windows, block_size, order="epoch")
        for step in steps
    ]
    x, y = (torch.cat(pair)[first % windows :][:in_epoch] for pair in zip(*batches, strict=True))
    starts = sorted(x[:, 0].tolist())
    assert torch.equal(x, x[:, :1] + torch.arange(block_size)) and torch.equal(y, x + 1)
    # One after the other, none twice, and little left out at the ends.
    assert starts == [starts[0] + i * block_size for i in range(in_epoch)]
    assert starts[0] < block_size
    assert length - 1 - (starts[-1] + block_size) < 2 * block_size


def test_epochs_begin_at_different_places_and_in_different_orders() -> None:
    epochs = [
        training_batch(TOKENS, 1, epoch, 99, 10, order="epoch")[0][:, 0] for epoch in range(40)
    ]
    assert len({min(epoch.tolist()) for epoch in epochs}) == 10
    assert len({tuple((epoch // 10).tolist()) for epoch in epochs}) == 40
    other = training_batch(TOKENS, 2, 0, 99, 10, order="epoch")[0][:, 0]
    assert other.tolist() != epochs[0].tolist()


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_the_order_of_an_epoch_is_a_permutation_of_any_size(count: int, key: int) -> None:
    keys = [np.full(count, key ^ number, dtype=np.uint64) for number in range(8)]
    assert sorted(permuted(np.arange(count, dtype=np.uint64), count, keys).tolist()) == list(
        range(count)
    )


def test_the_order_of_an_epoch_looks_like_chance() -> None:
    """Chi-square test: where a number is put says nothing of where the numbers after it are."""
    fields, count = 16, 100_000
    tokens = np.arange(count + 1, dtype=np.uint32)
    x, _ = training_batch(tokens, 5, 0, count, 1, order="epoch")
    starts = x[:, 0].numpy()
    for first, second in (
        (np.arange(count), starts),
        (starts[:-1], starts[1:]),
        (starts[:-7], starts[7:]),
    ):
        table = np.zeros((fields, fields))
        np.add.at(table, (first * fields // count, second * fields // count), 1)
        expected = len(first) / fields**2
        chi_square = ((table - expected) ** 2 / expected).sum()
        # 255 degrees of freedom: 255 ± 23; a permutation has a few less.
        assert 150 < chi_square < 360


def test_the_thousand_millionth_step_is_reached_at_once() -> None:
    # Longer than any text, in no memory: the same token everywhere.
    text = np.lib.stride_tricks.as_strided(TOKENS, (10**11,), (0,))
    for step in (0, 10**9, 10**12):
        began = time.process_time()
        training_batch(text, 1, step, 480, 1024, order="epoch")
        assert time.process_time() - began < 1  # it takes some milliseconds


@given(st.integers(2, 200), st.integers(1, 30), st.integers(1, 9))
def test_all_windows_predict_every_token_but_the_first_once_in_order(
    length: int, block_size: int, batch_size: int
) -> None:
    windows = list(all_windows(TOKENS[:length], batch_size, block_size))
    assert torch.cat([y.flatten() for _, y in windows]).tolist() == list(range(1, length))
    assert torch.cat([x.flatten() for x, _ in windows]).tolist() == list(range(length - 1))
    assert all(1 <= len(x) <= batch_size and x.shape[1] <= block_size for x, _ in windows)


@given(st.integers(2, 200), st.integers(1, 30), st.integers(1, 9), st.integers(1, 9))
def test_spaced_windows_are_fixed_even_and_not_too_many(
    length: int, block_size: int, batch_size: int, batches: int
) -> None:
    length = max(length, block_size + 1)

    def windows() -> tuple[torch.Tensor, torch.Tensor]:
        pairs = list(spaced_windows(TOKENS[:length], batch_size, block_size, batches))
        assert len(pairs) <= batches and all(len(x) <= batch_size for x, _ in pairs)
        return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])

    x, y = windows()
    assert torch.equal(x, windows()[0]) and torch.equal(y, x + 1) and x.shape[1] == block_size
    assert len(x) == min(batches * batch_size, (length - 1) // block_size)
    starts = x[:, 0]
    assert starts[0] == 0
    if len(starts) > 1:
        gaps = starts.diff()
        assert y[-1, -1] == length - 1 and gaps.max() - gaps.min() <= 1
        assert gaps.min() >= block_size  # no overlap
