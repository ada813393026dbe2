"""Commands that several benchmarks run, and what they read from a run."""

import importlib.util
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Finished, process
from kqv.machine.launching import torchrun
from kqv.project import ROOT
from kqv.training.metrics import read_metrics

GPT2_CONFIG = str(ROOT / "config" / "train_shakespeare_char.py")  # nanoGPT's model and optimizer
NANOGPT_CONFIG = "config/train_shakespeare_char.py"  # the same file in a checkout of nanoGPT
WARMUP_STEPS = 3  # the first steps are slower, and left out

# The options of nanoGPT's README for training on a laptop.
LAPTOP: dict[str, Any] = dict(
    device="cpu", compile=False, eval_iters=20, log_interval=1, block_size=64, batch_size=12,
    n_layer=4, n_head=4, n_embd=128, max_iters=2000, lr_decay_iters=2000, dropout=0.0,
)  # fmt: skip

# Options of a run that only measures speed: a line for each step, hardly any evaluation.
SPEED_ONLY: dict[str, Any] = dict(log_interval=1, eval_interval=10**6, eval_iters=1, device="cpu")


def python(script: str, ranks: int = 1) -> list[str]:
    """The command of one of our scripts, with torchrun if it has several ranks."""
    return [sys.executable, *torchrun(ranks), str(ROOT / script)]


def options(settings: dict | None = None, **more: object) -> list[str]:
    """--name=value, as our scripts and nanoGPT's take them."""
    return [f"--{name}={value}" for name, value in {**(settings or {}), **more}.items()]


def missing(*packages: str) -> bool:
    """Whether one of these packages is not installed."""
    return any(importlib.util.find_spec(package) is None for package in packages)


def run_library(peer: str, task: str, shape: dict[str, Any]) -> Finished:
    """Run a peer that is a library; the last line of its output is what was measured."""
    module = f"benchmarks.peer_{peer.replace('.', '_')}"
    return process([sys.executable, "-m", module, task, json.dumps(shape)])


def seconds(command: list[str], cwd: str = "") -> float:
    """Wall seconds of a whole process."""
    return process(command, cwd).seconds


def median_speed(folder: Path) -> float:
    """Tokens/s of the median step of a run that reports each step, without the first ones."""
    speeds = [
        line["tokens_per_second"] for line in read_metrics(folder) if "tokens_per_second" in line
    ]
    return median(speeds[WARMUP_STEPS:])


def write_text(scratch: Path) -> str:
    """Write a text of 65 characters, as many as tiny Shakespeare has. Returns its path."""
    path = scratch / "text.txt"
    path.write_text("".join(map(chr, range(32, 97))) * 1000)
    return str(path)
