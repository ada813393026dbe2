"""Texts as they come: files, folders and standard input to one stream of characters, in pieces.

    novel.txt  log.txt.gz  pages.jsonl.zst  shard.parquet ──▶ "It was a dark and stor", "my night.", ...

A piece is about a megabyte, so memory stays flat whatever is read. Where a format has documents (JSON lines, Parquet) each
of them ends with U+0003, which ASCII calls the end of text, and a plain text among them is one document.
"""

import codecs
import difflib
import gzip
import importlib
import io
import json
import os
import shlex
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from kqv.errors import UserError
from kqv.progress import ReadingBar
from kqv.text.tokenizer import END

PIECE = 1 << 20  # bytes or characters read at a time
LONGEST_LINE = 1 << 28  # bytes of a document in JSON; memory has to hold it
TICK = 0.01  # seconds; the system's clock for dates of files moves in steps of at most that
MOST_KINDS = 5  # kinds of files that are named in one line

PACKED = (".gz", ".zst")
IN_FOLDERS = (
    ".txt",
    ".jsonl",
    ".parquet",
)  # what a folder is searched for; the first two also packed


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

    @cached_property
    def stamps(self) -> list[list[int]]:
        """Size and date of each file before it is read: where they differ later, it was changed.

        Raises UserError for a file that cannot be opened.
        """
        stamps = []
        for path in self.paths:
            with open_bytes(path) as file:
                stamps.append(_stamp(file))
        newest = max((date for _, date in stamps), default=0) / 1e9
        if 0 <= time.time() - newest < TICK:  # another change in this tick would not show
            time.sleep(TICK)
        return stamps

    @property
    def bytes(self) -> int:
        """How much there is to read."""
        return sum(path.stat().st_size for path in self.paths if path.exists())

    def pieces(self, what: str = "reading") -> Iterator[tuple[Path, str]]:
        """All of it in pieces that are not empty, each with the file that it is from; a bar says how far `what` is.

        Of a plain text a byte order mark is dropped, every line end becomes a newline, and one that does not end with a
        newline gets one if more text follows. A document is taken as it is.

        Raises UserError for what is no text, and for a file that has changed since its stamp was
        taken.
        """
        bar, before, last = ReadingBar(what, self.bytes), 0, "\n"
        try:
            for path, stamp in zip(self.paths, self.stamps, strict=True):
                with _opened(path, stamp) as (packed, file):
                    for i, text in enumerate(self._pieces_of(path, file)):
                        check_unchanged(path, packed, stamp)
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


def text_files(word: str, scratch: Path, endings: Sequence[str] = ()) -> list[Path]:
    """The files that a word of the command line stands for: in a folder those with one of
    `endings`, or the usual ones. What can be read only once is copied to `scratch`.

    Raises UserError for a folder without texts.
    """
    path = Path(word)
    if "://" in word and not path.exists():
        name = shlex.quote(word.partition("?")[0].rstrip("/").rpartition("/")[2] or "text.txt")
        raise UserError(
            f"{word[:200]} is an address, and nothing is downloaded: curl -Lo {name} {shlex.quote(word[:200])}, "
            f"then python train.py {name}"
        )
    if comes_once(word):
        copy = scratch / "stdin"
        stream: Any = sys.stdin.buffer if word == "-" else open_bytes(path)
        with copy.open("wb") as file, stream as source:
            while piece := source.read1(PIECE):  # one system call each: signals come in between
                file.write(piece)
        return [copy]
    return _files_below(path, tuple(endings)) if path.is_dir() else [path]


def comes_once(word: str) -> bool:
    """Whether a word means standard input or a named pipe, such as a shell's <(command)."""
    return word == "-" or Path(word).is_fifo()


