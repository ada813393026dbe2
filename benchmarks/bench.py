"""Measure kqv beside its peers: real processes, the sides in turn, medians, spread and ratios.

    python benchmarks/bench.py train --nanogpt=DIR           tokens/s and memory of the same models on the same batches
    python benchmarks/bench.py time-to-loss --nanogpt=DIR    from the shell to a loss, whole process
    python benchmarks/bench.py likeness --nanogpt=DIR        the losses of nanoGPT's config file in both
    python benchmarks/bench.py sample --nanogpt=DIR          characters/s; time a character as the context grows
    python benchmarks/bench.py prepare --nanogpt=DIR         text to token ids
    python benchmarks/bench.py attention                     tokens/s as the block grows, softmax and linear attention
    python benchmarks/bench.py start                         from the shell to the first step and the first character
    python benchmarks/bench.py scale                         tokens/s of one and of two processes, and what they send each other
    python benchmarks/bench.py safety                        what a checkpoint costs; memory and open files over a long run

DIR is a checkout of nanoGPT in which data/shakespeare_char is prepared. The other peers are taken if they are installed:
transformers, and llama.cpp (pip install xllamacpp gguf). A peer that is missing is left out, and that is said.
The table goes to the terminal, and with all single measurements to out_dir as JSON and as a picture.
"""

import signal

if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # Ctrl-C during imports ends the process, without a traceback

import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a script sees its own folder, not the project's

from benchmarks.measure import Finished, Row, alternate, process, report, say, shown_command, watch
from benchmarks.peers import missing
from kqv.errors import UserError, run_script
from kqv.machine.launching import torchrun
from kqv.options.command_line import read_arguments
from kqv.options.settings import check_at_least
from kqv.project import ROOT
from kqv.signals import end_by_exception
from kqv.training.metrics import read_metrics

GPT2_CONFIG = str(ROOT / "config" / "train_shakespeare_char.py")  # nanoGPT's model and optimizer

# The options of nanoGPT's README for training on a laptop.
LAPTOP: dict[str, Any] = dict(
    device="cpu", compile=False, eval_iters=20, log_interval=1, block_size=64, batch_size=12,
    n_layer=4, n_head=4, n_embd=128, max_iters=2000, lr_decay_iters=2000, dropout=0.0,
)  # fmt: skip

# nanoGPT's train.py with a seed of our choice, and each of its checkpoints in a file of its own.
SEEDED = """
import runpy, sys, torch
seed, set_seed, save = int(sys.argv.pop(1)), torch.manual_seed, torch.save
torch.manual_seed = lambda _: set_seed(seed)
torch.save = lambda state, path: save(state, path.replace("ckpt.pt", f"{state['iter_num']}.pt"))
runpy.run_path("train.py", run_name="__main__")
"""


@dataclass
class BenchSettings:
    """Measure kqv beside its peers. WHAT is train, time-to-loss, likeness, sample, prepare,
    attention, start, scale or safety."""

    nanogpt: str = ""
    """folder of a nanoGPT checkout, its data/shakespeare_char prepared"""
    rounds: int = 3
    """how often each side is measured, in turn; likeness: seeds"""
    gigabytes: float = 1.0
    """prepare: size of the text"""
    max_iters: int = 130
    """time-to-loss: our steps"""
    long_iters: int = 20_000
    """safety: steps of the long run, and twenty times the texts"""
    out_dir: str = "out-bench"
    """folder of the JSON files and pictures"""


def main(arguments: list[str]) -> int:
    """Measure what is asked for, print the table, write it down. Returns the exit status."""
    given, words = read_arguments(BenchSettings, arguments, "WHAT")
    settings = BenchSettings(**given)
    check_at_least(settings, 1, "rounds", "max_iters", "long_iters")
    check_at_least(settings, 0, "gigabytes")
    if len(words) != 1 or words[0] not in BENCHES:
        raise UserError(f"name what to measure, one of: {', '.join(BENCHES)}")
    if settings.nanogpt and not (Path(settings.nanogpt) / "train.py").exists():
        raise UserError(f"--nanogpt={settings.nanogpt} is no nanoGPT checkout: it has no train.py")
    if (
        settings.nanogpt
        and not (Path(settings.nanogpt) / "data/shakespeare_char/train.bin").exists()
    ):
        raise UserError(
            f"prepare nanoGPT's data first: python {settings.nanogpt}/data/shakespeare_char/prepare.py"
        )
    if not settings.nanogpt and words[0] not in ("attention", "start", "scale", "safety"):
        say("nanoGPT is left out: name a checkout with --nanogpt=DIR")
    end_by_exception()
    with tempfile.TemporaryDirectory() as scratch:
        rows = BENCHES[words[0]](settings, Path(scratch))
    report(words[0], rows, Path(settings.out_dir))
    return 0


