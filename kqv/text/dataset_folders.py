"""A prepared dataset as it is opened from its folder: a text, or pairs."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kqv import project
from kqv.errors import UserError
from kqv.text.pair_splits import PairSplit, check_index, open_pair_split
from kqv.text.prepared import PAIR_COUNTS, check_token_counts, holds_pairs, read_record
from kqv.text.registry import find_vocabulary, load_source_tokenizer, load_tokenizer
from kqv.text.source_names import known_sources, title_of
from kqv.text.tiktoken_files import load_tiktoken
from kqv.text.tokenizer import Tokenizer


@dataclass
class Dataset:
    """A prepared text: a folder with train.bin, val.bin and tokenizer.json."""

    folder: Path
    tokenizer: Tokenizer
    train_tokens: int
    val_tokens: int
    sources: Sequence[str] = ()
    """words of a command line that name its texts, if it was made from texts"""

    @property
    def name(self) -> str:
        """The value of --dataset=: the path below data/, or the whole path outside of it."""
        if self.folder.is_relative_to(project.DATA):
            return self.folder.relative_to(project.DATA).as_posix()
        return str(self.folder)

    @property
    def title(self) -> str:
        """Its name for people: the names of its texts, or else of the dataset."""
        return title_of(self.sources) or self.name

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return self.tokenizer.vocab_size


@dataclass(kw_only=True)
class PairDataset(Dataset):
    """Prepared pairs: for each split train.bin and train.index.bin (pair_splits.py).

    `tokenizer` is that of the targets.
    """

    source_tokenizer: Tokenizer
    """of the sources: the same object as `tokenizer` if both sides have one vocabulary"""
    train_pairs: int
    val_pairs: int
    remark: str = ""
    """what a user should hear of the validation pairs"""

    @property
    def source_vocab_size(self) -> int:
        """Number of different tokens of the sources; 0 if both sides have one vocabulary."""
        return 0 if self.source_tokenizer is self.tokenizer else self.source_tokenizer.vocab_size

    def open_split(self, split: str, block_size: int) -> PairSplit:
        """The pairs of "train" or "val" that fit into a block. Raises UserError if none does."""
        return open_pair_split(
            self.folder, split, self.source_tokenizer, self.tokenizer, block_size
        )


def load_dataset(
    folder: Path, given: Tokenizer | None = None, sources: Sequence[str] = ()
) -> Dataset:
    """The dataset in a prepared folder, a PairDataset if it holds pairs; `given` is a tokenizer at
    hand. Raises UserError if it is damaged."""
    record = read_record(folder)
    if find_vocabulary(folder) or record:
        tokenizer = load_tokenizer(folder)
    else:
        print(
            f"{folder} has no vocabulary: its ids are taken for those of GPT-2, as nanoGPT does",
            file=sys.stderr,
        )
        tokenizer = given if given and given.name == "gpt2" else load_tiktoken("gpt2")
    if holds_pairs(folder):
        return load_pairs(folder, sources)
    tokens = check_token_counts(folder, record, tokenizer.vocab_size)
    sources = sources or known_sources(record.get("sources"))
    return Dataset(folder, tokenizer, tokens["train"], tokens["val"], sources)


def load_pairs(folder: Path, sources: Sequence[str] = ()) -> PairDataset:
    """The pairs in a prepared folder. Raises UserError if it is damaged or holds none."""
    if not holds_pairs(folder):
        raise UserError(
            f"{folder} holds a text, no pairs: name files of pairs, such as a .tsv file"
        )
    record, tokenizer = read_record(folder), load_tokenizer(folder)
    source = load_source_tokenizer(folder) or tokenizer
    tokens = check_token_counts(folder, record, max(source.vocab_size, tokenizer.vocab_size))
    for name, split in PAIR_COUNTS.items():
        check_index(folder, split, record[name])
    return PairDataset(
        folder,
        tokenizer,
        tokens["train"],
        tokens["val"],
        sources or known_sources(record.get("sources")),
        source_tokenizer=source,
        train_pairs=record["train_pairs"],
        val_pairs=record["val_pairs"],
        remark=str(record.get("remark", "")),
    )


def find_dataset(folder: Path, sources: Sequence[str] = ()) -> Dataset | None:
    """The dataset in a folder of the cache; None if there is none, or it is damaged."""
    with suppress(UserError):
        return load_dataset(folder, sources=sources) if find_vocabulary(folder) else None
    return None
