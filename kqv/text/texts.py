"""Several text files as one stream of characters, in pieces, checked for changes as they are read.

    novel.txt  log.txt.gz  pages.jsonl ──▶ "It was a dark and stor", "my night.", ...

If one of the files has documents (JSON lines, Parquet), each plain text is one document too.
"""

import difflib
import io
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from kqv.errors import UserError
from kqv.progress import LongBar
from kqv.text.formats import (
    as_one_document,
    decompress,
    has_documents,
    read_documents,
    read_plain_text,
)

FILE_TIME_STEP = 0.01  # seconds; the system's clock for file times has steps of at most that
MAX_NAME_SHOWN = 200  # characters of a file name in an error message


@dataclass(frozen=True)
class Texts:
    """Text files in their order, and how they are read."""

    paths: Sequence[Path]
    encoding: str = "utf-8"
    """of plain text; JSON lines are UTF-8"""
    text_field: str = "text"
    """the field with the text of a document, in JSON lines and Parquet"""
    beside: Sequence[Path] = ()
    """other files of the same dataset: its validation texts, or those it trains on"""

    @cached_property
    def documents(self) -> bool:
        """Whether the texts come as documents, which they do if one file of the dataset does."""
        return any(map(has_documents, [*self.paths, *self.beside]))

    @cached_property
    def stamps(self) -> list[list[int]]:
        """Size and modification time (in ns) of each file before it is read.

        Raises UserError for a file that cannot be opened.
        """
        stamps = []
        for path in self.paths:
            with open_bytes(path) as file:
                stamps.append(_stamp(file))
        newest = max((modified for _, modified in stamps), default=0) / 1e9
        if 0 <= time.time() - newest < FILE_TIME_STEP:
            time.sleep(FILE_TIME_STEP)  # a change within the same step would not show
        return stamps

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(path.stat().st_size for path in self.paths if path.exists())

    def pieces(self, task: str = "reading") -> Iterator[tuple[Path, str]]:
        """All text in non-empty pieces, each with the file it is from.

        `task` labels the progress bar. In plain text, a byte order mark is dropped, every line
        end becomes a newline, and a text that does not end with a newline gets one if more text
        follows. Documents are taken as they are.

        Raises UserError for a file that is no text, or has changed since its stamp was taken.
        """
        bar, bytes_before, last = LongBar(task, self.bytes), 0, "\n"
        try:
            for path, stamp in zip(self.paths, self.stamps, strict=True):
                with opened(path, stamp) as (file, content):
                    for i, text in enumerate(self._pieces_of(path, content)):
                        check_unchanged(path, file, stamp)
                        needs_newline = i == 0 and last != "\n" and not self.documents
                        last = text[-1]
                        bar.move(bytes_before + file.tell())
                        yield path, "\n" + text if needs_newline else text
                    bytes_before += path.stat().st_size
        finally:
            bar.close()

    def _pieces_of(self, path: Path, content: BinaryIO) -> Iterator[str]:
        if has_documents(path):
            return read_documents(path, content, self.text_field)
        text = read_plain_text(path, content, self.encoding)
        return as_one_document(text) if self.documents else text


@contextmanager
def opened(path: Path, stamp: list[int]) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The file itself, whose position says how far it is read, and its decompressed content.

    Raises UserError for a damaged file, and for one that has changed since its stamp was taken.
    """
    with open_bytes(path) as file:
        content, damage = decompress(path, file)
        try:
            yield file, content
            check_unchanged(path, file, stamp)
        except UserError:
            check_unchanged(path, file, stamp)  # a half-written text is not an invalid one
            raise
        except damage as error:
            check_unchanged(path, file, stamp)
            raise UserError(f"{path} is damaged or cut short: {error}") from None


def open_bytes(path: Path) -> io.BufferedReader:
    """Open a file to read its bytes. Raises UserError if it cannot be opened."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        name = str(path)[:MAX_NAME_SHOWN]
        raise UserError(f"no such file or folder: {name}{_suggestion(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", error)
        raise UserError(f"{str(path)[:MAX_NAME_SHOWN]!r} cannot be read: {reason}") from None


def _suggestion(path: Path) -> str:
    """What to write instead of a file that does not exist."""
    name = str(path)
    if "=" in path.name:
        return f"; to set an option write --{name.lstrip('-')}"
    if name.startswith("~"):  # a shell does not expand it within a word, as in --text=~/novel.txt
        return f"; without the ~ of a shell it is {path.expanduser()}"
    neighbours = (other.name for other in path.parent.glob("*"))
    if near := difflib.get_close_matches(path.name, neighbours, n=1):
        return f"; did you mean {path.with_name(near[0])}?"
    return "; --help says how texts and options are named"


def check_unchanged(path: Path, file: BinaryIO, stamp: list[int]) -> None:
    """Raises UserError if an open file has another size or modification time than its stamp."""
    if _stamp(file) != stamp:
        raise UserError(
            f"{path} changed while it was read: run the command again when it has settled, or on a "
            f"copy of it"
        )


def _stamp(file: BinaryIO) -> list[int]:
    state = os.fstat(file.fileno())
    return [state.st_size, state.st_mtime_ns]
