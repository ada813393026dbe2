r"""Files of pairs: from bytes to (source, target), whatever the size of the file.

    words.tsv           colonel TAB k ɝ n ə l
    words.jsonl         {"source": "colonel", "target": "k ɝ n ə l"}
    train.de  train.en  two files, whose lines belong together

.gz and .zst are unpacked. Pairs come in lists of about a megabyte, so memory stays flat. A line
that is empty (in two files: in both) is no pair, and is skipped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from kqv.errors import UserError
from kqv.progress import LongBar
from kqv.text import formats
from kqv.text.formats import read_json_lines, read_plain_text, text_of, uncompressed_name
from kqv.text.texts import Texts, check_unchanged, open_bytes, opened
from kqv.text.tokenizer import PAIR_MARKERS

PAIR_ENDINGS = (".tsv", ".jsonl")  # both may be compressed
MAX_LINE = 1 << 22  # characters or bytes of a line: memory stays flat, and no block is longer
MAX_LIST = 1 << 13  # pairs in a list

Pair = tuple[str, str]  # a source and its target


class Place(NamedTuple):
    """Where a pair stands: the files of its two sides, which may be one, and the line."""

    source_path: Path
    target_path: Path
    line: int


@dataclass(frozen=True)
class PairFiles:
    """Files of pairs in their order, and how they are read.

    Any number of .tsv and .jsonl files; or two others, whose lines belong together; or one other,
    which is read like .tsv.
    """

    paths: Sequence[Path]
    encoding: str = "utf-8"
    """of all but JSON lines, which are UTF-8"""
    source_field: str = "source"
    """field of JSON lines that holds the source"""
    target_field: str = "target"
    """field of JSON lines that holds the target"""

    def __post_init__(self) -> None:
        """Raises UserError for files that cannot hold pairs by their number and endings."""
        plain = [path for path in self.paths if _ending(path) not in PAIR_ENDINGS]
        if plain and len(self.paths) > 1 and not self.are_parallel:
            raise UserError(
                f"{plain[0]} is no .tsv or .jsonl file: name such files, or two others whose lines "
                f"belong together, first the one with the sources"
            )

    @property
    def are_parallel(self) -> bool:
        """Whether there are two files, whose lines belong together."""
        return len(self.paths) == 2 and not any(_ending(p) in PAIR_ENDINGS for p in self.paths)

    @cached_property
    def texts(self) -> Texts:
        """The same files as texts, with their stamps and their size."""
        return Texts(self.paths, self.encoding)

    def lists(self, task: str = "reading") -> Iterator[list[Pair]]:
        """All pairs, in lists of at most MAX_LIST pairs and about a megabyte.

        Sides are as they stand in the file, without line ends. `task` labels the progress bar.

        Raises UserError with file and line for what is no pair, and for a file that is damaged or
        has changed since its stamp was taken.
        """
        bar = LongBar(task, self.texts.bytes)
        pairs: list[Pair] = []
        size = 0
        try:
            for place, source, target in self._two(bar) if self.are_parallel else self._each(bar):
                if not source.strip() and not target.strip():
                    continue
                _check_side("source", source, place.source_path, place.line)
                _check_side("target", target, place.target_path, place.line)
                pairs.append((source, target))
                size += len(source) + len(target)
                if size >= formats.PIECE_SIZE or len(pairs) == MAX_LIST:
                    yield pairs
                    pairs, size = [], 0
            if pairs:
                yield pairs
        except UserError:
            self._check_unchanged()  # half a line is not an invalid one
            raise
        finally:
            bar.close()

    def _check_unchanged(self) -> None:
        """Raises UserError if a file has changed since its stamp was taken."""
        for path, stamp in zip(self.paths, self.texts.stamps, strict=True):
            with open_bytes(path) as file:
                check_unchanged(path, file, stamp)

    def _each(self, bar: LongBar) -> Iterator[tuple[Place, str, str]]:
        """The pairs of each file, one file after the other."""
        for number, path in enumerate(self.paths):
            is_json = _ending(path) == ".jsonl"
            read = self._json_pairs if is_json else self._tab_pairs
            for line, source, target in read(number, bar):
                yield Place(path, path, line), source, target

    def _two(self, bar: LongBar) -> Iterator[tuple[Place, str, str]]:
        """The lines of two files, side by side."""
        one, other = self.paths
        sides = zip_longest(self._lines(0, bar), self._lines(1, bar))
        for line, (source, target) in enumerate(sides, 1):
            if source is None or target is None:
                longer, shorter = (one, other) if target is None else (other, one)
                raise UserError(
                    f"{longer} has a line {line}, and {shorter} ends before it: lines with the "
                    f"same number belong together"
                )
            yield Place(one, other, line), source, target

    def _tab_pairs(self, number: int, bar: LongBar) -> Iterator[tuple[int, str, str]]:
        """The pairs of a .tsv file, each with the number of its line."""
        for line, text in enumerate(self._lines(number, bar), 1):
            sides = text.split("\t")
            if len(sides) == 2:
                yield line, sides[0], sides[1]
            elif text.strip():
                count = "no tab" if len(sides) == 1 else f"{len(sides) - 1} tabs"
                raise UserError(
                    f"{self.paths[number]}, line {line} has {count}: write a source, one tab and "
                    f"a target"
                )

    def _json_pairs(self, number: int, bar: LongBar) -> Iterator[tuple[int, str, str]]:
        """The pairs of a .jsonl file, each with the number of its line."""
        path, done = self.paths[number], 0
        with opened(path, self.texts.stamps[number]) as (file, content):
            for line, value in read_json_lines(path, content, MAX_LINE):
                where = f"{path}, line {line}"
                source = text_of(value, self.source_field, where, "source_field")
                yield line, source, text_of(value, self.target_field, where, "target_field")
                if file.tell() > done:
                    bar.move(bar.done + file.tell() - done)
                    done = file.tell()

    def _lines(self, number: int, bar: LongBar) -> Iterator[str]:
        """The lines of a file that is no JSON, without their ends."""
        path, done = self.paths[number], 0
        with opened(path, self.texts.stamps[number]) as (file, content):
            line, rest = 1, ""
            for piece in read_plain_text(path, content, self.encoding):
                *lines, rest = (rest + piece).split("\n")
                yield from lines
                line += len(lines)
                if len(rest) > MAX_LINE:
                    raise UserError(
                        f"{path}, line {line} has more than {MAX_LINE:,} characters: are these "
                        f"pairs, one a line?"
                    )
                bar.move(bar.done + file.tell() - done)
                done = file.tell()
            if rest:
                yield rest


def _ending(path: Path) -> str:
    return uncompressed_name(path).suffix


def _check_side(side: str, text: str, path: Path, line: int) -> None:
    """Raises UserError for a source or target that is empty, or has a character that none has."""
    if not text.strip():
        raise UserError(f"{path}, line {line}: the {side} is empty; mend the line, or delete it")
    for marker in PAIR_MARKERS:
        if marker in text:
            raise UserError(
                f"{path}, line {line}: the {side} has the control character U+{ord(marker):04X}, "
                f"which marks where targets begin and end: take it out"
            )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path}, line {line}: the {side} has U+{ord(text[error.start]):04X}, half of a "
            f"surrogate pair, which is no character: mend the text"
        ) from None
