"""attention: training as the context grows, always 4,096 characters per step.

The time per character grows with the context in full attention, and not in the others, which
docs/attention.md explains. Peak memory stands beside it: fused attention stores no weights either.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.commands import SPEED_ONLY, median_speed, options, python, write_text
from benchmarks.measure import Row, alternate, process, shown_command
from benchmarks.settings import BenchSettings

BLOCK_SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
CHARACTERS = 4096  # per step
STEPS = 15

WINDOW = dict(window=64)
DECODERS: dict[str, dict[str, Any]] = {
    "window": WINDOW,
    "longformer": WINDOW | dict(global_tokens=4),
    "linear": dict(attention_score="linear"),
    "performer": dict(attention_score="performer"),
}
ENCODERS: dict[str, dict[str, Any]] = {"linformer": dict(linformer_rank=64)}


def run(settings: BenchSettings, scratch: Path) -> Iterator[Row]:
    """Rows for each architecture and block_size: milliseconds a step, and peak memory. `kqv` is
    full attention."""
    text = write_text(scratch)
    for architecture, sides in {"decoder": DECODERS, "encoder": ENCODERS}.items():
        for block_size in BLOCK_SIZES:
            shape = dict(block_size=block_size, batch_size=CHARACTERS // block_size)
            run_options = SPEED_ONLY | dict(max_iters=STEPS, sample_chars=0)
            command = [*python("train.py"), text]
            command += options(shape | run_options, architecture=architecture)
            what = f"training, {architecture}, block {block_size}"
            yield from compare(settings, scratch / "kqv", what, command, sides)


def compare(
    settings: BenchSettings,
    out_dir: Path,
    what: str,
    command: list[str],
    peers: dict[str, dict[str, Any]],
) -> list[Row]:
    """Time and peak memory of a training command, as it is and with the options of each peer."""
    sides = {
        side: partial(step, [*command, *options(more)], out_dir)
        for side, more in {"kqv": {}, **peers}.items()
    }
    measured = alternate(sides, settings.rounds)
    times = {side: [time for time, _ in each] for side, each in measured.items()}
    memory = {side: [megabytes for _, megabytes in each] for side, each in measured.items()}
    return [
        Row(what, "ms/step", False, shown_command(command), times),
        Row("  its peak memory", "MB", False, shown_command(command), memory),
    ]


def step(command: list[str], out_dir: Path) -> tuple[float, float]:
    """Milliseconds of the median step, and peak memory of the whole process."""
    finished = process([*command, *options(out_dir=out_dir)])
    return 1e3 * CHARACTERS / median_speed(out_dir), finished.megabytes
