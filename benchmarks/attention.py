"""attention: training as the context grows, always 4,096 characters per step.

The cost per character grows with the context in softmax attention, not in linear attention.
"""

from functools import partial
from pathlib import Path

from benchmarks.commands import SPEED_ONLY, median_speed, options, python, write_text
from benchmarks.measure import Row, alternate, process, shown_command
from benchmarks.settings import BenchSettings

BLOCK_SIZES = (64, 128, 256, 512, 1024, 2048)
CHARACTERS = 4096  # per step


def run(settings: BenchSettings, scratch: Path) -> list[Row]:
    """A row for each block_size."""
    text, rows = write_text(scratch), []
    for block_size in BLOCK_SIZES:
        shape = dict(block_size=block_size, batch_size=CHARACTERS // block_size, max_iters=15)
        command = [*python("train.py"), text, *options(shape | SPEED_ONLY, sample_chars=0)]
        sides = {
            "kqv": partial(speed, command, "dot", scratch / "kqv"),
            "linear attention": partial(speed, command, "linear", scratch / "kqv"),
        }
        measured = alternate(sides, settings.rounds)
        what = f"training, block {block_size}"
        rows.append(Row(what, "tokens/s", True, shown_command(command), measured))
    return rows


def speed(command: list[str], score: str, out_dir: Path) -> float:
    """Tokens/s with this --attention_score."""
    process([*command, *options(attention_score=score, out_dir=out_dir)])
    return median_speed(out_dir)
