"""start: seconds from the shell to the end of `import torch`, to the first step of training, to the
first character of a sample, and to the end of --help."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.commands import options, python, seconds, write_text
from benchmarks.measure import Row, alternate, process
from benchmarks.settings import BenchSettings
from kqv.project import ROOT
from kqv.training.metrics import read_metrics


def run(settings: BenchSettings, scratch: Path) -> Iterator[Row]:
    """A row for each."""
    out_dir = scratch / "kqv"
    train = [*python("train.py"), write_text(scratch)]
    train += options(max_iters=2, log_interval=1, out_dir=out_dir)
    process(train)
    sample = [*python("sample.py"), *options(out_dir=out_dir, start="A")]
    sides: dict[str, Callable[[], float] | None] = {
        "import torch": partial(seconds, [sys.executable, "-c", "import torch"]),
        "first step": partial(first_step, train, out_dir),
        "first character": partial(first_character, sample),
        "train.py --help": partial(seconds, [*python("train.py"), "--help"]),
        "sample.py --help": partial(seconds, [*python("sample.py"), "--help"]),
    }
    measured = alternate(sides, settings.rounds)
    for what, times in measured.items():
        yield Row(what, "s", False, "bench.py start", {"kqv": times})


def first_step(command: list[str], out_dir: Path) -> float:
    """Seconds from the start of the process to the end of the first step, as it writes itself."""
    process(command)
    return next(line["wall_seconds"] for line in read_metrics(out_dir) if line["step"] == 1)


def first_character(command: list[str]) -> float:
    """Seconds until sample.py has written the prompt, one character, and the next one."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdout
        child.stdout.read(2)
        taken = time.perf_counter() - began
        child.kill()
    return taken
