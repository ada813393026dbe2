"""The files of a run, and how a file is written so that a crash leaves the old one or the new one, never a half."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Checkpoints: of the lowest validation loss so far, the newest, and the one that was the newest before it.
BEST, LATEST, EARLIER = "ckpt.pt", "last.pt", "earlier.pt"
METRICS, CURVE = "metrics.jsonl", "loss.png"


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
        if keep and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable. Windows has no such call and needs none."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
