"""The pairs of one split, read from its files.

    train.bin          source ids, target ids, source ids, target ids, ... of all pairs
    train.index.bin    where each of them begins, uint64: 0, end of source 0, end of target 0, ...

Both are mapped into memory, so a split may have any size. Token ids are those of two vocabularies
if each side has its own.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kqv.errors import UserError
from kqv.text.token_files import INDEX_BYTES, Ids, Tokens, index_file, shard_files, split_bytes
from kqv.text.tokenizer import DOCUMENT_END, TARGET_BEGIN, Tokenizer, token_dtype

READ_PAIRS = 1 << 20  # whose lengths are read at a time


class Spans(NamedTuple):
    """Where pairs lie in a token file; each field has the shape (pairs,), int64."""

    source: np.ndarray
    """position of the first source id"""
    target: np.ndarray
    """position of the first target id, behind the last source id"""
    end: np.ndarray
    """position behind the last target id"""

    @property
    def source_lengths(self) -> np.ndarray:
        """Tokens of each source."""
        return self.target - self.source

    @property
    def target_lengths(self) -> np.ndarray:
        """Tokens of each target, without its two markers."""
        return self.end - self.target


@dataclass(eq=False)
class PairSplit:
    """The pairs of a split that fit into a block, numbered from 0 in the order of the files."""

    tokens: Ids
    index: Ids
    begin: int
    """id of U+0002, which begins a target"""
    end: int
    """id of U+0003, which ends it"""
    left_out: np.ndarray
    """places of the pairs that do not fit, ascending, int64"""
    longest: int
    """tokens of the longest side of all pairs, a target's end included"""

    def __len__(self) -> int:
        return len(self.index) // 2 - len(self.left_out)

    @property
    def all_pairs(self) -> int:
        """Number of pairs, with those that are left out."""
        return len(self.index) // 2

    @cached_property
    def _pairs_before(self) -> np.ndarray:
        """How many pairs that fit stand before each of those that do not, (left_out,) int64."""
        return self.left_out - np.arange(len(self.left_out))

    def spans(self, numbers: np.ndarray) -> Spans:
        """Where pairs lie in `tokens`; `numbers` has the shape (pairs,)."""
        # Before pair number n, as many pairs are left out as have at most n pairs before them.
        places = numbers + np.searchsorted(self._pairs_before, numbers, side="right")
        bounds = self.index[2 * places[:, None] + np.arange(3)].astype(np.int64)
        return Spans(bounds[:, 0], bounds[:, 1], bounds[:, 2])

    def pair(self, number: int) -> tuple[list[int], list[int]]:
        """The source ids and the target ids of one pair, without markers."""
        (source,), (target,), (end,) = self.spans(np.array([number]))
        return self.tokens[source:target].tolist(), self.tokens[target:end].tolist()


def check_index(folder: Path, split: str, pairs: int) -> None:
    """Raises UserError if a split has no index of so many pairs."""
    size, expected = split_bytes(index_file(folder, split)), (2 * pairs + 1) * INDEX_BYTES
    if size != expected:
        raise UserError(
            f"{index_file(folder, split)} has {size:,} bytes, and {expected:,} were written: "
            f"prepare the pairs again"
        )


def open_pair_split(
    folder: Path, split: str, source: Tokenizer, target: Tokenizer, block_size: int
) -> PairSplit:
    """Map the pairs of a split into memory, without those that are longer than a block.

    A source takes at most block_size tokens, a target one less, because its end takes one.
    Raises UserError if no pair is left, or the files are damaged.
    """
    vocab_size = max(source.vocab_size, target.vocab_size)
    tokens = _open(folder / f"{split}.bin", token_dtype(vocab_size), vocab_size)
    index = _open(index_file(folder, split), np.uint64, len(tokens) + 1)
    markers = target.marker_id(TARGET_BEGIN), target.marker_id(DOCUMENT_END)
    everything = PairSplit(tokens, index, *markers, np.empty(0, np.int64), 0)
    left_out, longest = [everything.left_out], 0
    for first in range(0, everything.all_pairs, READ_PAIRS):
        numbers = np.arange(first, min(first + READ_PAIRS, everything.all_pairs))
        spans = everything.spans(numbers)
        if min(spans.source_lengths.min(), spans.target_lengths.min()) < 1:
            raise UserError(f"{index_file(folder, split)} is damaged: prepare the pairs again")
        lengths = np.maximum(spans.source_lengths, spans.target_lengths + 1)
        left_out.append(numbers[lengths > block_size])
        longest = max(longest, int(lengths.max()))
    kept = PairSplit(tokens, index, *markers, np.concatenate(left_out), longest)
    if not len(kept):
        raise UserError(_none_left(kept, split, block_size))
    return kept


def _open(path: Path, dtype: type[np.unsignedinteger], limit: int) -> Ids:
    """A file of numbers below `limit`; of none, which cannot be mapped, an empty array."""
    if not split_bytes(path):
        return np.empty(0, dtype)
    return Tokens(shard_files(path), dtype, limit)


def left_out_remark(pairs: PairSplit, split: str, block_size: int) -> str:
    """One line that says how many pairs of a split are left out; "" if none is."""
    if not len(pairs.left_out):
        return ""
    return (
        f"{len(pairs.left_out):,} of {pairs.all_pairs:,} pairs {_purpose(split)} are longer than "
        f"block_size={block_size} and left out; the longest takes --block_size={pairs.longest}"
    )


def _none_left(pairs: PairSplit, split: str, block_size: int) -> str:
    if not pairs.all_pairs:
        return f"there are no pairs {_purpose(split)}: name a file of them"
    return (
        f"all {pairs.all_pairs:,} pairs {_purpose(split)} are longer than block_size={block_size}: "
        f"take --block_size={pairs.longest}"
    )


def _purpose(split: str) -> str:
    return {"train": "to train on", "val": "for validation"}[split]
