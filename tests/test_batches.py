"""What a user can rely on of batches: each is a pure function of seed and step, and every token gets its turn."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kqv.batches import all_windows, fingerprint, open_tokens, spaced_windows, training_batch

TOKENS = np.arange(1000, dtype=np.uint16)  # a token's id is its place


@given(st.integers(0, 2**63), st.integers(0, 10**12))
def test_a_batch_depends_on_seed_and_step_alone(seed: int, step: int) -> None:
    x, _ = training_batch(TOKENS, seed, step, windows=8, block_size=10)
    training_batch(TOKENS, seed + 1, step + 5, windows=3, block_size=7)  # what is asked in between does not matter
    again, _ = training_batch(TOKENS, seed, step, windows=8, block_size=10)
    assert torch.equal(x, again)
    for other in ((seed + 1, step), (seed, step + 1), (step, seed) if seed != step else (seed + 2, step)):
        assert not torch.equal(x, training_batch(TOKENS, *other, windows=8, block_size=10)[0])


def test_targets_are_the_characters_that_follow() -> None:
    x, y = training_batch(TOKENS, seed=1, step=0, windows=8, block_size=10)
    assert x.shape == y.shape == (8, 10) and x.dtype == y.dtype == torch.int64
    assert torch.equal(x, x[:, :1] + torch.arange(10)) and torch.equal(y, x + 1)


def test_windows_begin_everywhere_and_nowhere_too_late() -> None:
    starts = [training_batch(TOKENS[:20], 1, step, windows=8, block_size=5)[0][:, 0] for step in range(50)]
    assert sorted(set(torch.cat(starts).tolist())) == list(range(15))
    assert training_batch(TOKENS[:6], 1, 0, windows=2, block_size=5)[1][:, -1].tolist() == [5, 5]


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**12))
def test_parts_are_cut_from_one_global_batch(parts: int, more: int, step: int) -> None:
    whole, _ = training_batch(TOKENS, 3, step, parts + more, block_size=10)
    cut = [training_batch(TOKENS, 3, step, parts + more, 10, part, parts)[0] for part in range(parts)]
    assert max(map(len, cut)) - min(map(len, cut)) <= 1
    assert torch.equal(torch.cat(cut), whole)


@given(st.integers(2, 200), st.integers(1, 30), st.integers(1, 9))
def test_all_windows_predict_every_token_but_the_first_once_in_order(length: int, block_size: int, batch_size: int) -> None:
    windows = list(all_windows(TOKENS[:length], batch_size, block_size))
    assert torch.cat([y.flatten() for _, y in windows]).tolist() == list(range(1, length))
    assert torch.cat([x.flatten() for x, _ in windows]).tolist() == list(range(length - 1))
    assert all(1 <= len(x) <= batch_size and x.shape[1] <= block_size for x, _ in windows)


@given(st.integers(2, 200), st.integers(1, 30), st.integers(1, 9), st.integers(1, 9))
def test_spaced_windows_are_fixed_even_and_not_too_many(length: int, block_size: int, batch_size: int, batches: int) -> None:
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
        assert y[-1, -1] == length - 1 and gaps.max() - gaps.min() <= 1 and gaps.min() >= block_size  # none overlaps


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_a_token_file_is_mapped_as_it_was_written(dtype: type, tmp_path: Path) -> None:
    TOKENS.astype(dtype).tofile(tmp_path / "train.bin")
    tokens = open_tokens(tmp_path / "train.bin", np.iinfo(dtype).max, block_size=999)
    assert isinstance(tokens, np.memmap) and np.array_equal(tokens, TOKENS)


def test_a_token_file_that_cannot_be_used_is_refused_by_name(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "train.bin"
    with refused(str(path), "missing", "prepare.py"):
        open_tokens(path, 65, 4)
    path.write_bytes(b"")
    with refused("too short", "train part has 0 tokens"):
        open_tokens(path, 65, 4)
    path.write_bytes(b"abc")
    with refused(str(path), "damaged", "3 bytes"):
        open_tokens(path, 65, 4)
    TOKENS[:10].tofile(path)
    with refused("too short", "train part has 10 tokens", "block_size + 1 = 11", "--block_size"):
        open_tokens(path, 65, 10)
    assert len(open_tokens(path, 65, 9)) == 10


def test_an_id_beyond_the_vocabulary_is_found_before_the_first_step(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "val.bin"
    np.array([0, 1, 64, 2, 3], dtype=np.uint16).tofile(path)
    assert len(open_tokens(path, 65, 4)) == 5
    with refused(str(path), "token 64", "ends at 63", "prepare it again"):
        open_tokens(path, 64, 4)


@given(st.lists(st.integers(0, 64), min_size=1, max_size=40), st.data())
def test_another_text_has_another_fingerprint(tokens: list[int], data: st.DataObject) -> None:
    text = np.array(tokens, dtype=np.uint16)
    assert fingerprint(text) == fingerprint(text.astype(np.uint32))  # it is of the text, not of how it is kept
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text.copy()
    changed[place] = (changed[place] + data.draw(st.integers(1, 64))) % 65
    for other in (changed, text[:-1], np.append(text, 0)):
        assert fingerprint(other) != fingerprint(text)


def test_a_long_text_is_told_by_a_part_of_it() -> None:
    text = np.arange(5_000_000, dtype=np.uint32)
    assert fingerprint(text) != fingerprint(text[:-1]) != fingerprint(np.roll(text, 1)[:-1])