# --- the benchmarks -----------------------------------------------------------------------------------------------


def bench_train(settings: BenchSettings, scratch: Path) -> list[Row]:
    """The same GPT-2, the same batch, AdamW: tokens/s of the median step, and peak memory."""
    rows = []
    for n_layer, n_embd, batch_size, block_size, steps in (
        (4, 128, 12, 64, 200),
        (6, 384, 16, 256, 12),
    ):
        heads = n_embd // 64 if n_embd > 128 else 4
        shape = dict(
            n_layer=n_layer,
            n_head=heads,
            n_embd=n_embd,
            batch_size=batch_size,
            block_size=block_size,
            dropout=0.0,
        )
        run = dict(
            max_iters=steps,
            log_interval=1,
            eval_iters=1,
            eval_interval=10**6,
            device="cpu",
            compile=False,
        )
        tokens = batch_size * block_size
        ours = [
            *python("train.py"),
            GPT2_CONFIG,
            *options(shape | run, out_dir=scratch / "kqv", sample_chars=0),
        ]
        theirs = [
            sys.executable,
            "train.py",
            "config/train_shakespeare_char.py",
            *options(shape | run, out_dir=scratch / "nano"),
        ]

        def kqv(command: list[str] = ours) -> tuple[float, float]:
            finished = process(command)
            return median_speed(scratch / "kqv"), finished.megabytes

        def nanogpt(command: list[str] = theirs, tokens: int = tokens) -> tuple[float, float]:
            finished = process(command, cwd=settings.nanogpt)
            times = [
                float(ms)
                for ms in re.findall(
                    r"^iter \d+: .* time ([\d.]+)ms", finished.output, re.MULTILINE
                )
            ]
            return 1e3 * tokens / median(times[3:]), finished.megabytes

        def transformers(shape: dict = shape, steps: int = steps) -> tuple[float, float]:
            finished = library("transformers-train", shape | {"steps": steps})
            return float(finished.output.splitlines()[-1]), finished.megabytes

        what = f"training GPT-2, {n_layer} × {n_embd}, {batch_size} × {block_size} a step"
        peers = {
            "nanoGPT": nanogpt if settings.nanogpt else None,
            "transformers": None if missing("transformers") else transformers,
        }
        measured = alternate({"kqv": kqv, **peers}, settings.rounds)
        shown = shown_command(ours)
        rows.append(
            Row(
                what,
                "tokens/s",
                True,
                shown,
                {side: [speed for speed, _ in m] for side, m in measured.items()},
            )
        )
        rows.append(
            Row(
                "  its peak memory",
                "MB",
                False,
                shown,
                {side: [mb for _, mb in m] for side, m in measured.items()},
            )
        )
    return rows


def bench_time_to_loss(settings: BenchSettings, scratch: Path) -> list[Row]:
    """From the shell to a validation loss at block 64, whole process: our recipe, and nanoGPT's for a laptop to its end."""
    losses: dict[str, list[float]] = {"kqv": []}
    ours = [*python("train.py"), *options(max_iters=settings.max_iters, out_dir=scratch / "kqv")]
    recipe = "config/train_shakespeare_char.py"
    theirs = [sys.executable, "train.py", recipe, *options(LAPTOP, out_dir=scratch / "nano")]

    def kqv() -> float:
        finished = process(ours)
        losses["kqv"].append(read_metrics(scratch / "kqv")[-1]["val_loss_full"])
        return finished.seconds

    def nanogpt() -> float:
        finished = process(theirs, cwd=settings.nanogpt)
        estimates = re.findall(r"val loss ([\d.]+)", finished.output)
        losses.setdefault("nanoGPT", []).append(float(estimates[-1]))
        return finished.seconds

    measured = alternate(
        {"kqv": kqv, "nanoGPT": nanogpt if settings.nanogpt else None}, settings.rounds
    )
    command = shown_command(ours)
    return [
        Row("training to its end", "s", False, command, measured),
        Row(
            "  validation loss (kqv: whole split; nanoGPT: its own estimate)",
            "nats",
            False,
            command,
            losses,
        ),
    ]


