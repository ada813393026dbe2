"""safety: seconds to save a checkpoint; memory and open files over a long run of train.py and of
sample.py, read twice a second after the first fifth of the run."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.commands import options, python, write_text
from benchmarks.measure import Row, say, watch
from benchmarks.settings import BenchSettings
from kqv.checkpoints.single import save_checkpoint
from kqv.errors import UserError
from kqv.options.settings import TrainSettings
from kqv.training.optimizers import make_optimizers
from model import GPT, GPTConfig

COMMAND = "bench.py safety"
SHAPES: dict[str, dict[str, Any]] = {
    "the default model": {},
    "6 × 384": dict(n_layer=6, n_head=6, n_embd=384),
    "GPT-2, 12 × 768": dict(n_layer=12, n_head=12, n_embd=768, vocab_size=50257),
}
TINY = dict(n_layer=1, n_head=2, n_embd=16, block_size=16, batch_size=8, sample_chars=20)
SECONDS_BETWEEN_CHECKPOINTS = 600  # the default of --checkpoint_minutes
STEPS_PER_TEXT = 20  # of the long run, for each text that sample.py writes


def run(settings: BenchSettings, scratch: Path) -> Iterator[Row]:
    """Rows for saving checkpoints, then for the long runs."""
    if not Path("/proc/self/statm").exists():
        raise UserError(
            "bench.py safety watches processes through /proc, which this system does not have"
        )
    for name, shape in SHAPES.items():
        times = [seconds_to_save(scratch / "last.pt", **shape) for _ in range(settings.rounds)]
        percent = [100 * seconds / SECONDS_BETWEEN_CHECKPOINTS for seconds in times]
        yield Row(f"saving a checkpoint, {name}", "s", False, COMMAND, {"kqv": times})
        yield Row("  every ten minutes, of the run", "%", False, "", {"kqv": percent})
    yield from watch_long_runs(settings, scratch)


def watch_long_runs(settings: BenchSettings, scratch: Path) -> Iterator[Row]:
    """Memory and open files of a long training run, and of one process that writes many texts."""
    out_dir, texts = scratch / "long", settings.long_iters // STEPS_PER_TEXT
    train = [*python("train.py"), write_text(scratch)]
    train += options(TINY, out_dir=out_dir, max_iters=settings.long_iters)
    sample = [*python("sample.py")]
    sample += options(out_dir=out_dir, interactive=True, max_new_tokens=100)
    for what, command, typed in (
        (f"a run of {settings.long_iters:,} steps", train, b""),
        (f"{texts:,} texts of one process", sample, b"A\n" * texts),
    ):
        say(what)
        memory, files = watch(command, typed)
        yield Row(f"memory, {what}", "MB", False, COMMAND, {"kqv": memory})
        yield Row("  its open files", "", False, "", {"kqv": files})


def seconds_to_save(path: Path, vocab_size: int = 65, **shape: Any) -> float:
    """The time to write the checkpoint of a model and its optimizers, in this process."""
    model = GPT(GPTConfig(vocab_size=vocab_size, **shape))
    optimizers = make_optimizers(model, TrainSettings())
    for weights in model.parameters():
        weights.grad = torch.zeros_like(weights)
    for optimizer in optimizers:
        optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": [optimizer.state_dict() for optimizer in optimizers],
    }
    began = time.perf_counter()
    save_checkpoint(path, state)
    return time.perf_counter() - began
