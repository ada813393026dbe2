"""train: the same GPT-2, the same batch, AdamW: tokens/s of the median step, and peak memory."""

import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.commands import (
    GPT2_CONFIG,
    NANOGPT_CONFIG,
    SPEED_ONLY,
    WARMUP_STEPS,
    median_speed,
    missing,
    options,
    python,
    run_library,
)
from benchmarks.measure import Row, alternate, process, shown_command
from benchmarks.settings import BenchSettings

SHAPES_AND_STEPS: list[tuple[dict[str, Any], int]] = [
    (dict(n_layer=4, n_head=4, n_embd=128, batch_size=12, block_size=64), 200),
    (dict(n_layer=6, n_head=6, n_embd=384, batch_size=16, block_size=256), 12),
]


def run(settings: BenchSettings, scratch: Path) -> Iterator[Row]:
    """Rows for each shape. Sides are nanoGPT and transformers' GPT-2 with torch's fused AdamW."""
    for shape, steps in SHAPES_AND_STEPS:
        yield from compare_shape(settings, scratch, shape, steps)


def compare_shape(
    settings: BenchSettings, scratch: Path, shape: dict[str, Any], steps: int
) -> list[Row]:
    """Speed and peak memory of all sides for a model and batch of this shape."""
    run_options = options(shape | SPEED_ONLY, max_iters=steps, compile=False, dropout=0.0)
    out_dir = options(out_dir=scratch / "kqv", sample_chars=0)
    ours = [*python("train.py"), GPT2_CONFIG, *run_options, *out_dir]
    theirs = [sys.executable, "train.py", NANOGPT_CONFIG, *run_options]
    theirs += options(out_dir=scratch / "nano")
    tokens = shape["batch_size"] * shape["block_size"]
    nanogpt = partial(nanogpt_speed, theirs, settings.nanogpt, tokens)
    transformers = partial(transformers_speed, shape | {"steps": steps})
    sides = {
        "kqv": partial(kqv_speed, ours, scratch / "kqv"),
        "nanoGPT": nanogpt if settings.nanogpt else None,
        "transformers": None if missing("transformers") else transformers,
    }
    measured = alternate(sides, settings.rounds)
    speeds = {side: [speed for speed, _ in each] for side, each in measured.items()}
    memory = {side: [megabytes for _, megabytes in each] for side, each in measured.items()}
    what = "training GPT-2, {n_layer} × {n_embd}, {batch_size} × {block_size} a step"
    return [
        Row(what.format(**shape), "tokens/s", True, shown_command(ours), speeds),
        Row("  its peak memory", "MB", False, shown_command(ours), memory),
    ]


def kqv_speed(command: list[str], folder: Path) -> tuple[float, float]:
    """Tokens/s and peak memory of our train.py, which writes into `folder`."""
    finished = process(command)
    return median_speed(folder), finished.megabytes


def nanogpt_speed(command: list[str], checkout: str, tokens: int) -> tuple[float, float]:
    """Tokens/s and peak memory of nanoGPT's train.py, with so many tokens per step."""
    finished = process(command, cwd=checkout)
    times = re.findall(r"^iter \d+: .* time ([\d.]+)ms", finished.output, re.MULTILINE)
    milliseconds = median([float(time) for time in times[WARMUP_STEPS:]])
    return 1e3 * tokens / milliseconds, finished.megabytes


def transformers_speed(shape: dict[str, Any]) -> tuple[float, float]:
    """Tokens/s and peak memory of transformers."""
    finished = run_library("transformers", "train", shape)
    return float(finished.output.splitlines()[-1]), finished.megabytes
