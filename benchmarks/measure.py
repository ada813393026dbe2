"""How a benchmark measures and reports: whole processes, the sides in turn, medians and ratios."""

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from kqv.errors import UserError
from kqv.machine.load import processor
from kqv.plotting import empty_figure
from kqv.project import ROOT

LONGEST_OUTPUT = 500  # characters of a failed process that an error quotes
WATCH_SECONDS = 0.5
MACOS = "darwin"


@dataclass
class Row:
    """One thing measured for several sides, one of them `kqv`."""

    what: str
    unit: str
    more_is_better: bool
    command: str
    sides: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, peer: str) -> float:
        """How many times better kqv is than a peer: the ratio of the medians."""
        ours, theirs = median(self.sides["kqv"]), median(self.sides[peer])
        return ours / theirs if self.more_is_better else theirs / ours

    def peers(self) -> list[str]:
        """The other sides."""
        return [side for side in self.sides if side != "kqv"]


@dataclass
class Finished:
    """A process that has ended.

    On Linux its peak memory is never less than that of the process that started it, which is why
    bench.py imports little.
    """

    seconds: float
    """from start to end, by the clock"""
    megabytes: float
    """peak memory"""
    output: str
    """stdout and stderr"""


def alternate(sides: Mapping[Any, Callable[[], Any] | None], rounds: int) -> dict[Any, list[Any]]:
    """Measure each side `rounds` times, in turn.

    A machine that changes its speed so changes it for all sides. A side that is None is left out.
    """
    present = {name: side for name, side in sides.items() if side}
    for name in sides.keys() - present.keys():
        say(f"{name} is not here: left out")
    measured: dict[Any, list[Any]] = {name: [] for name in present}
    for number in range(rounds):
        for name, side in present.items():
            say(f"round {number + 1} of {rounds}: {name}")
            measured[name].append(side())
    return measured


def process(command: Sequence[str], cwd: str = "", threads: int = 0) -> Finished:
    """Run a command to its end, with `threads` OpenMP threads if that is given.

    Raises UserError with the end of its output if it fails.
    """
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        with child_process(command, cwd or ROOT, output, env=environment) as child:
            _, status, usage = os.wait4(child.pid, 0)  # the usage of this child alone
            seconds = time.perf_counter() - began
            child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    _check_status(command, child.returncode, text)
    unit = 1 if sys.platform == MACOS else 1024  # of ru_maxrss, in bytes
    return Finished(seconds, usage.ru_maxrss * unit / 1e6, text)


def watch(command: list[str], typed: bytes) -> tuple[list[float], list[float]]:
    """Megabytes in memory and number of open files of a process, read twice a second.

    `typed` is its standard input. The first fifth of the readings is left out. Raises UserError
    with the end of its output if it fails.
    """
    memory, files = [], []
    with tempfile.TemporaryFile() as keyboard, tempfile.TemporaryFile() as output:
        keyboard.write(typed)
        keyboard.seek(0)
        with child_process(command, ROOT, output, stdin=keyboard) as child:
            proc = Path(f"/proc/{child.pid}")
            while child.poll() is None:
                time.sleep(WATCH_SECONDS)
                with contextlib.suppress(OSError, IndexError):  # it has just ended
                    pages = int((proc / "statm").read_text().split()[1])
                    memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
                    files.append(float(len(list((proc / "fd").iterdir()))))
        output.seek(0)
        _check_status(command, child.returncode, output.read().decode(errors="replace"))
    # The last reading may find a process that is giving its memory back.
    return memory[len(memory) // 5 : -1] or memory, files[len(files) // 5 : -1] or files


@contextlib.contextmanager
def child_process(
    command: Sequence[str],
    cwd: str | Path,
    output: Any,
    stdin: Any = subprocess.DEVNULL,
    **more: Any,
) -> Iterator[subprocess.Popen]:
    """A process that writes stdout and stderr to the file `output`. It does not outlive the block,
    so that nothing goes on writing to a scratch folder while that is removed."""
    child = subprocess.Popen(
        command, cwd=cwd, stdin=stdin, stdout=output, stderr=subprocess.STDOUT, **more
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
            child.wait()


def _check_status(command: Sequence[str], status: int, output: str) -> None:
    """Raises UserError with the end of the output of a process that failed."""
    if status:
        end = output[-LONGEST_OUTPUT:]
        raise UserError(f"{shown_command(command)} ended with status {status}: {end}")


def report(what: str, rows: Iterable[Row], folder: Path) -> None:
    """Print the table; write all single measurements to WHAT.json, and the ratios to WHAT.png.

    A row is printed and written as soon as it is measured: a benchmark that is stopped keeps those
    that it has.
    """
    machine = {
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "date": str(date.today()),
    }
    measured: list[Row] = []
    for row in rows:
        if not measured:
            folder.mkdir(parents=True, exist_ok=True)
            print("| what | unit | kqv | peer | times better |\n|---|---|---|---|---|")
        print_row(row)
        measured.append(row)
        content = {"machine": machine, "rows": [asdict(each) for each in measured]}
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (folder / f"{what}.json").write_text(text + "\n")
    ratios = [(f"{row.what} / {peer}", row.ratio(peer)) for row in measured for peer in row.peers()]
    draw(ratios, folder / f"{what}.png")
    on = f"{machine['processor']}, {machine['cores']} cores"
    say(f"written to {folder / what}.json and .png; {on}")


def print_row(row: Row) -> None:
    """A line of the table for each peer of a row."""
    for peer in row.peers() or [""]:
        theirs = f"{peer} {spread(row.sides[peer])}" if peer else ""
        ratio = f"{row.ratio(peer):.1f}" if peer else ""
        cells = [row.what, row.unit, spread(row.sides["kqv"]), theirs, ratio]
        print("|", " | ".join(cells), "|", flush=True)


def draw(ratios: Sequence[tuple[str, float]], path: Path) -> None:
    """Bars of how many times better kqv is than each peer, on a logarithmic scale."""
    figure = empty_figure(8, 1 + 0.4 * max(1, len(ratios)))
    axes = figure.add_subplot()
    names, values = [name.strip() for name, _ in ratios], [value for _, value in ratios]
    bars = axes.barh(range(len(values)), values, color="#0072b2")
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(1, color="#d55e00")
    axes.set(xscale="log", xlabel="times better than the peer")
    figure.savefig(path, dpi=100)


def spread(values: Sequence[float]) -> str:
    """The median, and in brackets the lowest and highest value."""
    number = "{:,.0f}" if median(values) >= 100 else "{:.4g}"
    middle, low, high = (number.format(f(values)) for f in (median, min, max))
    return f"{middle} [{low}–{high}]"


def shown_command(command: Sequence[str]) -> str:
    """A command as a person would type it, without --out_dir."""
    words = [
        word.replace(str(ROOT) + os.sep, "") for word in command if not word.startswith("--out_dir")
    ]
    return " ".join(["python", *words[1:]])


def say(text: str) -> None:
    """A progress line on stderr."""
    print(text, file=sys.stderr, flush=True)
