"""Measure kqv beside its peers: real processes, the sides in turn, medians, spread and ratios.

    python benchmarks/bench.py train --nanogpt=DIR          tokens/s and memory on the same batches
    python benchmarks/bench.py train-pairs --aiayn=DIR      the same for the Transformer of 2017
    python benchmarks/bench.py time-to-loss --nanogpt=DIR   from the shell to a loss, whole process
    python benchmarks/bench.py likeness --nanogpt=DIR       losses of nanoGPT's config file in both
    python benchmarks/bench.py sample --nanogpt=DIR         characters/s; time of one character
    python benchmarks/bench.py translate --aiayn=DIR        translations by beam search
    python benchmarks/bench.py prepare --nanogpt=DIR        text to token ids
    python benchmarks/bench.py attention                    time and memory as the context grows
    python benchmarks/bench.py start                        to the first step and first character
    python benchmarks/bench.py scale                        tokens/s and traffic of two ranks
    python benchmarks/bench.py safety                       cost of a checkpoint; memory, open files

DIR is a checkout of nanoGPT in which data/shakespeare_char is prepared, or of
attention-is-all-you-need-pytorch (github.com/jadore801120). The other peers are used if they are
installed: transformers, and llama.cpp (pip install xllamacpp gguf). A peer that is missing is left
out, and named. The table goes to the terminal; with all single measurements it goes to
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
    "train-pairs": "training_pairs",
    "time-to-loss": "time_to_loss",
    "likeness": "likeness",
    "sample": "sampling",
    "translate": "translating",
    "prepare": "preparing",
    "attention": "attention",
    "start": "starting",
    "scale": "scaling",
    "safety": "safety",
}
# Those that have a peer in a folder, by the option that names it.
PEER_FOLDERS = {
    "nanogpt": ("train", "time-to-loss", "likeness", "sample", "prepare"),
    "aiayn": ("train-pairs", "translate"),
}


def main(arguments: list[str]) -> int:
    """Measure what is asked for, print the table, write it down. Returns the exit status."""
    given, words = read_arguments(BenchSettings, arguments, "WHAT")
    settings = BenchSettings(**given)
    check_at_least(settings, 1, "rounds", "max_iters", "translate_iters", "long_iters")
    check_at_least(settings, 0, "gigabytes")
    if len(words) != 1 or words[0] not in BENCHES:
        raise UserError(f"name what to measure, one of: {', '.join(BENCHES)}")
    (what,) = words
    for option, benches in PEER_FOLDERS.items():
        if what in benches and not getattr(settings, option):
            say(f"a peer is left out: name a checkout of it with --{option}=DIR")
    if settings.nanogpt:
        check_nanogpt(Path(settings.nanogpt))
    if settings.aiayn and not (Path(settings.aiayn) / "transformer" / "Translator.py").exists():
        raise UserError(
            f"--aiayn={settings.aiayn} is no checkout of attention-is-all-you-need-pytorch: it has "
            f"no transformer/Translator.py"
        )
    # Only the module that is needed is imported, and torch only by those that do not measure peak
    # memory: a child process never reports less than this one has.
    bench = importlib.import_module(f"benchmarks.{BENCHES[what]}")
    end_by_exception()
    with tempfile.TemporaryDirectory() as scratch:
        report(what, bench.run(settings, Path(scratch)), Path(settings.out_dir))
    return 0


def check_nanogpt(nanogpt: Path) -> None:
    """Raises UserError if a folder is no checkout of nanoGPT with its data prepared."""
    if not (nanogpt / "train.py").exists():
        raise UserError(f"--nanogpt={nanogpt} is no nanoGPT checkout: it has no train.py")
    data = nanogpt / "data" / "shakespeare_char"
    if not (data / "train.bin").exists():
        raise UserError(f"prepare nanoGPT's data first: python {data / 'prepare.py'}")


if __name__ == "__main__":
    run_script(main)
