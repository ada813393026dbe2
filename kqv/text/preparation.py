"""Prepare texts for training: find their characters, split them, tokenize both splits.

    survey ──▶ tokenizer ──▶ split into train (first 90 %) and val (the rest) ──▶ token files

Each pass reads the text piece by piece, so memory stays flat: once to find its characters, once
to train byte pairs, if it has to, and once to tokenize.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from kqv.errors import UserError
from kqv.options.settings import PAIR_TOKENIZERS
from kqv.text.characters import CODE_POINTS
from kqv.text.prepared import save_record, save_tokenizer
from kqv.text.registry import find_vocabulary, load_tokenizer, make_tokenizer
from kqv.text.texts import Texts
from kqv.text.tokenizer import DOCUMENT_END, Tokenizer
from kqv.text.tokenizing import SAVE_INTERVAL, Part, write_token_files
from kqv.text.unfinished import OUTPUT_FOLDER, Progress

TRAIN_FRACTION = 0.9  # of the characters, as in nanoGPT
# At most so many characters are held out: more say nothing new, and the loss over all of them is
# measured at the end of a run.
MAX_VALIDATION_CHARACTERS = 10_000_000
# Byte pairs are trained on at most so many characters: more change little, and take memory.
MAX_BPE_CHARACTERS = 1 << 30
UNKNOWN_LISTED = 5  # unknown characters named in an error message


def prepare_texts(
    texts: Texts,
    val: Texts | None,
    tokenizer: Tokenizer | str,
    sources: Sequence[str],
    workspace: Path,
) -> None:
    """Write train.bin, val.bin, tokenizer.json and prepared.json for texts.

    If there are texts to validate on, `val`, `texts` are to train on; otherwise they are split.
    They are written into the output folder of a workspace, where the work of a killed process is
    continued. `tokenizer` is one, or the name of one that is made for the text.

    Raises UserError for a text that is empty, not in its encoding or not in the vocabulary, and
    for one that changes while it is read.
    """
    started, progress = time.monotonic(), Progress.load(workspace)
    if not progress.length:
        survey([texts, val] if val else [texts], progress)
        if time.monotonic() - started > SAVE_INTERVAL:
            progress.save(workspace)
    output = workspace / OUTPUT_FOLDER
    if isinstance(tokenizer, str):
        tokenizer = _make_tokenizer(tokenizer, texts, val, progress, output)
    check_vocabulary(tokenizer, progress.characters)
    save_tokenizer(tokenizer, output)
    parts = split_text(texts, val, progress, "tokenizing")
    write_token_files(parts, tokenizer, texts.documents, progress, workspace)
    if progress.done != progress.length:
        raise UserError(
            f"the text changed while it was read: it had {progress.length:,} characters, then "
            f"{progress.done:,}; run the command again when it has settled"
        )
    save_record(output, sources, {"train": progress.train, "val": progress.val})


def _make_tokenizer(
    name: str, texts: Texts, val: Texts | None, progress: Progress, output: Path
) -> Tokenizer:
    """The tokenizer of this name; a killed process may have trained it already."""
    if name in PAIR_TOKENIZERS:
        raise UserError(
            f"tokenizer={name} is for pairs, such as those of a .tsv file: for a text take "
            "--tokenizer=char or bpe:4096"
        )
    if find_vocabulary(output):
        return load_tokenizer(output)
    parts = split_text(texts, val, progress, "training the tokenizer")
    train = to_train_byte_pairs(parts)
    return make_tokenizer(name, progress.characters, train, texts.documents)


def to_train_byte_pairs(parts: Iterable[Part]) -> Iterator[str]:
    """The pieces of the training split, up to about MAX_BPE_CHARACTERS."""
    size = 0
    for split, text in parts:
        if split != "train" or size >= MAX_BPE_CHARACTERS:
            return
        yield text
        size += len(text)


def check_vocabulary(tokenizer: Tokenizer, characters: str) -> None:
    """Raises UserError for characters, or symbols, that the tokenizer of a checkpoint lacks."""
    things = "symbols" if tokenizer.kind == "symbols" else "characters"
    if unknown := tokenizer.encode_known(characters)[1]:
        raise UserError(
            f"the text has {len(unknown)} {things} that the checkpoint's vocabulary does not "
            f"have, among them {' '.join(map(repr, unknown[:UNKNOWN_LISTED]))}: take them out of "
            f"the text, or train from scratch"
        )


def survey(all_texts: Sequence[Texts], progress: Progress) -> None:
    """Find how long the texts are, their different characters, and where the last document begins.

    `all_texts` are texts that are split, or those to train on and those to validate on. Sets
    `length`, `characters` and `last_document` of `progress`.
    """
    characters = CharacterSet()
    length = last_end = 0
    for texts in all_texts:
        beginning = length
        for path, text in texts.pieces("reading"):
            try:
                characters.add(text)
            except UnicodeEncodeError:
                raise UserError(
                    f"{path} has half of a surrogate pair, which is no character: mend the text"
                ) from None
            if texts.documents and (end := text.rfind(DOCUMENT_END) + 1):
                # The last document begins where the one before it ends, here or in an earlier
                # piece.
                before = text.rfind(DOCUMENT_END, 0, end - 1) + 1
                progress.last_document = length + before if before else last_end
                last_end = length + end
            length += len(text)
        if length == beginning and texts.paths:
            paths = ", ".join(map(str, texts.paths))
            raise UserError(f"{paths}: the text is empty, there is nothing to learn from")
    progress.length, progress.characters = length, characters.sorted()


class CharacterSet:
    """The different characters of a text that comes in pieces."""

    def __init__(self) -> None:
        self._ascii = b""
        self._seen = np.zeros(CODE_POINTS, dtype=bool)

    def add(self, text: str) -> None:
        """Add the characters of a piece. Raises UnicodeEncodeError for half a surrogate pair."""
        if text.isascii():  # methods of bytes are several times faster than look-ups in an array
            self._ascii += bytes(set(text.encode().translate(None, delete=self._ascii)))
        else:
            self._seen[np.frombuffer(text.encode("utf-32-le"), dtype="<u4")] = True

    def sorted(self) -> str:
        """All characters so far, in code point order."""
        self._seen[list(self._ascii)] = True
        return "".join(map(chr, np.flatnonzero(self._seen)))


def split_text(texts: Texts, val: Texts | None, progress: Progress, task: str) -> Iterator[Part]:
    """The texts in pieces, each with its split: first those of train, then those of val.

    Without `val`, the training split has 90 % of the characters, or all but ten million. If there
    are several documents it goes on to the end of one; but the last document is always for
    validation. `task` labels the progress bar.
    """
    if val:
        yield from (("train", text) for _, text in texts.pieces(task))
        yield from (("val", text) for _, text in val.pieces(task))
        return
    cut = max(int(progress.length * TRAIN_FRACTION), progress.length - MAX_VALIDATION_CHARACTERS)
    by_document = progress.last_document > 0
    if by_document:
        cut = min(cut, progress.last_document)
    position, split = 0, "train"
    for _, text in texts.pieces(task):
        if split == "train" and position + len(text) >= cut:
            if by_document:
                end = text.find(DOCUMENT_END, max(0, cut - position - 1)) + 1
            else:
                end = cut - position
            if end or not by_document:
                yield split, text[:end]
                split, text, position = "val", text[end:], position + end
        yield split, text
        position += len(text)