def bench_likeness(settings: BenchSettings, scratch: Path) -> list[Row]:
    """nanoGPT's config file for Shakespeare in both programs, with the options of its README for a
    laptop, and as it is for the first 40 steps of 16 windows.

    The losses are over the whole validation split, measured by kqv's code, one for each seed.
    """
    if not settings.nanogpt:
        raise UserError("likeness compares with nanoGPT: name a checkout with --nanogpt=DIR")
    nanogpt = Path(settings.nanogpt).resolve()
    config, data = nanogpt / "config/train_shakespeare_char.py", nanogpt / "data/shakespeare_char"
    few = dict(device="cpu", compile=False, log_interval=1, batch_size=16, max_iters=40)
    rows = []
    for what, run, steps in (
        ("nanoGPT's laptop command", LAPTOP, (250, 500, 1000, 2000)),
        ("nanoGPT's config, 16 windows", few, (40,)),
    ):
        run = run | dict(eval_interval=steps[0], always_save_checkpoint=True)
        ours = [*python("train.py"), str(config), *options(run, eval_iters=10**6, dataset=data)]
        theirs = [sys.executable, "-c", SEEDED, "SEED", str(config), *options(run, eval_iters=1)]
        seeds = {"kqv": count(1337), "nanoGPT": count(1337)}

        def kqv(command: list[str] = ours, seeds: Iterator[int] = seeds["kqv"]) -> dict[int, float]:
            process([*command, *options(seed=next(seeds), out_dir=scratch / "kqv", sample_chars=0)])
            lines = read_metrics(scratch / "kqv")
            losses = {line["step"]: line["val_loss"] for line in lines if "val_loss" in line}
            first = next(line["train_loss"] for line in lines if "train_loss" in line)
            return losses | {0: first, lines[-1]["step"]: lines[-1]["val_loss_full"]}

        def peer(
            command: list[str] = theirs,
            seeds: Iterator[int] = seeds["nanoGPT"],
            steps: tuple[int, ...] = steps,
        ) -> dict[int, float]:
            words = [str(next(seeds)) if word == "SEED" else word for word in command]
            out = scratch / "nanogpt"
            finished = process([*words, f"--out_dir={out}"], cwd=str(nanogpt))
            shutil.copy(data / "meta.pkl", out)
            first = re.search(r"^iter 0: loss ([\d.]+)", finished.output, re.MULTILINE)
            losses = {step: validation_loss(out / f"{step}.pt", data) for step in steps}
            return losses | {0: float(first[1]) if first else math.nan}

        measured = alternate({"kqv": kqv, "nanoGPT": peer}, settings.rounds)
        shown = shown_command(ours)
        for step in (0, *steps):
            when = f"after {step} steps" if step else "training loss of the first step"
            sides = {side: [losses[step] for losses in each] for side, each in measured.items()}
            rows.append(Row(f"{what}, {when}", "nats", False, shown, sides))
    return rows


def validation_loss(checkpoint: Path, data: Path) -> float:
    """The loss of a checkpoint over the whole validation split in `data`, in float32 on the CPU."""
    from kqv.checkpoints.loading import load_model
    from kqv.machine.device import choose_machine
    from kqv.options.settings import TrainSettings
    from kqv.text.token_files import open_tokens
    from kqv.training.evaluation import whole_loss

    model, tokenizer, *_ = load_model(str(checkpoint))
    settings = TrainSettings(device="cpu", dtype="float32")
    tokens = open_tokens(data / "val.bin", tokenizer.vocab_size, model.config.block_size)
    return whole_loss(model, tokens, settings, choose_machine(settings))


