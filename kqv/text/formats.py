"""Formats of text files: from bytes to pieces of text, whatever the size of the file.

    log.txt.gz  pages.jsonl.zst  shard.parquet ──▶ "It was a dark and stor", "my night.", ...

A piece is about a megabyte, so memory stays flat. Where a format has documents (JSON lines,
Parquet), U+0003 follows each of them.
"""

import codecs
import gzip
import importlib
import io
import json
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from kqv.errors import UserError
from kqv.text.tokenizer import DOCUMENT_END

PIECE_SIZE = 1 << 20  # bytes or characters that are read at a time
MAX_LINE_BYTES = 1 << 28  # of a document in JSON lines, which must fit into memory
PARQUET_BATCH_ROWS = 256
FIELDS_LISTED = 9  # in an error message
BYTE_ORDER_MARK = "\ufeff"
NEWLINE = "\n"

COMPRESSED_ENDINGS = (".gz", ".zst")
TEXT_ENDINGS = (".txt", ".jsonl", ".parquet")  # the first two may be compressed


def is_compressed(path: Path) -> bool:
    """Whether a file is decompressed as it is read."""
    return path.suffix in COMPRESSED_ENDINGS


def uncompressed_name(path: Path) -> Path:
    """The path without .gz or .zst."""
    return path.with_suffix("") if is_compressed(path) else path


def has_documents(path: Path) -> bool:
    """Whether the file's format has documents: JSON lines and Parquet."""
    return path.suffix == ".parquet" or uncompressed_name(path).suffix == ".jsonl"


def is_text_file(path: Path) -> bool:
    """Whether the file is read if it lies in a folder that was named as a text."""
    return path.suffix == ".parquet" or uncompressed_name(path).suffix in (".txt", ".jsonl")


def decompress(path: Path, file: BinaryIO) -> tuple[BinaryIO, tuple[type[Exception], ...]]:
    """The file's content, and the exceptions that reading it raises if it is damaged."""
    if path.suffix == ".gz":
        unpacked: Any = gzip.GzipFile(fileobj=file)
        return unpacked, (EOFError, gzip.BadGzipFile, zlib.error)
    if path.suffix == ".zst":
        zstd = _import_zstd()
        return zstd.ZstdFile(file), (EOFError, zstd.ZstdError)
    return file, ()


def _import_zstd() -> Any:
    """Python's own module, or its backport for an older Python.

    (The package zstandard takes half a file for a whole one.)
    """
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            "a text in a .zst file needs the package backports.zstd: pip install backports.zstd"
        ) from None


def read_documents(path: Path, file: BinaryIO, text_field: str) -> Iterator[str]:
    """The documents of a JSON lines or Parquet file as pieces, each followed by U+0003.

    Raises UserError for a file that is damaged, or has a document without text.
    """
    read = _parquet_texts if path.suffix == ".parquet" else _json_texts
    return join_documents(read(path, file, text_field))


def join_documents(documents: Iterable[str]) -> Iterator[str]:
    """Documents as pieces of at most PIECE_SIZE characters, each document followed by U+0003."""
    pending, size = [], 0
    for text in documents:
        pending.append(text.replace(DOCUMENT_END, "") + DOCUMENT_END)
        size += len(pending[-1])
        if size >= PIECE_SIZE:
            yield from _cut("".join(pending))
            pending, size = [], 0
    yield from _cut("".join(pending))


def _cut(text: str) -> Iterator[str]:
    return (text[start : start + PIECE_SIZE] for start in range(0, len(text), PIECE_SIZE))


def as_one_document(pieces: Iterable[str]) -> Iterator[str]:
    """A plain text as a document: its own U+0003 removed, and one at the end."""
    for text in pieces:
        if text := text.replace(DOCUMENT_END, ""):
            yield text
    yield DOCUMENT_END


def _json_texts(path: Path, file: BinaryIO, text_field: str) -> Iterator[str]:
    """The texts in JSON lines, an object a line."""
    for number, value in read_json_lines(path, file, MAX_LINE_BYTES):
        yield text_of(value, text_field, f"{path}, line {number}")


