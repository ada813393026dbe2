"""Pairs to token files: on all cores, in order, and so that a kill loses only seconds."""

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kqv.text.pair_files import Pair
from kqv.text.preparation import UNKNOWN_LISTED
from kqv.text.token_files import INDEX_BYTES, SPLITS, TokenWriter, index_file, split_bytes
from kqv.text.tokenizer import Tokenizer, token_dtype
from kqv.text.tokenizing import SAVE_INTERVAL, map_in_order, skip_done
from kqv.text.unfinished import OUTPUT_FOLDER, PairProgress

PairPart = tuple[str, list[Pair]]  # the name of a split, and pairs that belong to it


class Sides(NamedTuple):
    """The tokenizers of both sides: one object if they have one vocabulary."""

    source: Tokenizer
    target: Tokenizer

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """Of the ids in token files."""
        return token_dtype(max(self.source.vocab_size, self.target.vocab_size))


class Encoded(NamedTuple):
    """The ids of some pairs: source, target, source, target, ..."""

    ids: np.ndarray
    """shape (tokens,)"""
    lengths: np.ndarray
    """tokens of each source and each target, shape (2 · pairs,), uint64"""
    unknown_pairs: int
    """pairs with an unknown character or symbol"""
    unknown: list[str]
    """these characters or symbols"""


def write_pair_files(
    parts: Iterable[PairPart], sides: Sides, progress: PairProgress, workspace: Path
) -> None:
    """Write token ids and index of both splits into the output folder of a workspace.

    `parts` are all pairs, split by split. What is unknown in a validation pair becomes U+FFFD, and
    is noted. Continues where `progress` says, and saves it.
    """
    folder = workspace / OUTPUT_FOLDER
    _start_over_if_lost(progress, folder, sides)
    if progress.done:
        print(
            f"continuing what was prepared before: {progress.done:,} pairs are done",
            file=sys.stderr,
        )
    done = {"train": min(progress.done, progress.train_pairs)}
    done["val"] = progress.done - done["train"]
    written = {"train": progress.train, "val": progress.val}
    writers = {s: PairWriter(folder, s, sides.dtype, done[s], written[s]) for s in SPLITS}
    last_save = time.monotonic()
    parts = skip_done(progress.done, parts)
    for (split, pairs), encoded in map_in_order(lambda part: encode_part(part, sides), parts):
        writers[split].write(encoded)
        progress.done += len(pairs)
        progress.train, progress.val = (writers[s].ids.tokens for s in SPLITS)
        progress.unknown_pairs += encoded.unknown_pairs
        names = dict.fromkeys([*progress.unknown, *encoded.unknown])
        progress.unknown = [*names][:UNKNOWN_LISTED]
        if time.monotonic() - last_save > SAVE_INTERVAL:
            for writer in writers.values():
                writer.flush()
            progress.save(workspace)
            last_save = time.monotonic()
    for writer in writers.values():
        writer.close()


class PairWriter:
    """Writes the token ids of a split, and the index of them."""

    def __init__(
        self, folder: Path, split: str, dtype: type[np.unsignedinteger], pairs: int, tokens: int
    ) -> None:
        """Continue after the pairs and tokens that are there."""
        self.ids = TokenWriter(folder / f"{split}.bin", dtype, tokens)
        self.index = TokenWriter(index_file(folder, split), np.uint64, 2 * pairs + bool(pairs))
        if not pairs:
            self.index.write(np.zeros(1, dtype=np.uint64))

    def write(self, encoded: Encoded) -> None:
        """Append pairs."""
        self.index.write(np.uint64(self.ids.tokens) + np.cumsum(encoded.lengths))
        self.ids.write(encoded.ids)

    def flush(self) -> None:
        """Make what was written durable (fsync)."""
        self.ids.flush()
        self.index.flush()

    def close(self) -> None:
        """Flush, and write no more."""
        self.ids.close()
        self.index.close()


def encode_part(part: PairPart, sides: Sides) -> Encoded:
    """The ids of pairs. Raises UserError for what is unknown in a pair to train on."""
    split, pairs = part
    ids: list[np.ndarray] = []
    unknown: list[str] = []
    unknown_pairs = 0
    for pair in pairs:
        in_this: list[str] = []
        for tokenizer, text in zip(sides, pair, strict=True):
            if split == "val" and not tokenizer.knows(text):
                in_this += tokenizer.encode_known(text)[1]
                text = tokenizer.replace_unknown(text)
            ids.append(tokenizer.encode_array(text))
        unknown += in_this
        unknown_pairs += bool(in_this)
    lengths = np.array([len(each) for each in ids], dtype=np.uint64)
    return Encoded(np.concatenate(ids), lengths, unknown_pairs, unknown)


def _start_over_if_lost(progress: PairProgress, folder: Path, sides: Sides) -> None:
    """Reset the progress if a file has fewer numbers: a power cut kept the note and lost them."""
    in_train = min(progress.done, progress.train_pairs)
    itemsize = np.dtype(sides.dtype).itemsize
    for split, pairs, tokens in (
        ("train", in_train, progress.train),
        ("val", progress.done - in_train, progress.val),
    ):
        ids, index = folder / f"{split}.bin", index_file(folder, split)
        is_there = ids.exists() and index.exists()
        bounds = 2 * pairs + 1 if pairs else 0
        if (
            not is_there
            or split_bytes(ids) < tokens * itemsize
            or split_bytes(index) < bounds * INDEX_BYTES
        ):
            progress.done = progress.train = progress.val = progress.unknown_pairs = 0
            progress.unknown = []
            return
