"""Texts as they come: files, folders and standard input to one stream of characters, in pieces.

    novel.txt  log.txt.gz  pages.jsonl.zst  shard.parquet ──▶ "It was a dark and stor", "my night.", ...

A piece is about a megabyte, so memory stays flat whatever is read. Where a format has documents (JSON lines, Parquet) each
of them ends with U+0003, which ASCII calls the end of text, and a plain text among them is one document.
"""

import codecs
import gzip
import importlib
import io
import json
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from kqv.bar import ReadingBar
from kqv.errors import UserError
from kqv.tokenizer import END

PIECE = 1 << 20  # bytes or characters read at a time
LONGEST_LINE = 1 << 28  # bytes of a document in JSON; memory has to hold it

PACKED = (".gz", ".zst")
IN_FOLDERS = (".txt", ".jsonl", ".parquet")  # what a folder is searched for; the first two also packed


@dataclass(frozen=True)
class Texts:
    """Files in their order, and how they are read."""

    paths: Sequence[Path]
    encoding: str = "utf-8"
    """of plain text; JSON lines are in UTF-8"""
    text_field: str = "text"
    """where JSON lines and Parquet have the text of a document"""

    @cached_property
    def documents(self) -> bool:
        """Whether they come as documents: if one file does, all do."""
        return any(map(_has_documents, self.paths))

    @property
    def bytes(self) -> int:
        """How much there is to read."""
        return sum(path.stat().st_size for path in self.paths if path.exists())

    def pieces(self, what: str = "reading") -> Iterator[tuple[Path, str]]:
        """All of it in pieces that are not empty, each with the file that it is from; a bar says how far `what` is.

        Of a plain text a byte order mark is dropped, every line end becomes a newline, and one that does not end with a
        newline gets one if more text follows. A document is taken as it is. Raises UserError for what is no text.
        """
        bar, before, last = ReadingBar(what, self.bytes), 0, "\n"
        try:
            for path in self.paths:
                with _opened(path) as (packed, file):
                    for i, text in enumerate(self._pieces_of(path, file)):
                        joint = "\n" if i == 0 and last != "\n" and not self.documents else ""
                        last = text[-1]
                        bar.move(before + packed.tell())
                        yield path, joint + text
                    before += path.stat().st_size
        finally:
            bar.close()

    def _pieces_of(self, path: Path, file: BinaryIO) -> Iterator[str]:
        if path.suffix == ".parquet":
            return joined(_parquet_texts(path, file, self.text_field))
        if _has_documents(path):
            return joined(_json_texts(path, file, self.text_field))
        text = _decoded(path, file, self.encoding)
        return _one_document(text) if self.documents else text


def text_files(word: str, scratch: Path) -> list[Path]:
    """The files that a word of the command line stands for. What can be read only once is copied to `scratch`.

    Raises UserError for a folder without texts.
    """
    path = Path(word)
    if word == "-" or path.is_fifo():  # a shell's <(command) is a named pipe
        copy = scratch / "stdin"
        with copy.open("wb") as file, (sys.stdin.buffer if word == "-" else open_bytes(path)) as source:
            shutil.copyfileobj(source, file)
        return [copy]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and _in_folders(file))
        if not files:
            raise UserError(f"{path} has no {', '.join(IN_FOLDERS[:-1])} or {IN_FOLDERS[-1]} files")
        return files
    return [path]


def open_bytes(path: Path) -> io.BufferedReader:
    """A file as it is. Raises UserError if it cannot be read."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        hint = f"; to set an option write --{str(path).lstrip('-')}" if "=" in path.name else ""
        raise UserError(f"no such file or folder: {path}{hint}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def is_packed(path: Path) -> bool:
    """Whether a file is unpacked as it is read."""
    return path.suffix in PACKED


def _unpacked_name(path: Path) -> Path:
    return path.with_suffix("") if is_packed(path) else path


def _has_documents(path: Path) -> bool:
    return path.suffix == ".parquet" or _unpacked_name(path).suffix == ".jsonl"


def _in_folders(path: Path) -> bool:
    return path.suffix == ".parquet" or _unpacked_name(path).suffix in IN_FOLDERS[:-1]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """A file as it is, which tells how far it is read, and the same unpacked. Raises UserError for one that is damaged."""
    with open_bytes(path) as packed:
        file: BinaryIO = packed
        errors: list[type[Exception]] = []
        if path.suffix == ".gz":
            file, errors = gzip.GzipFile(fileobj=packed), [EOFError, gzip.BadGzipFile, zlib.error]  # type: ignore[assignment]
        elif path.suffix == ".zst":
            zstd = _zstd()
            file, errors = zstd.ZstdFile(packed), [EOFError, zstd.ZstdError]
        try:
            yield packed, file
        except tuple(errors) as error:
            raise UserError(f"{path} is damaged or cut short: {error}") from None


def _zstd() -> Any:
    """Python's own module, or the same for an older Python. (The package zstandard takes half a file for a whole one.)"""
    try:
        return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        raise UserError("a text in a .zst file needs the package backports.zstd: pip install backports.zstd") from None


