"""Atomic writes and bounded reads.

A file is replaced as a whole: a crash leaves the old one or the new one, never a half. What is
read into memory is a regular file of limited size.
"""

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

# A tensor takes about 150 bytes of a .safetensors header, which may also hold a vocabulary.
MAX_HEADER_BYTES = 1 << 25
MAX_NOTE_BYTES = 1 << 24  # of what kqv writes for itself: facts, progress, hashes
READ_BYTES = 1 << 16  # in one call: a reader allocates all that it is asked for
EXPORT_MARK = ".kqv"  # in each folder of `replacing_folder`: lists the files that it wrote


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file to read its bytes.

    Raises OSError also for what is no regular file: a device may never end, and a named pipe
    blocks until somebody writes to it.
    """
    return open(path, "rb", opener=_open_regular)


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe blocks too
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", path)
    return descriptor


def read_small(path: Path, limit: int) -> bytes:
    """The bytes of a regular file. Raises OSError if there are more than `limit`."""
    with open_regular(path) as file:
        return read_at_most(file, limit, path)


def read_at_most(file: BinaryIO, limit: int, path: Path) -> bytes:
    """The rest of an open file. Raises OSError naming `path` if it has more than `limit` bytes."""
    pieces, size = [], 0
    while piece := file.read(READ_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
    return b"".join(pieces)


def check_safetensors_header(path: Path) -> None:
    """Raises OSError if a .safetensors file is no regular file, or its header is too large."""
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise OSError(
            errno.EFBIG, f"its header has more than {MAX_HEADER_BYTES:,} bytes", str(path)
        )


@contextmanager
def replacing(path: Path, keep: Path | None = None) -> Iterator[io.BufferedRandom]:
    """A binary file that replaces `path` atomically when the block ends without an error.

    It is written under another name in the same folder, flushed to the disk, then renamed, which
    POSIX makes atomic. After an error it is removed, and `path` is as it was. If `keep` is given,
    the old file is renamed to it just before.
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
    """Rename `fresh` to `path`, and what was there to `keep`, or delete it.

    Each may be a file or a folder.
    """
    if keep and path.exists():
        take_place(path, keep)
    if path.is_dir() or fresh.is_dir():  # only a file can replace a file in one step
        remove(path)
    os.replace(fresh, path)
    flush_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder that replaces `path` when the block ends without an error.

    After an error it is removed, and `path` is as it was.

    Raises UserError if `path` is a file, or a folder with anything in it that was not written by
    this function.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: name another folder")
    if path.exists() and (others := {file.name for file in path.iterdir()} - _written_by_us(path)):
        raise UserError(
            f"{path} has {min(others)} in it, which was not exported by kqv: name another folder, "
            f"or move it away"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    try:
        fresh.mkdir()
        yield fresh
        (fresh / EXPORT_MARK).write_text("\n".join(file.name for file in fresh.iterdir()))
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


def _written_by_us(folder: Path) -> set[str]:
    mark = folder / EXPORT_MARK
    if not mark.is_file():
        return set()
    return {EXPORT_MARK, *read_small(mark, MAX_NOTE_BYTES).decode(errors="replace").split("\n")}


def flush_folder(folder: Path) -> None:
    """Make renames in a folder durable. Windows has no such call and needs none."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
