"""The files of a run, how a file is written so that a crash leaves the old one or the new one, never a half, how small
files and the text of a prompt are read."""

import errno
import io
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kqv.errors import UserError

LARGEST_HEADER = 1 << 25  # bytes; a tensor takes about 150, and a vocabulary may be in it
LARGEST_NOTE = 1 << 24  # bytes of what kqv notes for itself: facts, progress, hashes


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file to read its bytes.

    Raises OSError also for what is no regular file: a device may never end, and a named pipe waits
    for a writer.
    """
    return open(path, "rb", opener=_open_regular)


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe waits too
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        word = "a folder" if stat.S_ISDIR(kind) else "a device or a pipe"
        raise OSError(errno.EINVAL, f"it is {word}, not a file", path)
    return descriptor


def read_small(path: Path, limit: int) -> bytes:
    """The bytes of a regular file. Raises OSError if there are more than `limit`."""
    with open_regular(path) as file:
        return read_at_most(file, limit, path)


def check_header(path: Path) -> None:
    """Raises OSError for a .safetensors file that is no regular file, or has an endless header."""
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
    if length > LARGEST_HEADER:
        raise OSError(errno.EFBIG, f"its header has more than {LARGEST_HEADER:,} bytes", str(path))


def read_at_most(file: BinaryIO, limit: int, path: Path) -> bytes:
    pieces, size = [], 0
    while piece := file.read(1 << 16):  # a reader makes room for all that it is asked for
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
    return b"".join(pieces)


@contextmanager
def replacing(path: Path, keep: Path | None = None) -> Iterator[io.BufferedRandom]:
    """A binary file that takes the place of `path` when the block ends without an error.

    It is written under another name in the same folder, flushed to the disk, then renamed (POSIX makes
    that atomic). After an error the new file is removed and `path` is as it was. What was at `path` is renamed to
    `keep`, if that is given, in the moment before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        take_place(temporary, path, keep)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def take_place(fresh: Path, path: Path, keep: Path | None = None) -> None:
    """Rename `fresh` to `path`, and what was there to `keep`, or to nothing. Each can be a file or a folder."""
    if keep and path.exists():
        take_place(path, keep)
    if (
        path.is_dir() or fresh.is_dir()
    ):  # a file takes the place of a file in one step, nothing else does
        remove(path)
    os.replace(fresh, path)
    flush_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
    return path.lstat().st_size


def in_words(size: int) -> str:
    """A number of bytes for people.

    >>> in_words(7_512_345), in_words(3_210_000_000)
    ('7.5 MB', '3.21 GB')
    """
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


MARK = ".kqv"  # stands in each folder that `replacing_folder` wrote, and names the files that it wrote there


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `path` when the block ends without an error; after one it is removed.

    Raises UserError if there is a file, or a folder with something in it that was not written so.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: name another folder")
    known = set()
    if (path / MARK).is_file():
        listed = read_small(path / MARK, LARGEST_NOTE).decode(errors="replace")
        known = {MARK, *listed.split("\n")}
    if path.exists() and (others := {file.name for file in path.iterdir()} - known):
        raise UserError(
            f"{path} has {min(others)} in it, which was not exported by kqv: name another folder, or move it away"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    try:
        fresh.mkdir()
        yield fresh
        (fresh / MARK).write_text("\n".join(file.name for file in fresh.iterdir()))
        if path.exists():
            path.rename(old)
        fresh.rename(path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Make renames in it durable. Windows has no such call and needs none."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
