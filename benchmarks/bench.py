"""Measure kqv beside its peers: real processes, the sides in turn, medians, spread and ratios.

    python benchmarks/bench.py train --nanogpt=DIR          tokens/s and memory on the same batches
    python benchmarks/bench.py time-to-loss --nanogpt=DIR   from the shell to a loss, whole process
    python benchmarks/bench.py likeness --nanogpt=DIR       losses of nanoGPT's config file in both
    python benchmarks/bench.py sample --nanogpt=DIR         characters/s; time of one character
    python benchmarks/bench.py prepare --nanogpt=DIR        text to token ids
    python benchmarks/bench.py attention                    tokens/s as the context grows
    python benchmarks/bench.py start                        to the first step and first character
    python benchmarks/bench.py scale                        tokens/s and traffic of two ranks
    python benchmarks/bench.py safety                       cost of a checkpoint; memory, open files

DIR is a checkout of nanoGPT in which data/shakespeare_char is prepared. The other peers are used if
they are installed: transformers, and llama.cpp (pip install xllamacpp gguf). A peer that is missing
is left out, and named. The table goes to the terminal; with all single measurements it goes to
out_dir as JSON, and as a picture.
"""

import signal

if __name__ == "__main__":
    # Ctrl-C during imports ends the process, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import importlib
import sys
import tempfile
from pathlib import Path

# A script sees its own folder, not the project's.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import report, say
from benchmarks.settings import BenchSettings
from kqv.errors import UserError, run_script
from kqv.options.checks import check_at_least
from kqv.options.command_line import read_arguments
from kqv.signals import end_by_exception

# What can be measured, and the module whose `run` does so.
BENCHES = {
    "train": "training",
    "time-to-loss": "time_to_loss",
    "likeness": "likeness",
    "sample": "sampling",
    "prepare": "preparing",
    "attention": "attention",
    "start": "starting",
    "scale": "scaling",
    "safety": "safety",
}
WITHOUT_NANOGPT = ("attention", "start", "scale", "safety")


def main(arguments: list[str]) -> int:
    """Measure what is asked for, print the table, write it down. Returns the exit status."""
    given, words = read_arguments(BenchSettings, arguments, "WHAT")
    settings = BenchSettings(**given)
    check_at_least(settings, 1, "rounds", "max_iters", "long_iters")
    check_at_least(settings, 0, "gigabytes")
    if len(words) != 1 or words[0] not in BENCHES:
        raise UserError(f"name what to measure, one of: {', '.join(BENCHES)}")
    (what,) = words
    if settings.nanogpt:
        check_checkout(Path(settings.nanogpt))
    elif what not in WITHOUT_NANOGPT:
        say("nanoGPT is left out: name a checkout with --nanogpt=DIR")
    # Only the module that is needed is imported, and torch only by those that do not measure peak
    # memory: a child process never reports less than this one has.
    bench = importlib.import_module(f"benchmarks.{BENCHES[what]}")
    end_by_exception()
    with tempfile.TemporaryDirectory() as scratch:
        rows = bench.run(settings, Path(scratch))
    report(what, rows, Path(settings.out_dir))
    return 0


def check_checkout(nanogpt: Path) -> None:
    """Raises UserError if a folder is no checkout of nanoGPT with its data prepared."""
    if not (nanogpt / "train.py").exists():
        raise UserError(f"--nanogpt={nanogpt} is no nanoGPT checkout: it has no train.py")
    data = nanogpt / "data" / "shakespeare_char"
    if not (data / "train.bin").exists():
        raise UserError(f"prepare nanoGPT's data first: python {data / 'prepare.py'}")


if __name__ == "__main__":
    run_script(main)
