"""likeness: nanoGPT's config file for Shakespeare in both programs.

Once with the options of nanoGPT's README for a laptop, once as it is for the first 40 steps of 16
windows. The losses are over the whole validation split, measured by kqv's code, one for each seed.
"""

import math
import re
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.commands import LAPTOP, options, python
from benchmarks.measure import Row, alternate, process, shown_command
from benchmarks.settings import BenchSettings
from kqv.checkpoints.loading import load_model
from kqv.errors import UserError
from kqv.machine.device import choose_machine
from kqv.options.settings import TrainSettings
from kqv.text.batches import Batch, all_windows
from kqv.text.token_files import open_tokens
from kqv.training.evaluation import mean_loss
from kqv.training.metrics import read_metrics

FIRST_SEED = 1337
FIRST_STEPS: dict[str, Any] = dict(
    device="cpu", compile=False, log_interval=1, batch_size=16, max_iters=40
)

# nanoGPT's train.py with a seed of our choice, and each of its checkpoints in a file of its own.
SEEDED = """
import runpy, sys, torch
seed, set_seed, save = int(sys.argv.pop(1)), torch.manual_seed, torch.save
torch.manual_seed = lambda _: set_seed(seed)
torch.save = lambda state, path: save(state, path.replace("ckpt.pt", f"{state['iter_num']}.pt"))
runpy.run_path("train.py", run_name="__main__")
"""

Losses = dict[int, float]  # by the number of steps before; at 0 the training loss of the first


def run(settings: BenchSettings, scratch: Path) -> Iterator[Row]:
    """Rows for each step at which both are evaluated."""
    if not settings.nanogpt:
        raise UserError("likeness compares with nanoGPT: name a checkout with --nanogpt=DIR")
    nanogpt = Path(settings.nanogpt).resolve()
    config, data = nanogpt / "config/train_shakespeare_char.py", nanogpt / "data/shakespeare_char"
    for what, run_options, steps in (
        ("nanoGPT's laptop command", LAPTOP, (250, 500, 1000, 2000)),
        ("nanoGPT's config, 16 windows", FIRST_STEPS, (40,)),
    ):
        both = options(run_options, eval_interval=steps[0], always_save_checkpoint=True)
        ours = [*python("train.py"), str(config), *both, *options(eval_iters=10**6, dataset=data)]
        theirs = [str(config), *both, *options(eval_iters=1)]
        out_dir = scratch / "nanogpt"
        sides = {
            "kqv": partial(kqv_losses, count(FIRST_SEED), ours, scratch / "kqv"),
            "nanoGPT": partial(nanogpt_losses, count(FIRST_SEED), theirs, out_dir, nanogpt, steps),
        }
        measured = alternate(sides, settings.rounds)
        for step in (0, *steps):
            when = f"after {step} steps" if step else "training loss of the first step"
            losses = {side: [found[step] for found in each] for side, each in measured.items()}
            yield Row(f"{what}, {when}", "nats", False, shown_command(ours), losses)


def kqv_losses(seeds: Iterator[int], command: list[str], out_dir: Path) -> Losses:
    """Train with the next seed by our train.py."""
    process([*command, *options(seed=next(seeds), out_dir=out_dir, sample_chars=0)])
    lines = read_metrics(out_dir)
    losses = {line["step"]: line["val_loss"] for line in lines if "val_loss" in line}
    losses[0] = next(line["train_loss"] for line in lines if "train_loss" in line)
    losses[lines[-1]["step"]] = lines[-1]["val_loss_full"]
    return losses


def nanogpt_losses(
    seeds: Iterator[int],
    arguments: list[str],
    out_dir: Path,
    checkout: Path,
    steps: tuple[int, ...],
) -> Losses:
    """Train with the next seed by nanoGPT's train.py, and evaluate its checkpoints."""
    command = [sys.executable, "-c", SEEDED, str(next(seeds)), *arguments, f"--out_dir={out_dir}"]
    finished = process(command, cwd=str(checkout))
    data = checkout / "data/shakespeare_char"
    shutil.copy(data / "meta.pkl", out_dir)
    first = re.search(r"^iter 0: loss ([\d.]+)", finished.output, re.MULTILINE)
    losses = {step: validation_loss(out_dir / f"{step}.pt", data) for step in steps}
    return losses | {0: float(first[1]) if first else math.nan}


def validation_loss(checkpoint: Path, data: Path) -> float:
    """The loss of a checkpoint over the whole validation split in `data`, in float32 on the CPU."""
    model, tokenizer, *_ = load_model(str(checkpoint))
    settings = TrainSettings(device="cpu", dtype="float32")
    tokens = open_tokens(data / "val.bin", tokenizer.vocab_size, model.config.block_size)
    windows = all_windows(tokens, settings.batch_size, model.config.block_size)
    return mean_loss(model, (Batch(x, y) for x, y in windows), choose_machine(settings))
