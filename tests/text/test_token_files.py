"""What a user can rely on of token files: read as written, in any shards, in little memory."""

import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kqv.errors import MachineError
from kqv.project import ROOT
from kqv.text import token_files
from kqv.text.token_files import TokenWriter, fingerprint, open_tokens

TOKENS = np.arange(1000, dtype=np.uint16)  # a token's id is its place


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_a_token_file_is_mapped_as_it_was_written(dtype: type, tmp_path: Path) -> None:
    TOKENS.astype(dtype).tofile(tmp_path / "train.bin")
    tokens = open_tokens(tmp_path / "train.bin", np.iinfo(dtype).max, block_size=999)
    assert tokens.dtype == dtype and np.array_equal(tokens[:], TOKENS)


def test_a_token_file_that_cannot_be_used_is_refused_by_name(
    tmp_path: Path, refused: Callable
) -> None:
    path = tmp_path / "train.bin"
    with refused(str(path), "missing", "prepare.py"):
        open_tokens(path, 65, 4)
    path.write_bytes(b"")
    with refused("too short", "training split has 0 tokens", "take a longer text"):
        open_tokens(path, 65, 4)
    path.write_bytes(b"abc")
    with refused(str(path), "damaged", "3 bytes"):
        open_tokens(path, 65, 4)
    TOKENS[:10].tofile(path)
    with refused(
        "too short", "training split has 10 tokens", "block_size + 1 = 11", "--block_size=9"
    ):
        open_tokens(path, 65, 10)
    assert len(open_tokens(path, 65, 9)) == 10


def test_an_id_beyond_the_vocabulary_is_found_before_the_first_step(
    tmp_path: Path, refused: Callable
) -> None:
    path = tmp_path / "val.bin"
    np.array([0, 1, 64, 2, 3], dtype=np.uint16).tofile(path)
    assert len(open_tokens(path, 65, 4)) == 5
    with refused(
        str(path), "number 64", "possible is 63", "delete the file, then prepare it again"
    ):
        open_tokens(path, 64, 4)


