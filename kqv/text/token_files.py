"""Token files: ids as uint16 or uint32 and nothing else, as nanoGPT has them.

    train.bin  train.1.bin  train.2.bin ...    one split in files of a gigabyte or two ("shards"), one after the other

A split of any size is read as one array, mapped into memory, of which no more is resident than what was asked for last.
"""

import hashlib
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

from kqv.errors import MachineError, UserError
from kqv.text.tokenizer import token_dtype

SHARD = 1 << 30  # tokens in a file that is written here
SMALL = 1 << 26  # bytes of a split that is read whole when it is opened
FEW = 1 << 28  # tokens of a text that are looked at all over for its fingerprint


def shard_files(path: Path) -> list[Path]:
    """The files of a split that begins with `path`: train.bin, then train.1.bin and so on, as far as they are there."""
    files = [path]
    while (following := _shard(path, len(files))).exists():
        files.append(following)
    return files


def _shard(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}") if number else path


class TokenWriter:
    """Writes the ids of one split, shard after shard."""

    def __init__(self, path: Path, dtype: type[np.unsignedinteger], written: int = 0) -> None:
        """Goes on after the `written` tokens that are there already; what was written beyond them is cut off."""
        self.path, self.dtype, self.tokens = path, dtype, written
        self.itemsize = np.dtype(dtype).itemsize
        number, rest = divmod(written, SHARD)
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
            if self.tokens and self.tokens % SHARD == 0 and self.file.tell():
                self.close()
                self._open(self.tokens // SHARD, 0)
            now = ids[: SHARD - self.tokens % SHARD]
            data = np.ascontiguousarray(now, dtype=self.dtype).data.cast("B")
            while data:  # a disk that is almost full takes a part; the next try tells why
                data = data[self.file.write(data) :]
            self.tokens += len(now)
            ids = ids[len(now) :]

    def flush(self) -> None:
        """See to it that all that was written is on the disk."""
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Flush, and write no more."""
        self.flush()
        self.file.close()


class Tokens:
    """The ids of a split as one array that is read from its files when it is indexed.

    >>> tokens = open_tokens(folder / "train.bin", vocab_size=65, block_size=64)      # doctest: +SKIP
    >>> len(tokens), tokens[:3], tokens[np.array([[0, 1], [7, 8]])].shape             # doctest: +SKIP
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
        self.large = sum(map(len, self.maps)) > SMALL
        self._check_sizes()
        if self.large:
            self._advise(
                "MADV_RANDOM"
            )  # reading ahead of a window that is drawn would read what nobody asked for
        else:
            for number, ids in enumerate(self.shards):
                self._check(ids, number)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, places: Any) -> np.ndarray:
        """The ids in a slice, or at an array of places (of that array's shape), as a copy.

        Raises UserError for an id that is not in the vocabulary. (Of a large split only what is read can be looked at.)
        Raises MachineError if another process has cut a file short meanwhile.
        """
        self._check_sizes()
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        if len(self.shards) == 1:
            ids = self._read(0, places)
        else:
            ids, number = (
                np.empty(places.shape, self.dtype),
                np.searchsorted(self.starts, places, side="right") - 1,
            )
            for shard in np.unique(number):
                there = number == shard
                ids[there] = self._read(shard, places[there] - self.starts[shard])
        if self.large:
            # What is mapped counts as memory of this process until it is given back; in the system's cache it stays.
            self._advise("MADV_DONTNEED")
        return ids

    def _read(self, shard: int, places: np.ndarray) -> np.ndarray:
        ids = self.shards[shard][places]
        if self.large:
            self._check(ids, shard)
        return ids

    def _check(self, ids: np.ndarray, shard: int) -> None:
        if (largest := int(ids.max(initial=0))) >= self.vocab_size:
            end = self.vocab_size - 1
            raise UserError(
                f"{self.files[shard]} has the token {largest}, and its vocabulary ends at {end}: prepare it again"
            )

    def _check_sizes(self) -> None:
        """Reading a mapped file beyond its end kills the process (SIGBUS): look first, it takes a
        microsecond. Raises MachineError."""
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


Ids = np.ndarray | Tokens  # what training reads


def open_tokens(path: Path, vocab_size: int, block_size: int) -> Tokens:
    """The split that begins with the file `path`, mapped into memory, shape (tokens,).

    Raises UserError if it holds no whole window, or an id that is not in the vocabulary; for a large split that is found
    when the id is read.
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
                f"{file} is damaged: {size} bytes are no whole number of {itemsize}-byte ids; prepare it again"
            )
        count += size // itemsize
    if count <= block_size:
        split = {"train": "training split", "val": "validation split"}.get(path.stem, path.stem)
        smaller = (
            f", or --block_size={count - 1}"
            if count > 1
            else f"; no --block_size is short enough for {count}"
        )
        raise UserError(
            f"the text is too short: its {split} has {count} tokens, and a window takes block_size + 1 = {block_size + 1}; "
            f"take a longer text{smaller}"
        )
    return Tokens(files, dtype, vocab_size)


def count_tokens(path: Path, vocab_size: int) -> int:
    """How many tokens a split has that begins with the file `path`."""
    return count_bytes(path) // np.dtype(token_dtype(vocab_size)).itemsize


def count_bytes(path: Path) -> int:
    """The size of a split that begins with the file `path`. Raises UserError if that is missing."""
    try:
        return sum(file.stat().st_size for file in shard_files(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; prepare it again") from None


def fingerprint(tokens: Ids) -> str:
    """What tells one text from another: a hash of their number and of up to two million of them, evenly spaced; in a text
    that is read from a disk for long, they are in a thousand places."""
    if len(tokens) <= FEW:
        sample = tokens[:: 1 + len(tokens) // 2_000_000]
    else:
        starts = np.linspace(0, len(tokens) - 2000, 1000).astype(np.int64)
        sample = tokens[(starts[:, None] + np.arange(2000)).ravel()]
    return hashlib.sha256(str(len(tokens)).encode() + sample.astype("<u4").tobytes()).hexdigest()