def read_endings(option: str) -> tuple[str, ...]:
    """The endings in an option. Raises UserError for one that is empty.

    >>> read_endings("md, .py")
    ('.md', '.py')
    """
    names = [word.strip().lstrip("*").lstrip(".") for word in option.split(",")] if option else []
    if not all(names):
        raise UserError(f"endings={option} has an empty one: write it like --endings=md,py")
    return tuple(f".{name}" for name in names)


def _files_below(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """The texts in a folder and in its subfolders, in order of name. One line says what is read and
    what is skipped: hidden files and folders (.git, .venv), linked folders, other endings.

    Raises UserError if there is no text, or a subfolder cannot be read.
    """
    found: list[Path] = []
    read: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for place, subfolders, names in os.walk(folder, onerror=_refuse_folder):
        for name in [*subfolders]:
            hidden = name.startswith(".")
            linked = os.path.islink(os.path.join(place, name))  # perhaps in a circle
            if hidden or linked:
                skipped["hidden folder" if hidden else "linked folder"] += 1
                subfolders.remove(name)
        for path in (Path(place, name) for name in names):
            if path.name.startswith("."):
                skipped["hidden file"] += 1
            elif not path.is_file():
                skipped["broken link" if path.is_symlink() else "special file"] += 1
            elif _has_ending(path, endings) if endings else _in_folders(path):
                read[_kind(path)] += 1
                found.append(path)
            else:
                skipped[_kind(path)] += 1
    others = _endings_in(skipped)
    if not found:
        wanted = endings or IN_FOLDERS
        there = f", but {_counted(skipped)}" if skipped else ""
        hint = f": --endings={others[0][1:]} reads files with that ending" if others else ""
        raise UserError(f"{folder} has no {enumerated(wanted, 'or')} files{there}{hint}")
    line = f"{folder}: reading {_counted(read)} file{'s' if len(found) > 1 else ''}"
    if skipped:
        line += f"; skipped {_counted(skipped)}"
    if others and not endings:
        line += "; --endings=md,py reads these endings instead"
    print(line, file=sys.stderr)
    return sorted(found)


def _refuse_folder(error: OSError) -> None:
    raise UserError(
        f"{error.filename} cannot be read: {error.strerror}; make it readable, or name the texts "
        f"beside it"
    )


def _kind(path: Path) -> str:
    endings = path.suffixes[-2:] if is_packed(path) else path.suffixes[-1:]
    return "".join(endings) or "extensionless file"


def _endings_in(kinds: Counter[str]) -> list[str]:
    """The endings among kinds of files, the most frequent first."""
    endings = [kind for kind in kinds if kind.startswith(".")]
    return sorted(endings, key=lambda ending: (-kinds[ending], ending))


def _counted(kinds: Counter[str]) -> str:
    """How many of which kinds.

    >>> _counted(Counter({".md": 40, "hidden folder": 2}))
    '40 .md and 2 hidden folders'
    """
    endings = _endings_in(kinds)
    words = [f"{kinds[ending]} {ending}" for ending in endings[:MOST_KINDS]]
    if endings[MOST_KINDS:]:
        words.append(f"{sum(kinds[ending] for ending in endings[MOST_KINDS:])} of other kinds")
    for kind in sorted(kinds.keys() - endings):
        words.append(f"{kinds[kind]} {kind}{'s' * (kinds[kind] > 1)}")
    return enumerated(words)


def enumerated(words: Sequence[str], last: str = "and") -> str:
    """Words as a sentence lists them.

    >>> enumerated(["a.txt", "b.txt", "c.txt"])
    'a.txt, b.txt and c.txt'
    """
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def open_bytes(path: Path) -> io.BufferedReader:
    """A file as it is. Raises UserError if it cannot be read."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise UserError(f"no such file or folder: {str(path)[:200]}{_instead(path)}") from None
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero in it
        raise UserError(
            f"{str(path)[:200]!r} cannot be read: {getattr(error, 'strerror', error)}"
        ) from None


def _instead(path: Path) -> str:
    """What to write in place of a file that is not there."""
    name = str(path)
    if "=" in path.name:
        return f"; to set an option write --{name.lstrip('-')}"
    if name.startswith("~"):  # a shell leaves it alone within a word, as in --text=~/novel.txt
        return f"; without the ~ of a shell it is {path.expanduser()}"
    if near := difflib.get_close_matches(
        path.name, (other.name for other in path.parent.glob("*")), n=1
    ):
        return f"; did you mean {path.with_name(near[0])}?"
    return "; --help says how texts and options are named"


def check_unchanged(path: Path, file: BinaryIO, stamp: list[int]) -> None:
    """Raises UserError if an open file has another size or date than it had."""
    if _stamp(file) != stamp:
        raise UserError(
            f"{path} changed while it was read: run the command again when it has settled, or on a "
            f"copy of it"
        )


def _stamp(file: BinaryIO) -> list[int]:
    state = os.fstat(file.fileno())
    return [state.st_size, state.st_mtime_ns]


def is_packed(path: Path) -> bool:
    """Whether a file is unpacked as it is read."""
    return path.suffix in PACKED


def _unpacked_name(path: Path) -> Path:
    return path.with_suffix("") if is_packed(path) else path


def _has_documents(path: Path) -> bool:
    return path.suffix == ".parquet" or _unpacked_name(path).suffix == ".jsonl"


def _in_folders(path: Path) -> bool:
    return path.suffix == ".parquet" or _unpacked_name(path).suffix in IN_FOLDERS[:-1]


def _has_ending(path: Path, endings: tuple[str, ...]) -> bool:
    return path.name.endswith(endings) or _unpacked_name(path).name.endswith(endings)


@contextmanager
def _opened(path: Path, stamp: list[int]) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """A file as it is, which tells how far it is read, and the same unpacked.

    Raises UserError for one that is damaged, and for one whose stamp is another now.
    """
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
            check_unchanged(path, packed, stamp)
        except UserError:
            check_unchanged(path, packed, stamp)  # a half-written text is not a wrong one
            raise
        except tuple(errors) as error:
            check_unchanged(path, packed, stamp)
            raise UserError(f"{path} is damaged or cut short: {error}") from None


def _zstd() -> Any:
    """Python's own module, or the same for an older Python. (The package zstandard takes half a file for a whole one.)"""
    try:
        return importlib.import_module(
            "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        )
    except ImportError:
        raise UserError(
            "a text in a .zst file needs the package backports.zstd: pip install backports.zstd"
        ) from None


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
            raise UserError(
                f"{path}, line {number}: a document takes less than {LONGEST_LINE:,} bytes"
            )
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
        raise UserError(
            "a text in a .parquet file needs the package pyarrow: pip install datasets"
        ) from None
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
        texts = (
            [str(name) for name, other in value.items() if isinstance(other, str)]
            if isinstance(value, dict)
            else []
        )
        there = f"it has {', '.join(texts[:9])}: name one" if texts else "name another field"
        raise UserError(f"{where}: there is no text under {field!r}; {there} with --text_field=")
    return text


def _decoded(path: Path, file: BinaryIO, encoding: str) -> Iterator[str]:
    """The text of one file in pieces, none of them empty."""
    try:
        "".encode(
            encoding
        )  # Python also has codecs that make no text, such as hex: this refuses them
    except (LookupError, ValueError):
        raise UserError(
            f"there is no encoding {encoding!r}; common ones are utf-8, utf-16, latin-1, cp1252"
        ) from None
    newlines = io.IncrementalNewlineDecoder(
        codecs.getincrementaldecoder(encoding)(), translate=True
    )
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
            raise UserError(
                f"{path} is not {encoding}: {error}; name its encoding with --encoding="
            ) from None
        if text:
            text, byte_order_mark = (
                text.removeprefix(byte_order_mark),
                "",
            )  # only the first can be one
        if text:
            yield text
        if not piece:
            return
