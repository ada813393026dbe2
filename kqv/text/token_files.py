"""Token files: ids as uint16 or uint32 and nothing else, as in nanoGPT.

    train.bin  train.1.bin  train.2.bin ...    one split, in shards of one or two gigabytes

A split of any size is read as one array, mapped into memory, of which only what was read last is
resident.
"""

import hashlib
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

from kqv.errors import MachineError, UserError
from kqv.text.tokenizer import token_dtype

SPLITS = ("train", "val")
INDEX_BYTES = 8  # of a number in the index of pairs, a uint64
SHARD_TOKENS = 1 << 30  # in a file that is written here
# A split of at most so many bytes is checked whole when it is opened, a larger one as it is read.
CHECKED_AT_ONCE = 1 << 26
FINGERPRINT_TOKENS = 2_000_000  # that a fingerprint looks at
# In a split of more tokens, reading them evenly spaced would touch every page of the files: the
# fingerprint reads them in runs.
EVENLY_SPACED_TOKENS = 1 << 28
FINGERPRINT_RUNS = 1000


def shard_files(path: Path) -> list[Path]:
    """The files of a split whose first one is `path`: train.bin, train.1.bin, and so on."""
    files = [path]
    while (following := _shard(path, len(files))).exists():
        files.append(following)
    return files


def index_file(folder: Path, split: str) -> Path:
    """The file that says where the pairs of a split begin."""
    return folder / f"{split}.index.bin"


def _shard(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}") if number else path