def bench_sample(settings: BenchSettings, scratch: Path) -> list[Row]:
    """Ten texts from a small model; one and ten from models of 10.7 million parameters; a character at growing contexts.

    The weights are random: they make no difference to the speed. A rate is the characters after the first, over the
    time that they added to the whole process.
    """
    small = dict(n_layer=4, n_head=4, n_embd=128, block_size=64)
    large = dict(n_layer=6, n_head=6, n_embd=384, block_size=256)
    text = some_text(scratch)
    for name, shape in {"small": small, "large": large, "qwen3": large}.items():
        run = dict(
            shape, max_iters=1, batch_size=1, eval_iters=1, device="cpu", compile=False, dropout=0.0
        )
        family = [] if name == "qwen3" else [GPT2_CONFIG]
        process(
            [
                *python("train.py"),
                text,
                *family,
                *options(run, out_dir=scratch / name, sample_chars=0),
            ]
        )
        if settings.nanogpt and family:
            run |= dict(
                eval_interval=1, always_save_checkpoint=True, out_dir=scratch / f"nano-{name}"
            )
            process(
                [sys.executable, "train.py", "config/train_shakespeare_char.py", *options(run)],
                cwd=settings.nanogpt,
            )

    def ours(name: str, samples: int, characters: int, dtype: str) -> list[str]:
        model = dict(out_dir=scratch / name, start=" ", device="cpu", dtype=dtype)
        return [
            *python("sample.py"),
            *options(model, num_samples=samples, max_new_tokens=characters),
        ]

    def theirs(name: str, samples: int, characters: int) -> list[str]:
        model = dict(out_dir=scratch / f"nano-{name}", start=" ", device="cpu")
        return [
            sys.executable,
            "sample.py",
            *options(model, num_samples=samples, max_new_tokens=characters),
        ]

    def rate(
        command: Callable[..., list[str]], *words: object, samples: int, cwd: str = ""
    ) -> float:
        first, last = (seconds(command(*words[:1], samples, n, *words[1:]), cwd) for n in (1, 500))
        return samples * 499 / (last - first)

    command = ours("small", 10, 500, "auto")
    nanogpt = (
        partial(seconds, theirs("small", 10, 500), settings.nanogpt) if settings.nanogpt else None
    )
    measured = alternate({"kqv": partial(seconds, command), "nanoGPT": nanogpt}, settings.rounds)
    rows = [
        Row(
            "ten texts of 500 characters, 4 × 128, whole process",
            "s",
            False,
            shown_command(command),
            measured,
        )
    ]

    def peer(name: str) -> float:
        if name == "nanoGPT":
            return rate(theirs, "large", samples=1, cwd=settings.nanogpt)
        return float(library(name, large).output.splitlines()[-1])

    here = {
        "nanoGPT": bool(settings.nanogpt),
        "transformers-sample": not missing("transformers"),
        "llama.cpp": not missing("xllamacpp", "gguf"),
    }
    variants = [
        *(("large", samples, dtype) for samples in (1, 10) for dtype in ("float32", "auto", "int8")),
        ("qwen3", 1, "float32"), ("qwen3", 1, "auto"), ("qwen3", 1, "int8"),
    ]  # fmt: skip
    sides: dict[Any, Any] = {
        (name, n, dtype): partial(rate, ours, name, dtype, samples=n) for name, n, dtype in variants
    }
    measured = alternate(
        {**sides, **{name: partial(peer, name) if here[name] else None for name in here}},
        settings.rounds,
    )
    for name, samples, dtype in variants:
        like, rivals = (
            ("GPT-2", ["nanoGPT", "transformers-sample"])
            if name == "large"
            else ("Qwen3", ["llama.cpp"])
        )
        what = f"{samples} text{'s' if samples > 1 else ''} at once, {like} 6 × 384, --dtype={dtype} (peers: one text)"
        speeds = {"kqv": measured[name, samples, dtype]} | {
            rival: measured[rival] for rival in rivals if rival in measured
        }
        rows.append(
            Row(what, "characters/s", True, shown_command(ours(name, samples, 500, dtype)), speeds)
        )

    for context in (16, 64, 256, 1024):
        times = [1e3 * seconds_a_character(context) for _ in range(settings.rounds)]
        rows.append(
            Row(
                f"one character at context {context}, 4 × 128",
                "ms",
                False,
                "bench.py sample",
                {"kqv": times},
            )
        )
    return rows


