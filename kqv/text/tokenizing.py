"""Pieces of text to token files: on all cores, in order, and so that a process that is killed loses seconds of it.

    ("train", "To be, or"), ("train", " not to be"), ("val", ", that is") ──threads──▶ ids ──▶ train.bin, val.bin

The ids are the same however many threads there are and however often it was interrupted: a text is cut only where that
makes no difference, and they are written in the order of the text.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

import numpy as np

from kqv.errors import UserError
from kqv.files import LARGEST_NOTE, read_small, replacing
from kqv.machine.load import core_count
from kqv.text.token_files import TokenWriter, count_tokens
from kqv.text.tokenizer import CharTokenizer, Tokenizer, token_dtype

KEEP_EVERY = 5.0  # seconds between two notes of how far it is
PROGRESS = "progress.json"
SPLITS = ("train", "val")
Part = tuple[str, str]  # the name of a split, and a piece of text that belongs to it
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Progress:
    """How far a preparation is: what was found in the text, and what of it is written."""

    length: int = 0
    """characters of the text"""
    characters: str = ""
    """the different ones among them, in the order of code points"""
    last_document: int = 0
    """where the last document begins, if there are several"""
    done: int = 0
    """characters whose ids are written"""
    train: int = 0
    """tokens in train.bin and its shards"""
    val: int = 0

    def keep(self, room: Path) -> None:
        """Write it into the folder of the preparation."""
        with replacing(room / PROGRESS) as file:
            file.write(json.dumps(asdict(self)).encode())

    @classmethod
    def kept_in(cls, room: Path) -> "Progress":
        """What an earlier process kept there, or the beginning."""
        try:
            return cls(**json.loads(read_small(room / PROGRESS, LARGEST_NOTE)))
        except (OSError, ValueError, TypeError):
            return cls()


def encode(
    parts: Iterable[Part], tokenizer: Tokenizer, documents: bool, progress: Progress, room: Path
) -> None:
    """Write the ids of a text to train.bin and val.bin in `room`/ids; go on where `progress` says, and keep it.

    `parts` is the whole text, split by split. Its characters are all in the vocabulary.
    """
    ids = room / "ids"
    ids.mkdir(exist_ok=True)
    dtype = token_dtype(tokenizer.vocab_size)
    there = [
        (ids / f"{split}.bin").exists() and count_tokens(ids / f"{split}.bin", tokenizer.vocab_size)
        for split in SPLITS
    ]
    if (
        there[0] < progress.train or there[1] < progress.val
    ):  # a machine that went down kept the note and lost the ids
        progress.done = progress.train = progress.val = 0
    if progress.done:
        print(
            f"going on with what was prepared before: {progress.done:,} characters are done",
            file=sys.stderr,
        )
    writers = {
        split: TokenWriter(ids / f"{split}.bin", dtype, getattr(progress, split))
        for split in SPLITS
    }
    kept = time.monotonic()
    # A thread writes while the next pieces are encoded: for characters writing takes most of the time.
    with ThreadPoolExecutor(1) as writing:
        last: Future[None] | None = None
        for (split, text), tokens in _encoded(_after(progress.done, parts), tokenizer, documents):
            if last:  # no more than one piece waits, and an error is met here
                last.result()
            last = writing.submit(writers[split].write, tokens)
            progress.done += len(text)
            if time.monotonic() - kept > KEEP_EVERY:
                last.result()
                for writer in writers.values():
                    writer.flush()
                progress.train, progress.val = (writers[split].tokens for split in SPLITS)
                progress.keep(room)
                kept = time.monotonic()
        if last:
            last.result()
    for writer in writers.values():
        writer.close()
    progress.train, progress.val = (writers[split].tokens for split in SPLITS)


def _encoded(
    parts: Iterable[Part], tokenizer: Tokenizer, documents: bool
) -> Iterator[tuple[Part, np.ndarray]]:
    """The parts, cut anew where no token is cut, each with its ids."""
    if isinstance(
        tokenizer, CharTokenizer
    ):  # looking up takes no longer than handing over to a thread
        ids_of = _look_up(tokenizer)
        return ((part, ids_of(part[1])) for part in parts)
    if tokenizer.kind == "bpe":
        from kqv.text.bpe import safe_pieces  # imports tiktoken

        splits = groupby(parts, key=itemgetter(0))
        parts = (
            (split, text)
            for split, group in splits
            for text in safe_pieces((text for _, text in group), documents)
        )
    return in_order(lambda part: tokenizer.encode_array(part[1], documents), parts)


def _after(done: int, parts: Iterable[Part]) -> Iterator[Part]:
    """All but the first `done` characters. Reading them again takes little of the time that encoding takes."""
    at = 0
    for split, text in parts:
        if rest := text[max(0, done - at) :]:
            yield split, rest
        at += len(text)


def _look_up(tokenizer: CharTokenizer) -> Callable[[str], np.ndarray]:
    """A function from a text to its ids. It raises UserError for an unknown character."""
    table, unknown = tokenizer.id_table(), tokenizer.vocab_size
    dtype = token_dtype(tokenizer.vocab_size)
    of_ascii = table[:128].copy()
    free = min(set(range(256)) - set(of_ascii.tolist()))  # a byte that is no id of theirs
    of_ascii[of_ascii == unknown] = free
    ascii_table = bytes([*of_ascii.tolist(), *[free] * 128]) if of_ascii.max() < 256 else None

    def look_up(text: str) -> np.ndarray:
        if (
            ascii_table and text.isascii()
        ):  # a method of bytes is twice as fast as a look-up in an array
            data = text.encode().translate(ascii_table)
            if free in data:
                raise _unexpected(text, tokenizer)
            return np.frombuffer(data, dtype=np.uint8).astype(dtype)
        ids = table[np.frombuffer(text.encode("utf-32-le"), dtype="<u4")]
        if ids.max(initial=0) == unknown:
            raise _unexpected(text, tokenizer)
        return ids.astype(dtype, copy=False)

    return look_up


def _unexpected(text: str, tokenizer: CharTokenizer) -> UserError:
    """The error for a character that is met after all that there are were counted."""
    character = tokenizer.encode_known(text)[1][0]
    return UserError(
        f"the text changed while it was read: it has {character!r} (U+{ord(character):04X}) now, "
        f"which it had not; run the command again when it has settled"
    )


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result]]:
    """Each item with the function of it, computed by as many threads as there are cores, in the order of the items.

    Only a few wait to be taken, so that memory stays flat. Threads are enough where the function leaves Python's lock, as
    tiktoken and numpy do on a piece.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(core_count())
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > 2 * core_count():
                item, future = waiting.popleft()
                yield item, future.result()
        for item, future in waiting:
            yield item, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
