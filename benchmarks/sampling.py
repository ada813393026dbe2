"""sample: characters/s of sample.py, and the time of one character as the context grows.

Ten texts from a small model; one and ten from models of 10.7 million parameters. The weights are
random, which makes no difference to the speed. A rate is the number of characters after the first,
over the time that they added to the whole process.
"""

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.commands import (
    GPT2_CONFIG,
    NANOGPT_CONFIG,
    missing,
    options,
    python,
    run_library,
    seconds,
    write_text,
)
from benchmarks.measure import Row, alternate, process, shown_command
from benchmarks.settings import BenchSettings
from kqv.generation.decoder import Decoder
from model import GPT, GPTConfig

SMALL = dict(n_layer=4, n_head=4, n_embd=128, block_size=64)
LARGE = dict(n_layer=6, n_head=6, n_embd=384, block_size=256)
CHARACTERS = 500  # in a text
CONTEXTS = (16, 64, 256, 1024)
REPEATS = 50  # of one character

# The models that sample.py runs: a name, how many texts at once, --dtype.
VARIANTS = [
    ("gpt2", 1, "float32"), ("gpt2", 1, "auto"), ("gpt2", 1, "int8"),
    ("gpt2", 10, "float32"), ("gpt2", 10, "auto"), ("gpt2", 10, "int8"),
    ("qwen3", 1, "float32"), ("qwen3", 1, "auto"), ("qwen3", 1, "int8"),
]  # fmt: skip
TITLES = {"gpt2": "GPT-2", "qwen3": "Qwen3"}
PEERS = {"gpt2": ["nanoGPT", "transformers"], "qwen3": ["llama.cpp"]}


def run(settings: BenchSettings, scratch: Path) -> Iterator[Row]:
    """Rows of whole processes, of rates, and of single characters."""
    make_models(settings, scratch)
    command = kqv_command(scratch / "small", 10, CHARACTERS, "auto")
    theirs = nanogpt_command(scratch / "nano-small", 10, CHARACTERS)
    nanogpt = partial(seconds, theirs, settings.nanogpt)
    sides = {
        "kqv": partial(seconds, command),
        "nanoGPT": nanogpt if settings.nanogpt else None,
    }
    measured = alternate(sides, settings.rounds)
    what = "ten texts of 500 characters, 4 × 128, whole process"
    yield Row(what, "s", False, shown_command(command), measured)
    yield from compare_rates(settings, scratch)
    yield from time_single_characters(settings.rounds)


def make_models(settings: BenchSettings, scratch: Path) -> None:
    """Train for one step: a small GPT-2, a large one, a large Qwen3; nanoGPT's two GPT-2s."""
    text = write_text(scratch)
    for name, shape in {"small": SMALL, "gpt2": LARGE, "qwen3": LARGE}.items():
        run_options = dict(
            shape, max_iters=1, batch_size=1, eval_iters=1, device="cpu", compile=False, dropout=0.0
        )
        family = [] if name == "qwen3" else [GPT2_CONFIG]
        out_dir = options(out_dir=scratch / name, sample_chars=0)
        process([*python("train.py"), text, *family, *options(run_options), *out_dir])
        if settings.nanogpt and family:
            out_dir = options(out_dir=scratch / f"nano-{name}")
            save = options(eval_interval=1, always_save_checkpoint=True)
            command = [sys.executable, "train.py", NANOGPT_CONFIG, *options(run_options)]
            process([*command, *save, *out_dir], cwd=settings.nanogpt)


def kqv_command(folder: Path, samples: int, characters: int, dtype: str) -> list[str]:
    """Our sample.py."""
    model = options(out_dir=folder, start=" ", device="cpu", dtype=dtype)
    return [
        *python("sample.py"), *model, *options(num_samples=samples, max_new_tokens=characters)
    ]  # fmt: skip


def nanogpt_command(folder: Path, samples: int, characters: int) -> list[str]:
    """nanoGPT's sample.py."""
    model = options(out_dir=folder, start=" ", device="cpu")
    size = options(num_samples=samples, max_new_tokens=characters)
    return [sys.executable, "sample.py", *model, *size]


def compare_rates(settings: BenchSettings, scratch: Path) -> list[Row]:
    """Characters/s of the large models, beside nanoGPT, transformers and llama.cpp."""
    sides: dict[Any, Callable[[], float] | None] = {
        (name, samples, dtype): partial(kqv_rate, scratch / name, samples, dtype)
        for name, samples, dtype in VARIANTS
    }
    nanogpt = partial(nanogpt_rate, scratch / "nano-gpt2", settings.nanogpt)
    sides["nanoGPT"] = nanogpt if settings.nanogpt else None
    for peer, packages in {
        "transformers": ["transformers"],
        "llama.cpp": ["xllamacpp", "gguf"],
    }.items():
        sides[peer] = None if missing(*packages) else partial(library_rate, peer)
    measured = alternate(sides, settings.rounds)
    rows = []
    for name, samples, dtype in VARIANTS:
        what = (
            f"{samples} text{'s' if samples > 1 else ''} at once, {TITLES[name]} 6 × 384, "
            f"--dtype={dtype} (peers: one text)"
        )
        speeds = {"kqv": measured[name, samples, dtype]}
        speeds |= {peer: measured[peer] for peer in PEERS[name] if peer in measured}
        command = shown_command(kqv_command(scratch / name, samples, CHARACTERS, dtype))
        rows.append(Row(what, "characters/s", True, command, speeds))
    return rows


def kqv_rate(folder: Path, samples: int, dtype: str) -> float:
    """Characters/s of our sample.py, all samples together."""
    first, last = (seconds(kqv_command(folder, samples, n, dtype)) for n in (1, CHARACTERS))
    return samples * (CHARACTERS - 1) / (last - first)


def nanogpt_rate(folder: Path, checkout: str) -> float:
    """Characters/s of nanoGPT's sample.py."""
    first, last = (seconds(nanogpt_command(folder, 1, n), checkout) for n in (1, CHARACTERS))
    return (CHARACTERS - 1) / (last - first)


def library_rate(peer: str) -> float:
    """Characters/s of a peer that is a library."""
    return float(run_library(peer, "sample", LARGE).output.splitlines()[-1])


def time_single_characters(rounds: int) -> Iterator[Row]:
    """Milliseconds of one more character, by the length of the context."""
    for context in CONTEXTS:
        times = [1e3 * seconds_per_character(context) for _ in range(rounds)]
        what = f"one character at context {context}, 4 × 128"
        yield Row(what, "ms", False, "bench.py sample", {"kqv": times})


def seconds_per_character(context: int) -> float:
    """The median time of one more character after `context` of them, in this process."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=65, block_size=2048, n_layer=4)).eval()
    with torch.inference_mode():
        decoder, ids = Decoder(model), torch.randint(65, (1, context))
        decoder.next_logits(ids)
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            decoder.next_logits(ids)
            times.append(time.perf_counter() - began)
    return median(times)
