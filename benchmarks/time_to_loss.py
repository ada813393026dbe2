"""time-to-loss: from the shell to a validation loss at block_size 64, whole process.

Our recipe, and nanoGPT's for a laptop to its end.
"""

import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.commands import LAPTOP, NANOGPT_CONFIG, options, python
from benchmarks.measure import Row, alternate, process, shown_command
from benchmarks.settings import BenchSettings
from kqv.training.metrics import read_metrics


def run(settings: BenchSettings, scratch: Path) -> Iterator[Row]:
    """Seconds of both sides, and the losses they reach."""
    out_dir = scratch / "kqv"
    ours = [*python("train.py"), *options(max_iters=settings.max_iters, out_dir=out_dir)]
    theirs = [sys.executable, "train.py", NANOGPT_CONFIG]
    theirs += options(LAPTOP, out_dir=scratch / "nano")
    nanogpt = partial(nanogpt_time, theirs, settings.nanogpt)
    sides = {
        "kqv": partial(kqv_time, ours, out_dir),
        "nanoGPT": nanogpt if settings.nanogpt else None,
    }
    measured = alternate(sides, settings.rounds)
    times = {side: [seconds for seconds, _ in each] for side, each in measured.items()}
    losses = {side: [loss for _, loss in each] for side, each in measured.items()}
    command = shown_command(ours)
    what = "  validation loss (kqv: whole split; nanoGPT: its own estimate)"
    yield Row("training to its end", "s", False, command, times)
    yield Row(what, "nats", False, command, losses)


def kqv_time(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds of the process, and the loss of the whole validation split."""
    finished = process(command)
    return finished.seconds, read_metrics(folder)[-1]["val_loss_full"]


def nanogpt_time(command: list[str], checkout: str) -> tuple[float, float]:
    """Seconds of the process, and nanoGPT's last estimate of the validation loss."""
    finished = process(command, cwd=checkout)
    estimates = re.findall(r"val loss ([\d.]+)", finished.output)
    return finished.seconds, float(estimates[-1])