class TokenWriter:
    """Writes the token ids of one split, shard after shard."""

    def __init__(self, path: Path, dtype: type[np.unsignedinteger], written: int = 0) -> None:
        """Continue after the `written` tokens that are there; what is beyond them is cut off."""
        self.path, self.dtype, self.tokens = path, dtype, written
        self.itemsize = np.dtype(dtype).itemsize
        number, rest = divmod(written, SHARD_TOKENS)
        for beyond in shard_files(path)[number + 1 :]:
            beyond.unlink()
        self._open(number, rest)

    def _open(self, number: int, tokens: int) -> None:
        path = _shard(self.path, number)
        path.touch()
        self.file = path.open("r+b", buffering=0)
        self.file.truncate(tokens * self.itemsize)
        self.file.seek(0, os.SEEK_END)

    def write(self, ids: np.ndarray) -> None:
        """Append ids, shape (any,)."""
        while len(ids):
            if self.tokens and self.tokens % SHARD_TOKENS == 0 and self.file.tell():
                self.close()
                self._open(self.tokens // SHARD_TOKENS, 0)
            now = ids[: SHARD_TOKENS - self.tokens % SHARD_TOKENS]
            data = np.ascontiguousarray(now, dtype=self.dtype).data.cast("B")
            while data:  # an almost full disk takes a part; the next try raises the error
                data = data[self.file.write(data) :]
            self.tokens += len(now)
            ids = ids[len(now) :]

    def flush(self) -> None:
        """Make what was written durable (fsync)."""
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Flush, and write no more."""
        self.flush()
        self.file.close()


class Tokens:
    """The token ids of a split as one array, read from its files when it is indexed.

    >>> tokens = open_tokens(folder / "train.bin", 65, block_size=64)        # doctest: +SKIP
    >>> len(tokens), tokens[:3], tokens[np.array([[0, 1], [7, 8]])].shape    # doctest: +SKIP
    (1003854, array([18, 47, 56], dtype=uint16), (2, 2))
    """

    def __init__(self, files: list[Path], dtype: type[np.unsignedinteger], vocab_size: int) -> None:
        self.files, self.dtype, self.vocab_size = files, np.dtype(dtype), vocab_size
        self.maps: list[mmap.mmap] = []
        for path in files:
            with path.open("rb") as file:
                self.maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self.shards = [np.frombuffer(data, dtype=dtype) for data in self.maps]
        self.starts = np.cumsum([0, *map(len, self.shards)])
        self.large = sum(map(len, self.maps)) > CHECKED_AT_ONCE
        self._check_sizes()
        if self.large:
            # Windows are drawn at random: read-ahead would read what nobody asked for.
            self._advise("MADV_RANDOM")
        else:
            for number, ids in enumerate(self.shards):
                self._check_ids(ids, number)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, places: Any) -> np.ndarray:
        """The ids in a slice, or at an array of positions (of that array's shape), as a copy.

        Raises UserError for an id that is not in the vocabulary (of a large split, only what is
        read is checked), and MachineError if another process has truncated a file meanwhile.
        """
        self._check_sizes()
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        if len(self.shards) == 1:
            ids = self._read(0, places)
        else:
            ids = np.empty(places.shape, self.dtype)
            shard_of = np.searchsorted(self.starts, places, side="right") - 1
            for shard in np.unique(shard_of):
                here = shard_of == shard
                ids[here] = self._read(shard, places[here] - self.starts[shard])
        if self.large:
            # Mapped pages count as this process's memory until it gives them back; they stay in
            # the page cache of the system.
            self._advise("MADV_DONTNEED")
        return ids

    def _read(self, shard: int, places: np.ndarray) -> np.ndarray:
        ids = self.shards[shard][places]
        if self.large:
            self._check_ids(ids, shard)
        return ids

    def _check_ids(self, ids: np.ndarray, shard: int) -> None:
        if (largest := int(ids.max(initial=0))) >= self.vocab_size:
            raise UserError(
                f"{self.files[shard]} is damaged: it has the number {largest}, and the largest "
                f"possible is {self.vocab_size - 1}; delete the file, then prepare it again"
            )

    def _check_sizes(self) -> None:
        """Raises MachineError if a file has become shorter.

        Reading a mapped file beyond its end kills the process (SIGBUS). This check takes a
        microsecond.
        """
        for path, data in zip(self.files, self.maps, strict=True):
            if data.size() < len(data):
                raise MachineError(
                    f"{path} was cut short while it was read, to {data.size():,} of {len(data):,} "
                    f"bytes: prepare it again, then go on with --init_from=resume"
                )

    def _advise(self, advice: str) -> None:
        if hasattr(mmap, advice):  # not on Windows
            for data in self.maps:
                data.madvise(getattr(mmap, advice))


Ids = np.ndarray | Tokens  # token ids of a split, as training reads them


def open_tokens(path: Path, vocab_size: int, block_size: int) -> Tokens:
    """Map the split whose first file is `path` into memory, shape (tokens,).

    Raises UserError if it is shorter than one window, or has an id that is not in the vocabulary
    (of a large split, that is found when the id is read).
    """
    dtype = token_dtype(vocab_size)
    itemsize, files = np.dtype(dtype).itemsize, shard_files(path)
    count = 0
    for file in files:
        try:
            size = file.stat().st_size
        except FileNotFoundError:
            raise UserError(f"{file} is missing: run the dataset's prepare.py again") from None
        if size % itemsize or (file != path and not size):
            raise UserError(
                f"{file} is damaged: {size} bytes are no whole number of {itemsize}-byte ids; "
                f"prepare it again"
            )
        count += size // itemsize
    if count <= block_size:
        raise UserError(_too_short(path, count, block_size))
    return Tokens(files, dtype, vocab_size)


def _too_short(path: Path, count: int, block_size: int) -> str:
    split = {"train": "training split", "val": "validation split"}.get(path.stem, path.stem)
    if count > 1:
        remedy = f", or --block_size={count - 1}"
    else:
        remedy = f"; no --block_size is short enough for {count}"
    return (
        f"the text is too short: its {split} has {count} tokens, and a window takes "
        f"block_size + 1 = {block_size + 1}; take a longer text{remedy}"
    )


def count_tokens(path: Path, vocab_size: int) -> int:
    """Number of tokens of the split whose first file is `path`."""
    return split_bytes(path) // np.dtype(token_dtype(vocab_size)).itemsize


def split_bytes(path: Path) -> int:
    """Bytes of the split whose first file is `path`. Raises UserError if that is missing."""
    try:
        return sum(file.stat().st_size for file in shard_files(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; prepare it again") from None


def fingerprint(tokens: Ids) -> str:
    """A hash that tells one text from another: of its length and of up to two million tokens.

    The tokens are evenly spaced, or, in a large split, in a thousand runs of 2000.
    """
    if len(tokens) <= EVENLY_SPACED_TOKENS:
        sample = tokens[:: 1 + len(tokens) // FINGERPRINT_TOKENS]
    else:
        length = FINGERPRINT_TOKENS // FINGERPRINT_RUNS
        starts = np.linspace(0, len(tokens) - length, FINGERPRINT_RUNS).astype(np.int64)
        sample = tokens[(starts[:, None] + np.arange(length)).ravel()]
    return hashlib.sha256(str(len(tokens)).encode() + sample.astype("<u4").tobytes()).hexdigest()
