"""prepare: text to train.bin and val.bin, whole process: seconds and peak memory."""

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, alternate, process
from benchmarks.settings import BenchSettings
from kqv.machine.load import core_count
from kqv.project import ROOT
from kqv.text.datasets import open_dataset

COMMAND = "bench.py prepare"
IN_CHARACTERS = """
import sys
from pathlib import Path
from kqv.text.datasets import prepare_dataset
prepare_dataset([Path(sys.argv[1])], Path(sys.argv[2]))
"""
# With so many threads as the third argument says.
IN_PAIRS = """
import sys
from pathlib import Path
from kqv.text import tokenizing
from kqv.text.datasets import prepare_dataset
tokenizing.core_count = lambda: int(sys.argv[3])
prepare_dataset([Path(sys.argv[1])], Path(sys.argv[2]), tokenizer="bpe:1024")
"""

Cost = tuple[float, float]  # seconds, megabytes


def run(settings: BenchSettings, scratch: Path) -> Iterator[Row]:
    """Rows for characters, beside nanoGPT, and for a tenth of the text in byte pairs."""
    sample = (open_dataset("shakespeare_char").folder / "input.txt").read_bytes()
    base = process([sys.executable, "-c", "import numpy"]).megabytes
    what = f"{settings.gigabytes:g} GB of text"
    measured = prepare_characters(settings, scratch, sample)
    seconds = {side: [cost[0] for cost in costs] for side, costs in measured.items()}
    megabytes = {side: [cost[1] for cost in costs] for side, costs in measured.items()}
    memory = f"  peak memory (an interpreter with numpy: {base:.0f})"
    yield Row(f"preparing {what}", "s", False, COMMAND, seconds)
    yield Row(memory, "MB", False, COMMAND, megabytes)
    if not importlib.util.find_spec("rustbpe"):
        return
    measured = prepare_pairs(settings, scratch, sample)
    for index, unit in enumerate(("s", "MB")):
        for side, costs in measured.items():
            pairs = f"a tenth of {what} in byte pairs, {side}, learning included"
            values = [cost[index] for cost in costs]
            yield Row(pairs, unit, False, COMMAND, {"kqv": values})


def prepare_characters(
    settings: BenchSettings, scratch: Path, sample: bytes
) -> dict[str, list[Cost]]:
    """kqv and nanoGPT on the same text, `sample` again and again."""
    folder = scratch / "nano"
    folder.mkdir()
    with (folder / "input.txt").open("wb") as file:
        for _ in range(max(1, round(settings.gigabytes * 1e9 / len(sample)))):
            file.write(sample)
    text, out = str(folder / "input.txt"), scratch / "kqv"
    command = [sys.executable, "-c", IN_CHARACTERS, text, str(out)]
    if settings.nanogpt:
        shutil.copy(Path(settings.nanogpt) / "data/shakespeare_char/prepare.py", folder)
    nanogpt = partial(nanogpt_cost, folder)
    sides = {
        "kqv": partial(kqv_cost, command, out),
        "nanoGPT": nanogpt if settings.nanogpt else None,
    }
    return alternate(sides, settings.rounds)


def prepare_pairs(settings: BenchSettings, scratch: Path, sample: bytes) -> dict[str, list[Cost]]:
    """kqv with one thread and with all, on a tenth of the text: byte pairs take a core ten times as
    long as characters."""
    text, out = scratch / "tenth.txt", scratch / "pairs"
    text.write_bytes(sample * max(1, round(settings.gigabytes * 1e8 / len(sample))))
    command = [sys.executable, "-c", IN_PAIRS, str(text), str(out)]
    threads = {"one thread": 1, f"{core_count()} threads": core_count()}
    sides: dict[Any, Any] = {
        name: partial(kqv_cost, [*command, str(number)], out) for name, number in threads.items()
    }
    return alternate(sides, settings.rounds)


def kqv_cost(command: list[str], out: Path) -> Cost:
    """Prepare the folder `out` anew."""
    shutil.rmtree(out, ignore_errors=True)
    finished = process(command, cwd=str(ROOT))
    return finished.seconds, finished.megabytes


def nanogpt_cost(folder: Path) -> Cost:
    """Prepare a folder anew with nanoGPT's prepare.py, which is in it."""
    for made in folder.glob("*.bin"):
        made.unlink()
    finished = process([sys.executable, str(folder / "prepare.py")])
    return finished.seconds, finished.megabytes
