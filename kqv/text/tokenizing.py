"""Pieces of text to token files: on all cores, in order, and so that a kill loses only seconds.

    ("train", "To be, or"), ("train", " not to be"), ("val", ", that is")
        ──threads──▶ token ids ──▶ train.bin, val.bin

The token ids do not depend on the number of threads or on interruptions: a text is cut only where
that changes no token, and ids are written in the order of the text.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

import numpy as np

from kqv.errors import UserError
from kqv.machine.load import core_count
from kqv.text.characters import CharTokenizer
from kqv.text.safe_cuts import safe_pieces
from kqv.text.token_files import SPLITS, TokenWriter, count_tokens
from kqv.text.tokenizer import Tokenizer, token_dtype
from kqv.text.unfinished import OUTPUT_FOLDER, Progress

SAVE_INTERVAL = 5.0  # seconds between two notes of the progress
Part = tuple[str, str]  # the name of a split, and a piece of text that belongs to it
Pieces = TypeVar("Pieces", str, list[tuple[str, str]])
Item = TypeVar("Item")
Result = TypeVar("Result")


def write_token_files(
    parts: Iterable[Part],
    tokenizer: Tokenizer,
    documents: bool,
    progress: Progress,
    workspace: Path,
) -> None:
    """Write the token ids of a text to train.bin and val.bin in the output folder of a workspace.

    `parts` is the whole text, split by split, with all its characters in the vocabulary; with
    `documents`, U+0003 ends each document. Continues where `progress` says, and saves it.
    """
    folder = workspace / OUTPUT_FOLDER
    folder.mkdir(exist_ok=True)
    _start_over_if_lost(progress, folder, tokenizer.vocab_size)
    if progress.done:
        print(
            f"continuing what was prepared before: {progress.done:,} characters are done",
            file=sys.stderr,
        )
    dtype = token_dtype(tokenizer.vocab_size)
    written = {"train": progress.train, "val": progress.val}
    writers = {s: TokenWriter(folder / f"{s}.bin", dtype, written[s]) for s in SPLITS}
    last_save = time.monotonic()
    # A thread writes while the next pieces are tokenized: of characters, writing is most of it.
    with ThreadPoolExecutor(1) as pool:
        writing: Future[None] | None = None
        parts = skip_done(progress.done, parts)
        for (split, text), tokens in _tokenize(parts, tokenizer, documents):
            if writing:  # wait, so that at most one piece is pending; raises its error
                writing.result()
            writing = pool.submit(writers[split].write, tokens)
            progress.done += len(text)
            if time.monotonic() - last_save > SAVE_INTERVAL:
                writing.result()
                for writer in writers.values():
                    writer.flush()
                progress.train, progress.val = writers["train"].tokens, writers["val"].tokens
                progress.save(workspace)
                last_save = time.monotonic()
        if writing:
            writing.result()
    for writer in writers.values():
        writer.close()
    progress.train, progress.val = writers["train"].tokens, writers["val"].tokens


def _start_over_if_lost(progress: Progress, folder: Path, vocab_size: int) -> None:
    """Reset the progress if a file has fewer tokens: a power cut kept the note and lost the ids."""
    for split, noted in (("train", progress.train), ("val", progress.val)):
        path = folder / f"{split}.bin"
        if (count_tokens(path, vocab_size) if path.exists() else 0) < noted:
            progress.done = progress.train = progress.val = 0
            return


def skip_done(count: int, parts: Iterable[tuple[str, Pieces]]) -> Iterator[tuple[str, Pieces]]:
    """All but the first `count` characters of texts, or pairs of lists; reading them again is quick
    beside tokenizing."""
    position = 0
    for split, piece in parts:
        if rest := piece[max(0, count - position) :]:
            yield split, rest
        position += len(piece)


def _tokenize(
    parts: Iterable[Part], tokenizer: Tokenizer, documents: bool
) -> Iterator[tuple[Part, np.ndarray]]:
    """The parts, cut anew where a cut changes no token, each with its token ids."""
    if isinstance(tokenizer, CharTokenizer):
        # A table look-up takes no longer than handing a piece over to a thread.
        return ((part, _look_up(tokenizer, part[1])) for part in parts)
    if tokenizer.kind == "bpe":
        parts = _cut_safely(parts, documents)
    return map_in_order(lambda part: tokenizer.encode_array(part[1], documents), parts)


def _look_up(tokenizer: CharTokenizer, text: str) -> np.ndarray:
    """The ids of a text. Raises UserError for a character that the survey did not find."""
    try:
        return tokenizer.encode_array(text)
    except UserError:
        character = tokenizer.encode_known(text)[1][0]
        raise UserError(
            f"the text changed while it was read: it has {character!r} (U+{ord(character):04X}) "
            f"now, which it had not; run the command again when it has settled"
        ) from None


def _cut_safely(parts: Iterable[Part], documents: bool) -> Iterator[Part]:
    """The same text in pieces that byte pairs can be made of one by one; no piece spans splits."""
    for split, group in groupby(parts, key=itemgetter(0)):
        for text in safe_pieces((text for _, text in group), documents):
            yield split, text


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result]]:
    """Each item with `function(item)`, computed by one thread per core, in the order of the items.

    Only a few results wait to be taken, so memory stays flat. Threads are enough for a function
    that releases Python's global lock, as tiktoken and numpy do.
    """
    pending: deque[tuple[Item, Future[Result]]] = deque()
    threads = core_count()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) > 2 * threads:
                item, future = pending.popleft()
                yield item, future.result()
        for item, future in pending:
            yield item, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