def read_json_lines(path: Path, file: BinaryIO, limit: int) -> Iterator[tuple[int, Any]]:
    """The values of JSON lines, each with the number of its line. Empty lines are skipped.

    Raises UserError naming the line that is no JSON, or takes `limit` bytes.
    """
    lines: Any = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)
    number = 0
    while line := lines.readline(limit):
        number += 1
        if len(line) == limit:
            raise UserError(f"{path}, line {number}: a document takes less than {limit:,} bytes")
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: invalid JSON ({error})") from None
        yield number, value


def _parquet_texts(path: Path, file: BinaryIO, text_field: str) -> Iterator[str]:
    """The texts in a column of a Parquet file, read page by page.

    Whole row groups, which pyarrow reads otherwise, can be larger than memory.
    """
    try:
        # The package datasets reads these files with pyarrow too. By itself it is many times
        # faster, and writes no cache into the user's home.
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "a text in a .parquet file needs the package pyarrow: pip install datasets"
        ) from None
    try:
        table = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=PIECE_SIZE)
        columns = [text_field] if text_field in table.schema_arrow.names else None
        row = 0
        for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns):
            for value in batch.to_pylist():
                row += 1
                yield text_of(value, text_field, f"{path}, row {row}")
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is damaged or cut short: {str(error).splitlines()[0]}") from None


def text_of(value: Any, field: str, where: str, option: str = "text_field") -> str:
    """The text in a field of a JSON object or a row.

    Raises UserError naming the fields that are strings, and the `option` that names one.
    """
    fields = value if isinstance(value, dict) else {}
    text = fields.get(field)
    if isinstance(text, str):
        return text
    if field in fields:
        raise UserError(f"{where}: the value of {field!r} is not a string")
    others = [str(name) for name, other in fields.items() if isinstance(other, str)]
    hint = (
        f"it has {', '.join(others[:FIELDS_LISTED])}: name one" if others else "name another field"
    )
    if option == "text_field" and {"source", "target"} <= fields.keys():
        hint = "it has a source and a target: add --architecture=encoder_decoder, or name a field"
    raise UserError(f"{where}: there is no text under {field!r}; {hint} with --{option}=")


def read_plain_text(path: Path, file: BinaryIO, encoding: str) -> Iterator[str]:
    """The text of one file in pieces, none of them empty.

    Every line end becomes a newline, and a byte order mark at the beginning is dropped. Raises
    UserError for an unknown encoding, and for bytes that are not in this encoding.
    """
    check_encoding(encoding)
    decoder = codecs.getincrementaldecoder(encoding)()
    newlines = io.IncrementalNewlineDecoder(decoder, translate=True)
    fed, line, at_beginning = 0, 1, True
    while True:
        data = file.read(PIECE_SIZE)
        fed += len(data)
        try:
            text = newlines.decode(data, final=not data)
        except UnicodeDecodeError as error:
            # The decoder saw the bytes it had kept from earlier pieces, then these: count from
            # the end.
            offset = fed - len(error.object) + error.start
            before = error.object[: error.start].decode(encoding, errors="ignore")
            utf_16 = offset == 0 and error.object.startswith(
                (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            )
            raise UserError(
                f"{path} is not {encoding}: line {line + before.count(NEWLINE)} has byte "
                f"0x{error.object[error.start]:02X} at offset {offset}; name its encoding, for "
                f"example --encoding={'utf-16' if utf_16 else 'latin-1'}"
            ) from None
        except UnicodeError as error:
            raise UserError(
                f"{path} is not {encoding}: {error}; name its encoding with --encoding="
            ) from None
        if text and at_beginning:
            text, at_beginning = text.removeprefix(BYTE_ORDER_MARK), False
        if text:
            yield text
            line += text.count(NEWLINE)
        if not data:
            return


def check_encoding(encoding: str) -> None:
    """Raises UserError for an unknown encoding."""
    try:
        "".encode(encoding)  # also refuses Python's codecs that are not of text, such as hex
    except (LookupError, ValueError):
        raise UserError(
            f"there is no encoding {encoding!r}; common ones are utf-8, utf-16, latin-1, cp1252"
        ) from None
