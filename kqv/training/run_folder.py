"""The folder of a run: one run in it at a time, room for its checkpoints, earlier runs kept.

out/                     the run that was started last
out/previous/1, 2, ...   the runs before it, with all that was made of them, until the user deletes them
"""

import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from filelock import (  # the system's own locks, which end with their process; torch requires it too
    FileLock,
    Timeout,
)

from kqv import __version__
from kqv.errors import UserError
from kqv.files import (
    MAX_NOTE_BYTES,
    flush_folder,
    read_small,
    remove,
    replacing,
    take_place,
)
from kqv.options.settings import TrainSettings
from kqv.run_files import CONFIG, DAMAGED, LATEST, METRICS, OF_A_RUN, TO_USE
from kqv.sizes import format_bytes, size_on_disk
from kqv.training.log import read_metrics

LOCK = ".lock"
PREVIOUS = "previous"
MOVING = ".moving"  # in PREVIOUS: an earlier run while its files are moved


def occupy(out_dir: Path) -> FileLock:
    """Make the folder if it is not there, and keep every other run out of it while the returned lock lives.

    A process that was killed while it moved an earlier run has begun nothing: that run is put back.

    Raises UserError if a run is in it, or if it cannot be written to.
    """
    lock = FileLock(out_dir / LOCK, timeout=0)
    try:
        with _usable(out_dir):
            out_dir.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            _put_back(out_dir)
    except Timeout:
        raise UserError(
            f"another run is writing to out_dir={out_dir}: wait for its end, or name another --out_dir="
        ) from None
    return lock


def make_room(out_dir: Path, parameters: int, resumed_from: Path | None) -> None:
    """Move an earlier run to `previous/` unless this run goes on with it, and see that the checkpoints will fit.

    A last.pt that a resume passed over is moved aside: the next one must not take the place of the good one before it.

    Raises UserError if the folder cannot be written to or the disk is too full.
    """
    with _usable(out_dir):
        for name in OF_A_RUN:
            for unfinished in out_dir.glob(f".{name}.*.tmp"):  # what a killed process was writing
                remove(unfinished)
        if resumed_from and resumed_from.name != LATEST and (out_dir / LATEST).exists():
            take_place(out_dir / LATEST, out_dir / DAMAGED)
            print(
                f"what is left of {out_dir / LATEST} is in {out_dir / DAMAGED} now", file=sys.stderr
            )
        if not resumed_from:
            _set_aside(out_dir)
    needed = (
        4 * 3 * 4 * parameters
    )  # three checkpoints and the next one, of the weights and two moments in float32
    free = shutil.disk_usage(out_dir).free
    if free < needed:
        raise UserError(
            f"no space for the checkpoints in {out_dir}: they take {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; "
            f"free some, or name another --out_dir={_earlier_runs(out_dir)}"
        )


def write_config(out_dir: Path, settings: TrainSettings, text: str, parameters: int) -> None:
    """Write config.json, which says to people and programs what the run in `out_dir` is. (A resume reads its checkpoint.)"""
    run = {
        "kqv": __version__,
        "torch": version("torch"),
        "text": text,
        "parameters": parameters,
        "settings": asdict(settings),
    }
    with replacing(out_dir / CONFIG) as file:
        file.write(json.dumps(run, indent=2, ensure_ascii=False).encode())


def _set_aside(out_dir: Path) -> None:
    """Move an earlier run, if there is one, to the next number in `previous/`, and say so.

    Raises UserError for a folder of another program's, such as a Hugging Face model, whose config.json ours would replace.
    """
    if not any((out_dir / name).exists() for name in (METRICS, *TO_USE)):
        if (out_dir / CONFIG).exists() and not _is_ours(out_dir / CONFIG):
            raise UserError(
                f"{out_dir} has a config.json that is not of a run: name another --out_dir="
            )
        return
    files = [out_dir / name for name in OF_A_RUN if (out_dir / name).exists()]
    steps = max((line["step"] for line in read_metrics(out_dir)), default=0)
    moving = out_dir / PREVIOUS / MOVING
    moving.mkdir(parents=True)
    for file in files:
        file.rename(moving / file.name)
    kept = _give_number(moving)
    flush_folder(out_dir)
    print(
        f"{out_dir} held a run of {steps:,} steps: it is in {kept} now ({format_bytes(size_on_disk(kept))}{_earlier_runs(out_dir)})",
        file=sys.stderr,
    )


def _is_ours(config: Path) -> bool:
    """Whether `write_config` wrote this file."""
    try:
        return "kqv" in json.loads(read_small(config, MAX_NOTE_BYTES))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _give_number(moving: Path) -> Path:
    """Rename a folder to which all files of a run have been moved: what has a number is whole."""
    numbers = [int(path.name) for path in moving.parent.iterdir() if path.name.isdecimal()]
    kept = moving.with_name(str(max(numbers, default=0) + 1))
    moving.rename(kept)
    flush_folder(kept.parent)
    return kept


def _put_back(out_dir: Path) -> None:
    """Undo the move of an earlier run that was interrupted. What has been made anew meanwhile (explain.html) stays."""
    moving = out_dir / PREVIOUS / MOVING
    if not moving.is_dir():
        return
    for file in moving.iterdir():
        if not (out_dir / file.name).exists():
            file.rename(out_dir / file.name)
    if any(moving.iterdir()):
        _give_number(moving)
    else:
        moving.rmdir()


def _earlier_runs(out_dir: Path) -> str:
    """What all runs in `previous/` take and how to delete them, to add to a line; nothing if there is none."""
    previous = out_dir / PREVIOUS
    if not previous.is_dir():
        return ""
    return f"; {previous} takes {format_bytes(size_on_disk(previous))} in all: rm -r {shlex.quote(str(previous))} deletes it"


@contextmanager
def _usable(out_dir: Path) -> Iterator[None]:
    try:
        yield
    except Timeout:  # is an OSError
        raise
    except OSError as error:
        raise UserError(
            f"out_dir={out_dir} cannot be used: {error.strerror}; name another --out_dir="
        ) from None