def bench_prepare(settings: BenchSettings, scratch: Path) -> list[Row]:
    """Text to train.bin and val.bin, whole process: seconds and peak memory."""
    from kqv.machine.load import core_count
    from kqv.text.datasets import open_dataset

    sample = (open_dataset("shakespeare_char").folder / "input.txt").read_bytes()
    folder = scratch / "nano"
    folder.mkdir()
    with (folder / "input.txt").open("wb") as file:
        for _ in range(max(1, round(settings.gigabytes * 1e9 / len(sample)))):
            file.write(sample)
    code = "import sys; from pathlib import Path; from kqv.text.datasets import prepare_dataset; "
    code += "prepare_dataset([Path(sys.argv[1])], Path(sys.argv[2]))"
    ours = [sys.executable, "-c", code, str(folder / "input.txt"), str(scratch / "kqv")]

    def kqv() -> tuple[float, float]:
        shutil.rmtree(scratch / "kqv", ignore_errors=True)
        finished = process(ours, cwd=str(ROOT))
        return finished.seconds, finished.megabytes

    def nanogpt() -> tuple[float, float]:
        for made in folder.glob("*.bin"):
            made.unlink()
        finished = process([sys.executable, str(folder / "prepare.py")])
        return finished.seconds, finished.megabytes

    if settings.nanogpt:
        shutil.copy(Path(settings.nanogpt) / "data/shakespeare_char/prepare.py", folder)
    measured = alternate(
        {"kqv": kqv, "nanoGPT": nanogpt if settings.nanogpt else None}, settings.rounds
    )

    # Byte pairs take a core ten times as long as characters, so a tenth of the text will do.
    tenth = scratch / "tenth.txt"
    tenth.write_bytes(sample * max(1, round(settings.gigabytes * 1e8 / len(sample))))
    code = "import sys; from pathlib import Path; from kqv.text import tokenizing; from kqv.text.datasets import prepare_dataset; "
    code += "tokenizing.core_count = lambda: int(sys.argv[3]); "
    code += "prepare_dataset([Path(sys.argv[1])], Path(sys.argv[2]), tokenizer='bpe:1024')"

    def pairs(threads: int) -> tuple[float, float]:
        shutil.rmtree(scratch / "pairs", ignore_errors=True)
        finished = process(
            [sys.executable, "-c", code, str(tenth), str(scratch / "pairs"), str(threads)],
            cwd=str(ROOT),
        )
        return finished.seconds, finished.megabytes

    threads: dict[Any, Any] = {
        "one thread": partial(pairs, 1),
        f"{core_count()} threads": partial(pairs, core_count()),
    }
    in_pairs = alternate(threads, settings.rounds) if importlib.util.find_spec("rustbpe") else {}
    base = process([sys.executable, "-c", "import numpy"]).megabytes
    what = f"preparing {settings.gigabytes:g} GB of text"
    return [
        Row(what, "s", False, "bench.py prepare", {side: [s for s, _ in m] for side, m in measured.items()}),
        Row(f"  peak memory (an interpreter with numpy: {base:.0f})", "MB", False, "bench.py prepare",
            {side: [mb for _, mb in m] for side, m in measured.items()}),
        *(Row(f"{what.replace('preparing', 'a tenth of')} in byte pairs, {side}, learning included", unit, False,
              "bench.py prepare", {"kqv": [measure[i] for measure in m]})
          for i, unit in enumerate(("s", "MB")) for side, m in in_pairs.items()),
    ]  # fmt: skip


def bench_attention(settings: BenchSettings, scratch: Path) -> list[Row]:
    """Training as the block grows, always 4,096 characters a step: softmax over all pairs of them, linear attention."""
    text, rows = some_text(scratch), []
    for block_size in (64, 128, 256, 512, 1024, 2048):
        run = dict(
            block_size=block_size,
            batch_size=4096 // block_size,
            max_iters=15,
            log_interval=1,
            eval_interval=10**6,
        )
        shown = [
            *python("train.py"),
            text,
            *options(run, eval_iters=1, device="cpu", sample_chars=0),
        ]

        def speed(score: str, command: list[str] = shown) -> float:
            process([*command, *options(attention_score=score, out_dir=scratch / "kqv")])
            return median_speed(scratch / "kqv")

        measured = alternate(
            {"kqv": partial(speed, "dot"), "linear attention": partial(speed, "linear")},
            settings.rounds,
        )
        rows.append(
            Row(f"training, block {block_size}", "tokens/s", True, shown_command(shown), measured)
        )
    return rows