def joined(documents: Iterable[str]) -> Iterator[str]:
    """Documents in pieces of one size, each document with its end."""
    waiting, size = [], 0
    for text in documents:
        waiting.append(text.replace(END, "") + END)
        size += len(waiting[-1])
        if size >= PIECE:
            yield from _cut("".join(waiting))
            waiting, size = [], 0
    yield from _cut("".join(waiting))


def _cut(text: str) -> Iterator[str]:
    return (text[start : start + PIECE] for start in range(0, len(text), PIECE))


def _one_document(pieces: Iterable[str]) -> Iterator[str]:
    """A plain text that is a document."""
    for text in pieces:
        if text := text.replace(END, ""):
            yield text
    yield END


def _json_texts(path: Path, file: BinaryIO, field: str) -> Iterator[str]:
    """The texts in JSON lines: an object a line. Lines without anything are passed over."""
    lines = io.BufferedReader(file) if not isinstance(file, io.BufferedReader) else file  # type: ignore[type-var]
    number = 0
    while line := lines.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise UserError(f"{path}, line {number}: a document takes less than {LONGEST_LINE:,} bytes")
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: this is no JSON ({error})") from None
        yield _text_in(value, field, f"{path}, line {number}")


def _parquet_texts(path: Path, file: BinaryIO, field: str) -> Iterator[str]:
    """The texts in a column of a Parquet file, read by pages: groups of rows can be larger than memory."""
    try:
        # The package datasets reads these files with it too; by itself it is many times faster, and keeps nothing in the
        # user's home.
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("a text in a .parquet file needs the package pyarrow: pip install datasets") from None
    try:
        table = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=PIECE)
        columns = [field] if field in table.schema_arrow.names else None
        row = 0
        for batch in table.iter_batches(batch_size=256, columns=columns):
            for value in batch.to_pylist():
                row += 1
                yield _text_in(value, field, f"{path}, row {row}")
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is damaged or cut short: {str(error).splitlines()[0]}") from None


def _text_in(value: Any, field: str, where: str) -> str:
    text = value.get(field) if isinstance(value, dict) else None
    if not isinstance(text, str):
        texts = [str(name) for name, other in value.items() if isinstance(other, str)] if isinstance(value, dict) else []
        there = f"it has {', '.join(texts[:9])}: name one" if texts else "name another field"
        raise UserError(f"{where}: there is no text under {field!r}; {there} with --text_field=")
    return text


def _decoded(path: Path, file: BinaryIO, encoding: str) -> Iterator[str]:
    """The text of one file in pieces, none of them empty."""
    try:
        "".encode(encoding)  # Python also has codecs that make no text, such as hex: this refuses them
    except (LookupError, ValueError):
        raise UserError(f"there is no encoding {encoding!r}; common ones are utf-8, utf-16, latin-1, cp1252") from None
    newlines = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
    fed, byte_order_mark = 0, "\ufeff"
    while True:
        piece = file.read(PIECE)
        fed += len(piece)
        try:
            text = newlines.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            # The decoder saw what it had kept from earlier pieces, then this one: count from the end.
            offset = fed - len(error.object) + error.start
            raise UserError(
                f"{path} is not {encoding}: byte 0x{error.object[error.start]:02X} at offset {offset}; "
                f"name its encoding, for example --encoding=latin-1"
            ) from None
        except UnicodeError as error:
            raise UserError(f"{path} is not {encoding}: {error}; name its encoding with --encoding=") from None
        if text:
            text, byte_order_mark = text.removeprefix(byte_order_mark), ""  # only the first can be one
        if text:
            yield text
        if not piece:
            return
