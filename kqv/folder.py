"""The folder of a run: one run in it at a time, room for its checkpoints, an earlier run moved aside."""

import shutil
import sys
from pathlib import Path

from filelock import FileLock, Timeout  # the system's own locks, which end with their process; torch requires it too

from kqv.errors import UserError
from kqv.files import BEST, CURVE, DAMAGED, EARLIER, LATEST, METRICS, TENSORBOARD, remove, take_place

LOCK = ".lock"


def occupy(out_dir: Path) -> FileLock:
    """Make the folder if it is not there, and keep every other run out of it while the returned lock lives.

    Raises UserError if a run is in it, or if it cannot be written to.
    """
    lock = FileLock(out_dir / LOCK, timeout=0)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(f"another run is writing to out_dir={out_dir}: wait for its end, or name another --out_dir=") from None
    except OSError as error:
        raise UserError(f"out_dir={out_dir} cannot be used: {error.strerror}; name another --out_dir=") from None
    return lock


def make_room(out_dir: Path, parameters: int, resumed_from: Path | None) -> None:
    """Move an earlier run's files to `previous/` unless this run goes on with them, and see that the checkpoints will fit.

    A last.pt that a resume passed over is moved aside: the next one must not take the place of the good one before it.

    Raises UserError if the folder cannot be written to or the disk is too full.
    """
    files = [out_dir / name for name in (BEST, LATEST, EARLIER, METRICS, CURVE, TENSORBOARD)]
    previous = out_dir / "previous"
    try:
        for file in files:
            for unfinished in out_dir.glob(f".{file.name}.*.tmp"):  # what a killed process was writing
                remove(unfinished)
        if resumed_from and resumed_from.name != LATEST and (out_dir / LATEST).exists():
            take_place(out_dir / LATEST, out_dir / DAMAGED)
            print(f"what is left of {out_dir / LATEST} is in {out_dir / DAMAGED} now", file=sys.stderr)
        if any(file.exists() for file in files[:3]) and not resumed_from:
            previous.mkdir(exist_ok=True)
            for file in files:
                remove(previous / file.name)
                if file.exists():
                    file.rename(previous / file.name)
            print(f"{out_dir} held a run: it is in {previous} now", file=sys.stderr)
    except OSError as error:
        raise UserError(f"out_dir={out_dir} cannot be used: {error.strerror}; name another --out_dir=") from None
    needed = 4 * 3 * 4 * parameters  # three checkpoints and the next one, of the weights and two moments in float32
    free = shutil.disk_usage(out_dir).free
    if free < needed:
        raise UserError(
            f"no space for the checkpoints in {out_dir}: they take {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; "
            f"free some, or name another --out_dir="
        )