def bench_start(settings: BenchSettings, scratch: Path) -> list[Row]:
    """Seconds from the shell to the end of `import torch`, to the first trained step, to the first sampled character."""
    train = [
        *python("train.py"),
        some_text(scratch),
        *options(max_iters=2, log_interval=1, out_dir=scratch / "kqv"),
    ]
    process(train)
    sample = [*python("sample.py"), *options(out_dir=scratch / "kqv", start="A")]

    def first_step() -> float:
        process(train)
        return next(
            line["wall_seconds"] for line in read_metrics(scratch / "kqv") if line["step"] == 1
        )

    def first_character() -> float:
        began = time.perf_counter()
        with subprocess.Popen(sample, stdout=subprocess.PIPE, cwd=ROOT) as child:
            assert child.stdout
            child.stdout.read(2)  # the prompt and what comes next
            taken = time.perf_counter() - began
            child.kill()
        return taken

    sides: dict[str, Callable[[], float] | None] = {
        "import torch": partial(seconds, [sys.executable, "-c", "import torch"]),
        "first step": first_step,
        "first character": first_character,
    }
    sides |= {
        f"{name} --help": partial(seconds, [*python(name), "--help"])
        for name in ("train.py", "sample.py")
    }
    measured = alternate(sides, settings.rounds)
    return [
        Row(what, "s", False, "bench.py start", {"kqv": times}) for what, times in measured.items()
    ]


def bench_scale(settings: BenchSettings, scratch: Path) -> list[Row]:
    """The same training, each process on one thread: tokens/s of two beside one, and the bytes that each sends a step, counted
    on the loopback device, beside what the arithmetic of kqv/training/communication.py says."""
    from kqv.training.communication import Sizes, sent_bytes
    from model import GPT, GPTConfig

    rows = []
    text = some_text(scratch)
    shapes = [dict(n_layer=3, n_head=4, n_embd=128, batch_size=32, block_size=64)]
    shapes += [dict(n_layer=6, n_head=6, n_embd=384, batch_size=16, block_size=256)]
    for shape, steps in zip(shapes, (100, 10), strict=True):
        run = dict(
            shape,
            log_interval=1,
            eval_interval=10**6,
            eval_iters=1,
            sample_chars=0,
            device="cpu",
            dtype="float32",
        )
        run["out_dir"] = scratch / "run"

        def speed(
            processes: int, threads: int, run: dict = run, steps: int = steps, **more: Any
        ) -> float:
            process(
                [*python("train.py", processes), text, *options(run | more, max_iters=steps)],
                threads=threads,
            )
            return median_speed(scratch / "run")

        def sent(run: dict = run, steps: int = steps, **more: Any) -> float:
            counted = []
            for iters in (steps, 2 * steps):  # what is sent before and after the steps is the same
                before = loopback_bytes()
                process(
                    [*python("train.py", 2), text, *options(run | more, max_iters=iters)], threads=1
                )
                counted.append(loopback_bytes() - before)
            return (counted[1] - counted[0]) / steps / 2 / 1e6

        what = "training, {n_layer} × {n_embd}, {batch_size} × {block_size} a step".format(**shape)
        sides: dict[str, Callable[[], float] | None] = {
            "kqv": partial(speed, 2, 1), "one process": partial(speed, 1, 1), "one process, 2 threads": partial(speed, 1, 2),
            "sharded": partial(speed, 2, 1, fsdp=True),
        }  # fmt: skip
        command = shown_command([*python("train.py", 2), text, *options(run, max_iters=steps)])
        rows.append(Row(what, "tokens/s", True, command, alternate(sides, settings.rounds)))
        config: dict[str, Any] = {
            name: shape[name] for name in ("n_layer", "n_head", "n_embd", "block_size")
        }
        sizes = Sizes.of(GPT(GPTConfig(vocab_size=65, **config)))
        for name, fsdp in (("", False), (", sharded", True)):
            say(f"what a process sends{name}")
            counts = {
                "kqv": [sent(fsdp=fsdp)],
                "by arithmetic": [sent_bytes(sizes, 2, fsdp, muon_bytes=4, gloo=True) / 1e6],
            }
            rows.append(Row(f"  sent by a process a step{name}", "MB", False, command, counts))
    return rows


def loopback_bytes() -> int:
    """What went through the loopback device since the system started."""
    try:
        devices = Path("/proc/net/dev").read_text()
    except OSError:
        raise UserError(
            "bench.py scale counts bytes in /proc/net/dev, which this system does not have"
        ) from None
    return int(re.findall(r"^\s*lo:\s*(\d+)", devices, re.MULTILINE)[0])


