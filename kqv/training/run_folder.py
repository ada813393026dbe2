"""The folder of a run: one run in it at a time, room for its checkpoints, earlier runs kept.

out/                     the run that was started last
out/previous/1, 2, ...   the runs before it, with all that was made of them; only the user
                         deletes one
"""

import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout  # the system's own locks, which end with their process

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
from kqv.run_files import CONFIG, DAMAGED, LATEST, METRICS, NANOGPT, OF_A_RUN, TO_USE
from kqv.sizes import format_bytes, size_on_disk
from kqv.training.metrics import read_metrics

if TYPE_CHECKING:
    from kqv.training.run import Run

LOCK = ".lock"
PREVIOUS = "previous"
MOVING = ".moving"  # in PREVIOUS: an earlier run while its files are moved


@contextmanager
def enter_folder(run: "Run", resumed_from: Path | None, nanogpt: bool) -> Iterator[None]:
    """Hold out_dir for a run: lock it (a resumed run has its lock already), move an earlier run
    aside, write config.json. `resumed_from` is the checkpoint of a resumed run, `nanogpt` whether
    nanoGPT wrote it; of such a checkpoint a copy is kept.

    Raises UserError if another run holds the folder, or it cannot be used.
    """
    folder = Path(run.settings.out_dir)
    with nullcontext() if resumed_from else occupy(folder):
        make_room(folder, run.trainer.model.parameter_count(), resumed_from)
        write_config(folder, run)
        if resumed_from and nanogpt:
            shutil.copy2(resumed_from, folder / NANOGPT)
            print(
                f"{resumed_from} is nanoGPT's and will be replaced by ours: {folder / NANOGPT} is "
                f"a copy",
                file=sys.stderr,
            )
        yield


@contextmanager
def occupy(out_dir: Path) -> Iterator[None]:
    """Make the folder if it does not exist, and keep every other run out of it while the block
    runs.

    If a process was killed while it moved an earlier run aside, that run is put back first. Raises
    UserError if another run holds the folder, or it cannot be written to.
    """
    lock = FileLock(out_dir / LOCK, timeout=0)
    try:
        with _usable(out_dir):
            out_dir.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            _put_back(out_dir)
    except Timeout:
        raise UserError(
            f"another run is writing to out_dir={out_dir}: wait for its end, or name another "
            f"--out_dir="
        ) from None
    try:
        yield
    finally:
        lock.release()


def make_room(out_dir: Path, parameters: int, resumed_from: Path | None) -> None:
    """Move an earlier run to `previous/` unless this run resumes it, and check that the
    checkpoints will fit on the disk.

    A damaged last.pt that a resume passed over is moved aside, so that the next one does not
    replace the good checkpoint before it. Raises UserError if the folder cannot be written to or
    the disk is too full.
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
    # three checkpoints and the one being written, each of weights and two moments in float32
    needed = 4 * 3 * 4 * parameters
    free = shutil.disk_usage(out_dir).free
    if free < needed:
        raise UserError(
            f"no space for the checkpoints in {out_dir}: they take {needed / 1e6:.0f} MB and "
            f"{free / 1e6:.0f} MB are free; free some, or name another "
            f"--out_dir={_earlier_runs(out_dir)}"
        )


def write_config(out_dir: Path, run: "Run") -> None:
    """Write config.json, which tells people and programs what the run is. (A resume does not read
    it: the checkpoint has all settings.)"""
    content = {
        "kqv": __version__,
        "torch": version("torch"),
        "text": run.data.dataset.title,
        "parameters": run.trainer.model.parameter_count(),
        "step_tokens": run.data.step_tokens(run.settings),
        "measured": run.data.measured,
        "settings": asdict(run.settings),
    }
    with replacing(out_dir / CONFIG) as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False).encode(errors="replace"))


def _set_aside(out_dir: Path) -> None:
    """Move an earlier run, if there is one, to the next number in `previous/`, and say so.

    Raises UserError for a folder of another program, such as a Hugging Face model, whose
    config.json ours would replace.
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
    size = format_bytes(size_on_disk(kept))
    print(
        f"{out_dir} held a run of {steps:,} steps: it is in {kept} now "
        f"({size}{_earlier_runs(out_dir)})",
        file=sys.stderr,
    )


def _is_ours(config: Path) -> bool:
    """Whether `write_config` wrote this file."""
    try:
        return "kqv" in json.loads(read_small(config, MAX_NOTE_BYTES))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _give_number(moving: Path) -> Path:
    """Number a folder to which all files of a run have been moved: a numbered one is complete."""
    numbers = [int(path.name) for path in moving.parent.iterdir() if path.name.isdecimal()]
    kept = moving.with_name(str(max(numbers, default=0) + 1))
    moving.rename(kept)
    flush_folder(kept.parent)
    return kept


def _put_back(out_dir: Path) -> None:
    """Undo an interrupted move of an earlier run. A file made since then (explain.html) stays."""
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
    """The size of all runs in `previous/` and how to delete them, to append to a line; or ""."""
    previous = out_dir / PREVIOUS
    if not previous.is_dir():
        return ""
    size, quoted = format_bytes(size_on_disk(previous)), shlex.quote(str(previous))
    return f"; {previous} takes {size} in all: rm -r {quoted} deletes it"


@contextmanager
def _usable(out_dir: Path) -> Iterator[None]:
    """Turn an OSError into a UserError that names the folder."""
    try:
        yield
    except Timeout:  # is an OSError
        raise
    except OSError as error:
        raise UserError(
            f"out_dir={out_dir} cannot be used: {error.strerror}; name another --out_dir="
        ) from None