@pytest.mark.parametrize("small", [100, 1 << 26])
def test_a_token_file_that_is_cut_short_while_it_is_read_is_an_error_that_names_it(
    small: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one it would be the end of the process: SIGBUS."""
    monkeypatch.setattr(token_files, "CHECKED_AT_ONCE", small)
    path = tmp_path / "train.bin"
    np.tile(TOKENS, 100).tofile(path)
    tokens = open_tokens(path, 1000, 9)
    assert tokens[90_000] == 0
    os.truncate(path, 5000)
    for places in (np.array([[90_000, 5]]), slice(90_000, 90_010)):
        with pytest.raises(
            MachineError,
            match=r"train\.bin was cut short while it was read, to 5,000 of 200,000 bytes",
        ):
            tokens[places]


def test_ids_are_written_in_shards_and_read_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_files, "SHARD_TOKENS", 300)
    writer = TokenWriter(tmp_path / "train.bin", np.uint16)
    for start in range(0, 1000, 77):
        writer.write(TOKENS[start : start + 77])
    writer.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes == {"train.bin": 600, "train.1.bin": 600, "train.2.bin": 600, "train.3.bin": 200}
    tokens = open_tokens(tmp_path / "train.bin", 1000, 9)
    assert len(tokens) == 1000 and np.array_equal(tokens[:], TOKENS)
    for part in (
        slice(290, 310),
        slice(None, None, 7),
        slice(999, 2000),
        slice(5, 5),
        slice(-400, -50),
    ):
        assert np.array_equal(tokens[part], TOKENS[part])
    windows = np.random.default_rng(1).integers(990, size=50)[:, None] + np.arange(10)
    assert np.array_equal(tokens[windows], windows) and fingerprint(tokens) == fingerprint(TOKENS)


@settings(max_examples=25)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(1, 12))
def test_writing_continues_after_the_tokens_that_were_noted(
    tmp_path_factory: pytest.TempPathFactory, a: int, b: int, c: int, shard: int
) -> None:
    """`a` tokens were noted, `b` more written before a kill, `c` by the next process."""
    path = tmp_path_factory.mktemp("ids") / "val.bin"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_files, "SHARD_TOKENS", shard)
        killed = TokenWriter(path, np.uint16)
        killed.write(TOKENS[:a])
        killed.write(np.full(b, 7777))
        killed.file.close()
        writer = TokenWriter(path, np.uint16, a)
        writer.write(TOKENS[a : a + c])
        writer.close()
        files = token_files.shard_files(path)
        ids = np.concatenate([np.fromfile(file, np.uint16) for file in files])
    assert np.array_equal(ids, TOKENS[: a + c])
    assert (
        all(file.stat().st_size == 2 * shard for file in files[:-1])
        and files[-1].stat().st_size <= 2 * shard
    )


def test_a_damaged_shard_is_refused_by_name(tmp_path: Path, refused: Callable) -> None:
    TOKENS.tofile(tmp_path / "train.bin")
    for content in (b"", b"abc"):
        (tmp_path / "train.1.bin").write_bytes(content)
        with refused("train.1.bin is damaged"):
            open_tokens(tmp_path / "train.bin", 1000, 9)
    TOKENS[:70].tofile(tmp_path / "train.bin")
    np.array([5, 70], dtype=np.uint16).tofile(tmp_path / "train.1.bin")
    with refused("train.1.bin is damaged", "number 70"):
        open_tokens(tmp_path / "train.bin", 70, 9)


def test_an_id_beyond_the_vocabulary_of_a_large_file_is_found_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.setattr(token_files, "CHECKED_AT_ONCE", 100)
    path = tmp_path / "train.bin"
    TOKENS.tofile(path)
    tokens = open_tokens(path, 900, 9)
    assert np.array_equal(tokens[:900], TOKENS[:900])
    with refused(str(path), "number 904", "possible is 899", "prepare it again"):
        tokens[895:905]


@pytest.mark.skipif(
    not hasattr(mmap, "MADV_DONTNEED") or sys.platform != "linux", reason="reads /proc"
)
def test_memory_stays_flat_over_random_batches_of_a_large_file(tmp_path: Path) -> None:
    """In a process of its own: what is resident after 32,000 windows in 200 MB were read."""
    code = """if True:
        import sys
        from pathlib import Path
        import numpy as np
        from kqv.text.token_files import fingerprint, open_tokens

        def resident() -> int:
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

        tokens = open_tokens(Path(sys.argv[1]), 50257, 64)
        fingerprint(tokens)
        random, most, before = np.random.default_rng(1), 0, resident()
        for batch in range(500):
            starts = random.integers(len(tokens) - 64, size=64)
            tokens[starts[:, None] + np.arange(65)]
            most = max(most, resident() - before)
        print(most)
    """
    path = tmp_path / "train.bin"
    with path.open("wb") as file:
        for _ in range(200):
            file.write(b"\1\0" * (1 << 19))
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert int(done.stdout) < 16 << 20


@given(st.lists(st.integers(0, 64), min_size=1, max_size=40), st.data())
def test_another_text_has_another_fingerprint(tokens: list[int], data: st.DataObject) -> None:
    text = np.array(tokens, dtype=np.uint16)
    # The dtype makes no difference.
    assert fingerprint(text) == fingerprint(text.astype(np.uint32))
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text.copy()
    changed[place] = (changed[place] + data.draw(st.integers(1, 64))) % 65
    for other in (changed, text[:-1], np.append(text, 0)):
        assert fingerprint(other) != fingerprint(text)


def test_the_fingerprint_of_a_long_text_looks_at_a_part_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = np.arange(5_000_000, dtype=np.uint32)
    spaced = fingerprint(text)
    monkeypatch.setattr(token_files, "EVENLY_SPACED_TOKENS", len(text) - 2)
    end, rolled = text.copy(), np.roll(text, 1)
    end[-1] = 0
    parts = [fingerprint(each) for each in (text, text[:-1], end, rolled, rolled[:-1])]
    assert len({spaced, *parts}) == 6
