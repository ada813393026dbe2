"""train-pairs: the Transformer of 2017, the same batch: tokens/s of the median step, peak memory.

All pairs have the same length, so that no side has padding; a token is one of a source or a target.
The other program scales its learning rate by its own schedule; both use Adam, dropout 0.1 and label
smoothing 0.1.
"""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.commands import SPEED_ONLY, options, python, run_library
from benchmarks.measure import Row, alternate, shown_command
from benchmarks.settings import BenchSettings
from benchmarks.training import kqv_speed
from kqv.project import ROOT

CONFIG = str(ROOT / "config" / "transformer_2017.py")
PEER = "aiayn-pytorch"  # attention-is-all-you-need-pytorch, in tables
DTYPES = ("float32", "auto")  # of kqv; the peer computes in float32
VOCABULARY = 4096  # tokens of both sides together, the two markers included
FIRST_CHARACTER = 0x4E00  # of that many letters in a row, in Unicode
EPOCH = 32  # batches in the file of pairs, so that each letter is in it

SHAPES_AND_STEPS: list[tuple[dict[str, Any], int]] = [
    (dict(n_layer=3, n_head=4, n_embd=256, batch_size=128, block_size=16), 20),
    (dict(n_layer=6, n_head=8, n_embd=512, batch_size=32, block_size=32), 10),  # the base model
]


def run(settings: BenchSettings, scratch: Path) -> Iterator[Row]:
    """Rows for each shape, in float32 and in our default precision."""
    for number, (shape, steps) in enumerate(SHAPES_AND_STEPS):
        folder = scratch / str(number)
        folder.mkdir()
        yield from compare_shape(settings, folder, shape, steps)


def compare_shape(
    settings: BenchSettings, scratch: Path, shape: dict[str, Any], steps: int
) -> list[Row]:
    """Speed and peak memory of both sides for a model and batch of this shape."""
    texts = write_pairs(scratch, shape["batch_size"], shape["block_size"])
    ours = {dtype: kqv_command(scratch, texts, shape, steps, dtype) for dtype in DTYPES}
    job = shape | {"checkout": settings.aiayn, "vocab_size": VOCABULARY, "steps": steps}
    sides: dict[str, Any] = {
        dtype: partial(kqv_speed, command, scratch / dtype) for dtype, command in ours.items()
    }
    sides[PEER] = partial(peer_speed, job) if settings.aiayn else None
    measured = alternate(sides, settings.rounds)
    rows = []
    for dtype, command in ours.items():
        both = {"kqv": measured[dtype]}
        both |= {PEER: measured[PEER]} if PEER in measured else {}
        speeds = {side: [speed for speed, _ in each] for side, each in both.items()}
        memory = {side: [megabytes for _, megabytes in each] for side, each in both.items()}
        what = "pairs, {n_layer} + {n_layer} × {n_embd}, {batch_size} × 2 × {block_size} a step"
        title = f"training on {what.format(**shape)}, --dtype={dtype}"
        rows.append(Row(title, "tokens/s", True, shown_command(command), speeds))
        rows.append(Row("  its peak memory", "MB", False, shown_command(command), memory))
    return rows


def write_pairs(scratch: Path, batch: int, length: int) -> dict[str, Path]:
    """Write pairs of random letters to train on, a whole number of batches, and some to validate.

    Each side is `length` tokens long, the end marker of a target included.
    """
    letters = [chr(FIRST_CHARACTER + number) for number in range(VOCABULARY - 2)]
    chance = random.Random(0)
    texts = {"train": scratch / "train.tsv", "val": scratch / "val.tsv"}
    for path, batches in zip(texts.values(), (EPOCH, 1), strict=True):
        lines = []
        for _ in range(batches * batch):
            source, target = (chance.choices(letters, k=k) for k in (length, length - 1))
            lines.append(f"{''.join(source)}\t{''.join(target)}\n")
        path.write_text("".join(lines), encoding="utf-8")
    return texts


def kqv_command(
    scratch: Path, texts: dict[str, Path], shape: dict[str, Any], steps: int, dtype: str
) -> list[str]:
    """Our train.py, which writes into a folder of scratch that is named for dtype."""
    more = dict(val_text=texts["val"], max_iters=steps, dtype=dtype, embedding_norm=True)
    out_dir = options(out_dir=scratch / dtype, sample_chars=0)
    model = options(shape | SPEED_ONLY, **more)
    return [*python("train.py"), str(texts["train"]), CONFIG, *model, *out_dir]


def peer_speed(job: dict[str, Any]) -> tuple[float, float]:
    """Tokens/s and peak memory of the other program."""
    finished = run_library("aiayn", "train", job)
    return float(finished.output.splitlines()[-1]), finished.megabytes
