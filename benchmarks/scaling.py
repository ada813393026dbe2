"""scale: the same training by one and by two ranks, each with one thread: tokens/s, and the bytes
that each rank sends per step.

The bytes are counted on the loopback device, beside what the arithmetic of
kqv/training/communication.py predicts.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.commands import SPEED_ONLY, median_speed, options, python, write_text
from benchmarks.measure import Row, alternate, process, say, shown_command
from benchmarks.settings import BenchSettings
from kqv.errors import UserError
from kqv.training.communication import Sizes, sent_bytes
from model import GPT, GPTConfig

SHAPES_AND_STEPS: list[tuple[dict[str, Any], int]] = [
    (dict(n_layer=3, n_head=4, n_embd=128, batch_size=32, block_size=64), 100),
    (dict(n_layer=6, n_head=6, n_embd=384, batch_size=16, block_size=256), 10),
]


def run(settings: BenchSettings, scratch: Path) -> Iterator[Row]:
    """Rows for each shape: speed, and bytes sent by DDP and by FSDP."""
    text = write_text(scratch)
    for shape, steps in SHAPES_AND_STEPS:
        training = Training(text, scratch / "run", shape, steps)
        yield compare_speed(training, settings.rounds)
        yield from (compare_bytes(training, fsdp) for fsdp in (False, True))


class Training:
    """Training of one shape, with any number of ranks."""

    def __init__(self, text: str, out_dir: Path, shape: dict[str, Any], steps: int) -> None:
        self.shape, self.steps, self.out_dir = shape, steps, out_dir
        common = options(shape | SPEED_ONLY, sample_chars=0, dtype="float32", out_dir=out_dir)
        self.arguments = [text, *common]

    def command(self, ranks: int, steps: int = 0, **more: Any) -> list[str]:
        """The command of train.py."""
        last = options(more, max_iters=steps or self.steps)
        return [*python("train.py", ranks), *self.arguments, *last]

    def speed(self, ranks: int, threads: int, **more: Any) -> float:
        """Tokens/s of the median step."""
        process(self.command(ranks, **more), threads=threads)
        return median_speed(self.out_dir)

    def megabytes_sent(self, **more: Any) -> float:
        """What each of two ranks sends in a step."""
        counted = []
        for steps in (self.steps, 2 * self.steps):  # what is sent around the steps cancels out
            before = loopback_bytes()
            process(self.command(2, steps, **more), threads=1)
            counted.append(loopback_bytes() - before)
        return (counted[1] - counted[0]) / self.steps / 2 / 1e6


def compare_speed(training: Training, rounds: int) -> Row:
    """Two ranks of one thread beside one process of one thread, and of two."""
    sides: dict[str, Callable[[], float] | None] = {
        "kqv": partial(training.speed, 2, 1),
        "one process": partial(training.speed, 1, 1),
        "one process, 2 threads": partial(training.speed, 1, 2),
        "sharded": partial(training.speed, 2, 1, fsdp=True),
    }
    what = "training, {n_layer} × {n_embd}, {batch_size} × {block_size} a step"
    command = shown_command(training.command(2))
    measured = alternate(sides, rounds)
    return Row(what.format(**training.shape), "tokens/s", True, command, measured)


def compare_bytes(training: Training, fsdp: bool) -> Row:
    """What a rank sends in a step, counted and by arithmetic."""
    name = ", sharded" if fsdp else ""
    say(f"what a rank sends{name}")
    shape = {name: size for name, size in training.shape.items() if name != "batch_size"}
    sizes = Sizes.of(GPT(GPTConfig(vocab_size=65, **shape)))
    counts = {
        "kqv": [training.megabytes_sent(fsdp=fsdp)],
        "by arithmetic": [sent_bytes(sizes, 2, fsdp, muon_bytes=4, gloo=True) / 1e6],
    }
    what = f"  sent by a rank per step{name}"
    return Row(what, "MB", False, shown_command(training.command(2)), counts)


def loopback_bytes() -> int:
    """What went through the loopback device since the system started."""
    try:
        devices = Path("/proc/net/dev").read_text()
    except OSError:
        raise UserError(
            "bench.py scale counts bytes in /proc/net/dev, which this system does not have"
        ) from None
    return int(re.findall(r"^\s*lo:\s*(\d+)", devices, re.MULTILINE)[0])