def bench_safety(settings: BenchSettings, scratch: Path) -> list[Row]:
    """Seconds to save a checkpoint; memory and open files, looked at twice a second, after the first fifth of a long run."""
    if not Path("/proc/self/statm").exists():
        raise UserError(
            "bench.py safety watches processes through /proc, which this system does not have"
        )
    rows = []
    shapes: dict[str, dict[str, Any]] = {
        "the default model": {},
        "6 × 384": dict(n_layer=6, n_head=6, n_embd=384),
        "GPT-2, 12 × 768": dict(n_layer=12, n_head=12, n_embd=768, vocab_size=50257),
    }
    for name, shape in shapes.items():
        times = [seconds_to_save(scratch / "last.pt", **shape) for _ in range(settings.rounds)]
        rows.append(
            Row(f"saving a checkpoint, {name}", "s", False, "bench.py safety", {"kqv": times})
        )
        share = [100 * seconds / 600 for seconds in times]
        rows.append(Row("  every ten minutes, of the run", "%", False, "", {"kqv": share}))

    tiny = dict(
        n_layer=1,
        n_head=2,
        n_embd=16,
        block_size=16,
        batch_size=8,
        sample_chars=20,
        out_dir=scratch / "long",
    )
    train = [*python("train.py"), some_text(scratch), *options(tiny, max_iters=settings.long_iters)]
    texts = settings.long_iters // 20
    sample = [
        *python("sample.py"),
        *options(out_dir=scratch / "long", interactive=True, max_new_tokens=100),
    ]
    for what, command, typed in (
        (f"a run of {settings.long_iters:,} steps", train, b""),
        (f"{texts:,} texts of one process", sample, b"A\n" * texts),
    ):
        say(what)
        memory, files = watch(command, typed)
        rows.append(Row(f"memory, {what}", "MB", False, "bench.py safety", {"kqv": memory}))
        rows.append(Row("  its open files", "", False, "", {"kqv": files}))
    return rows


def seconds_to_save(path: Path, vocab_size: int = 65, **shape: Any) -> float:
    """The time to write the checkpoint of a model and its optimizers, in this process."""
    import torch

    from kqv.checkpoints.single import save_checkpoint
    from kqv.options.settings import TrainSettings
    from kqv.training.optimizers import make_optimizers
    from model import GPT, GPTConfig

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


def median_speed(folder: Path) -> float:
    """Tokens/s of the median step of a run that reports each, the first ones left out."""
    return median(
        [line["tokens_per_second"] for line in read_metrics(folder) if "tokens_per_second" in line][
            3:
        ]
    )


def some_text(scratch: Path) -> str:
    """The path of a text of 65 characters, as many as tiny Shakespeare has."""
    path = scratch / "text.txt"
    path.write_text("".join(map(chr, range(32, 97))) * 1000)
    return str(path)


def seconds_a_character(context: int) -> float:
    """The median time of one more character after `context` of them, in this process."""
    import torch

    from kqv.generation.decoder import Decoder
    from model import GPT, GPTConfig

    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=65, block_size=2048, n_layer=4)).eval()
    with torch.inference_mode():
        decoder, ids = Decoder(model), torch.randint(65, (1, context))
        decoder.next_logits(ids)
        times = []
        for _ in range(50):
            began = time.perf_counter()
            decoder.next_logits(ids)
            times.append(time.perf_counter() - began)
    return median(times)


BENCHES = {
    "train": bench_train,
    "time-to-loss": bench_time_to_loss,
    "likeness": bench_likeness,
    "sample": bench_sample,
    "prepare": bench_prepare,
    "attention": bench_attention,
    "start": bench_start,
    "scale": bench_scale,
    "safety": bench_safety,
}


# --- commands ------------------------------------------------------------------------------------------------------


def seconds(command: list[str], cwd: str = "") -> float:
    """Wall seconds of a whole process."""
    return process(command, cwd).seconds


def python(script: str, processes: int = 1) -> list[str]:
    """The command of one of our scripts."""
    return [sys.executable, *torchrun(processes), str(ROOT / script)]


def options(settings: dict | None = None, **more: object) -> list[str]:
    """--name=value, as all scripts here and nanoGPT's take them."""
    return [f"--{name}={value}" for name, value in {**(settings or {}), **more}.items()]


def library(peer: str, shape: dict[str, Any]) -> Finished:
    """The process of a peer that is a library; the last line of its output is what was measured."""
    return process([sys.executable, "-m", "benchmarks.peers", peer, json.dumps(shape)])


if __name__ == "__main__":
    run_script(main)
