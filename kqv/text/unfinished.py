"""An unfinished preparation: its folder, its lock, and how far it is.

    data/cache/unfinished-KEY/progress.json    how far it is
    data/cache/unfinished-KEY/ids/             the files written so far
    data/cache/unfinished-KEY.lock             held by the process that works on it

A process that is killed leaves its folder, and the next one that prepares the same text continues
there.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout  # locks of the system, which end with their process

from kqv.errors import UserError
from kqv.files import MAX_NOTE_BYTES, read_small, replacing

PROGRESS_FILE = "progress.json"
OUTPUT_FOLDER = "ids"
ABANDONED_AFTER = 7 * 24 * 3600  # seconds without work; then it is removed
_PREFIX = "unfinished-"


class Note:
    """How far a preparation is: a dataclass that is saved in its folder."""

    def save(self, workspace: Path) -> None:
        """Write it into the folder of the preparation."""
        with replacing(workspace / PROGRESS_FILE) as file:
            file.write(json.dumps(vars(self)).encode())

    @classmethod
    def load(cls, workspace: Path) -> Self:
        """What an earlier process saved there, or the beginning."""
        try:
            return cls(**json.loads(read_small(workspace / PROGRESS_FILE, MAX_NOTE_BYTES)))
        except (OSError, ValueError, TypeError):
            return cls()


@dataclass
class Progress(Note):
    """What is known of a text, and how much of it is written."""

    length: int = 0
    """characters of the text"""
    characters: str = ""
    """its different characters, in code point order"""
    last_document: int = 0
    """where the last document begins; 0 unless there are several"""
    done: int = 0
    """characters whose ids are written"""
    train: int = 0
    """tokens in train.bin and its shards"""
    val: int = 0
    """tokens in val.bin and its shards"""


@dataclass
class PairProgress(Note):
    """What is known of pairs, and how many of them are written."""

    train_pairs: int = 0
    """pairs to train on"""
    val_pairs: int = 0
    """pairs to validate on; 0 before both are counted"""
    done: int = 0
    """pairs whose ids are written"""
    train: int = 0
    """tokens in train.bin and its shards"""
    val: int = 0
    """tokens in val.bin and its shards"""
    unknown_pairs: int = 0
    """validation pairs with an unknown character or symbol, among those that are written"""
    unknown: list[str] = field(default_factory=list)
    """some of these characters or symbols"""


@contextmanager
def locked_workspace(folder: Path, key: str) -> Iterator[Path]:
    """A folder in which to prepare what will become `folder`, locked against other processes.

    It is removed when the block ends. If the process is killed or stopped, or fails for another
    reason than a mistake of the user, it is left for the next process to continue, provided that
    some progress was saved.
    """
    parent = folder if folder.exists() else folder.parent
    workspace = parent / f"{_PREFIX}{key}"
    parent.mkdir(parents=True, exist_ok=True)
    lock = _acquire(workspace)
    try:
        workspace.mkdir(exist_ok=True)
        yield workspace
        shutil.rmtree(workspace, ignore_errors=True)
    except BaseException as error:
        if isinstance(error, UserError) or not (workspace / PROGRESS_FILE).exists():
            shutil.rmtree(workspace, ignore_errors=True)
        else:
            print(
                "the text prepared so far is kept: the same command continues there",
                file=sys.stderr,
            )
        raise
    finally:
        with suppress(OSError):  # Windows keeps a file that is open
            os.unlink(lock.lock_file)
        lock.release()


def _acquire(workspace: Path) -> FileLock:
    lock = FileLock(f"{workspace}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(
            f"another process is preparing the same text: waiting for it ({workspace})",
            file=sys.stderr,
        )
        lock.acquire()
    return lock


def remove_abandoned(cache: Path) -> None:
    """Remove what killed processes left in the cache.

    Copies of standard input, and preparations without saved progress, are removed at once, others
    after a week. What a running process works on is locked, and stays.
    """
    # Each has a folder, a lock file, or both.
    for workspace in {path.with_suffix("") for path in cache.glob(f"{_PREFIX}*")}:
        with suppress(OSError, Timeout):
            if _is_useful(workspace):
                continue
            with FileLock(f"{workspace}.lock").acquire(timeout=0) as lock:
                if not _is_useful(workspace):  # another process may have made progress meanwhile
                    shutil.rmtree(workspace, ignore_errors=True)
                    os.unlink(lock.lock_file)


def _is_useful(workspace: Path) -> bool:
    has_progress = (workspace / PROGRESS_FILE).exists()
    return has_progress and time.time() - workspace.stat().st_mtime < ABANDONED_AFTER
