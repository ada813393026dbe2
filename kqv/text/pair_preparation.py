"""Prepare pairs for training: count them, make their tokenizers, tokenize both splits.

    survey ──▶ tokenizers ──▶ split into train (first 90 %) and val (the rest) ──▶ token files

Each pass reads the pairs list by list, so memory stays flat: once to count them and to find their
characters or symbols, once to train each vocabulary of byte pairs, and once to tokenize.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kqv.errors import UserError
from kqv.text.jamo import syllables_cut
from kqv.text.pair_files import PairFiles
from kqv.text.pair_tokenizing import PairPart, Sides, write_pair_files
from kqv.text.preparation import (
    TRAIN_FRACTION,
    CharacterSet,
    check_vocabulary,
    to_train_byte_pairs,
)
from kqv.text.prepared import save_record, save_tokenizer
from kqv.text.registry import (
    SOURCE_TOKENIZER_FILE,
    find_vocabulary,
    load_source_tokenizer,
    load_tokenizer,
    make_tokenizer,
)
from kqv.text.symbols import check_symbol_count
from kqv.text.tokenizer import DOCUMENT_END, PAIR_MARKERS, TARGET_BEGIN, UNKNOWN, Tokenizer
from kqv.text.tokenizing import SAVE_INTERVAL
from kqv.text.unfinished import OUTPUT_FOLDER, PairProgress

# At most so many pairs are held out: with 10,000 the standard error of an error rate is half a
# percent at most, and to translate more takes longer than that is worth.
MAX_VALIDATION_PAIRS = 10_000


class PairTexts(NamedTuple):
    """All pairs of a dataset."""

    train: PairFiles
    """to train on; split if there is nothing to validate on"""
    val: PairFiles | None
    """to validate on"""

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [*self.train.paths, *(self.val.paths if self.val else [])]

    def parts(self, train_pairs: int, task: str) -> Iterator[PairPart]:
        """The pairs in lists, each with its split: first those of train, then those of val.

        Without files to validate on, the first `train_pairs` are to train on. `task` labels the
        progress bar.
        """
        position = 0
        for pairs in self.train.lists(task):
            cut = len(pairs) if self.val else max(0, train_pairs - position)
            position += len(pairs)
            if pairs[:cut]:
                yield "train", pairs[:cut]
            if pairs[cut:]:
                yield "val", pairs[cut:]
        if self.val:
            yield from (("val", pairs) for pairs in self.val.lists(task))


class Chosen(NamedTuple):
    """The tokenizers of both sides, or the options that name them."""

    source: Tokenizer | str
    """a tokenizer, or the value of --tokenizer="""
    target: Tokenizer | str
    """a tokenizer, or the value of --target_tokenizer=; "": that of the source"""

    @property
    def names(self) -> "Chosen":
        """The options that name such tokenizers."""
        return Chosen(*(each if isinstance(each, str) else each.name for each in self))


class Alphabet:
    """The different characters, or symbols, of a side; none where a tokenizer needs neither."""

    def __init__(self, tokenizer: Tokenizer | str) -> None:
        self.kind = tokenizer if isinstance(tokenizer, str) else tokenizer.kind
        self.characters = CharacterSet()
        self.symbols: set[str] = set()

    def add(self, texts: Sequence[str]) -> None:
        """Add those of some texts. Raises UserError if there are too many symbols."""
        if self.kind == "char":
            self.characters.add("".join(texts))
        elif self.kind == "jamo":
            self.characters.add(syllables_cut("".join(texts)))
        elif self.kind == "symbols":
            self.symbols.update(*map(str.split, texts))
            check_symbol_count(self.symbols)

    def __iter__(self) -> Iterator[str]:
        yield from sorted(self.symbols)
        yield from self.characters.sorted()


def prepare_pair_texts(
    texts: PairTexts, chosen: Chosen, sources: Sequence[str], workspace: Path
) -> None:
    """Write token files, index, tokenizers and prepared.json for pairs.

    They are written into the output folder of a workspace, where the work of a killed process is
    continued.

    Raises UserError for what is no pair, for fewer than two pairs, and for files that change while
    they are read.
    """
    started, progress = time.monotonic(), PairProgress.load(workspace)
    output = workspace / OUTPUT_FOLDER
    if progress.val_pairs and find_vocabulary(output):
        target = load_tokenizer(output)
        sides = Sides(load_source_tokenizer(output) or target, target)
    else:
        sides = _make_tokenizers(texts, chosen, progress)
        if sides.source is not sides.target:
            save_tokenizer(sides.source, output, SOURCE_TOKENIZER_FILE)
        save_tokenizer(sides.target, output)  # last: it says that both are there
        if time.monotonic() - started > SAVE_INTERVAL:
            progress.save(workspace)
    parts = texts.parts(progress.train_pairs, "tokenizing")
    write_pair_files(parts, sides, progress, workspace)
    if progress.done != (counted := progress.train_pairs + progress.val_pairs):
        raise UserError(
            f"the files changed while they were read: they had {counted:,} pairs, then "
            f"{progress.done:,}; run the command again when they have settled"
        )
    save_record(
        output,
        sources,
        {"train": progress.train, "val": progress.val},
        train_pairs=progress.train_pairs,
        val_pairs=progress.val_pairs,
        remark=_unknown_remark(progress),
    )


def _make_tokenizers(texts: PairTexts, chosen: Chosen, progress: PairProgress) -> Sides:
    """Count the pairs, then make the tokenizers, or check those of a checkpoint."""
    source = Alphabet(chosen.source)
    target = Alphabet(chosen.target) if chosen.target else source
    _survey(texts, source, target, progress)
    made: list[Tokenizer] = []
    for number, (tokenizer, alphabet) in enumerate(zip(chosen, (source, target), strict=True)):
        if isinstance(tokenizer, str) and tokenizer:
            parts = texts.parts(progress.train_pairs, "training the tokenizer")
            sides = (0, 1) if source is target else (number,)
            train = to_train_byte_pairs(_as_documents(parts, sides))
            tokenizer = make_tokenizer(tokenizer, {*alphabet, UNKNOWN}, train, True, PAIR_MARKERS)
        elif tokenizer:
            between = " " if alphabet.kind == "symbols" else ""
            check_vocabulary(tokenizer, between.join(alphabet))
        made.append(tokenizer or made[0])
    for marker in (TARGET_BEGIN, DOCUMENT_END):
        made[1].marker_id(marker)  # raises if a checkpoint's tokenizer is not for pairs
    return Sides(*made)


def _survey(texts: PairTexts, source: Alphabet, target: Alphabet, progress: PairProgress) -> None:
    """Count the pairs of both splits, and find the alphabets: of those to train on, or where the
    last tenth is held out, of all."""
    counts = []
    for files in (texts.train, texts.val):
        count = 0
        for pairs in files.lists("reading") if files else ():
            count += len(pairs)
            if files is texts.train:
                source.add([pair[0] for pair in pairs])
                target.add([pair[1] for pair in pairs])
        if files and files.paths and not count:
            raise UserError(f"{', '.join(map(str, files.paths))}: there are no pairs in it")
        counts.append(count)
    train, val = counts
    if not texts.val:
        if train == 1:
            raise UserError(
                f"{texts.train.paths[0]} has one pair: training takes two or more, or --val_text= "
                f"with pairs to validate on"
            )
        held_out = train - max(int(train * TRAIN_FRACTION), train - MAX_VALIDATION_PAIRS)
        train, val = train - held_out, held_out
    progress.train_pairs, progress.val_pairs = train, val


def _as_documents(parts: Iterable[PairPart], sides: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Lists of pairs as pieces of text, in which U+0003 follows each of these sides."""
    for split, pairs in parts:
        yield split, "".join(pair[side] + DOCUMENT_END for pair in pairs for side in sides)


def _unknown_remark(progress: PairProgress) -> str:
    """What a user should hear of characters or symbols that only validation pairs have."""
    if not progress.unknown_pairs:
        return ""
    return (
        f"{progress.unknown_pairs:,} of {progress.val_pairs:,} validation pairs have characters or "
        f"symbols that the vocabulary lacks, among them {' '.join(map(repr, progress.unknown))}: "
        f"the model reads U+FFFD instead, and cannot write them"
    )
