"""Trains the runs of a comparison one after the other, each in a process of train.py.

One after the other, so that their times can be compared. A run that is finished is taken as it is,
one that was stopped is resumed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kqv.checkpoints.loading import load_model
from kqv.comparison.runs import FACTS, Configuration, Run
from kqv.errors import UserError
from kqv.files import replacing
from kqv.generation.filling import fill_text
from kqv.generation.prompts import default_prompt
from kqv.generation.sampling import generate_text
from kqv.generation.translating import Translator
from kqv.machine.device import choose_machine
from kqv.machine.load import processor
from kqv.options.defaults import training_settings
from kqv.options.settings import SampleSettings
from kqv.progress import Bar
from kqv.project import DATA, ROOT
from kqv.run_files import TO_RESUME
from kqv.text.dataset_folders import load_pairs
from kqv.text.pair_batches import spaced_numbers
from kqv.text.tokenizer import Tokenizer
from kqv.training.metrics import read_metrics
from model import GPT

LOG = "log.txt"  # stderr of train.py, in the folder of a run
SAMPLE_TOKENS, SAMPLE_PAIRS = 150, 5  # in the report
POLL_SECONDS = 0.2


class ComparisonBar(Bar):
    """Progress over the steps of all runs."""

    def __init__(self, steps: int, done: int) -> None:
        super().__init__(steps, done, "steps of all runs:")
        self.done = done  # steps of the runs before this one

    def begin(self, what: str, steps: int, number: str) -> None:
        """Start the next run, of so many steps; `number` is "1 of 3"."""
        self.what, self.steps = f"run {number} ({what})", steps
        self.move(self.done, self.what)
        if not self.terminal:
            self.say(f"run {number}: {what}, {steps:,} steps")

    def show(self, line: dict[str, Any]) -> None:
        """Show a line of the run's metrics."""
        where = f"{self.what}, step {line['step']:,} of {self.steps:,}"
        loss = f": loss {line['train_loss']:.3f}" if "train_loss" in line else ""
        self.move(self.done + line["step"], where + loss)
        if not self.terminal and "val_loss" in line:
            self.say(f"{where}: validation loss {line['val_loss']:.4f} (estimate)")

    def end(self) -> None:
        """The run has ended, finished or not."""
        self.done += self.steps


def train_all(configurations: Sequence[Configuration], stop: Sequence[int]) -> list[str]:
    """Train the runs that are not finished, until all are or a signal is in `stop`.

    Returns a line for each run that failed.
    """
    # Configurations with equal settings share a run, which is trained once.
    runs: dict[Path, tuple[str, Run]] = {}
    for each in configurations:
        for run in each.runs:
            runs.setdefault(run.folder, (f"{each.name}, seed {run.settings.seed}", run))
    unfinished = [(what, run) for what, run in runs.values() if not run.facts]
    total = sum(run.settings.max_iters for _, run in runs.values())
    remaining = sum(run.settings.max_iters for _, run in unfinished)
    bar, failures = ComparisonBar(total, total - remaining), []
    for number, (what, run) in enumerate(unfinished, start=1):
        bar.begin(what, run.settings.max_iters, f"{number} of {len(unfinished)}")
        failure = train(run, stop, bar.show)
        if stop:
            break
        bar.end()
        if failure:
            failures.append(f"{what}: {failure}")
            bar.say(f"failed: {failures[-1]}")
    bar.close()
    return failures


def train(run: Run, stop: Sequence[int], show: Callable[[dict[str, Any]], None]) -> str:
    """Train a run to its end, or resume it, and write down its facts.

    `show` is called with each new line of its metrics; each signal in `stop` is passed on to it.
    Returns why it failed, or "".
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    resumed = any((run.folder / name).exists() for name in TO_RESUME)
    seen = max((line["step"] for line in read_metrics(run.folder)), default=-1) if resumed else -1
    words = ["--init_from=resume"] if resumed else [str(_write_config(run))]
    command = [sys.executable, str(ROOT / "train.py"), *words, f"--out_dir={run.folder}"]
    with (run.folder / LOG).open("wb") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            # In a session of its own: Ctrl-C in a terminal reaches the whole process group, and
            # train.py would take the signal that is passed on for a second one, "end now".
            start_new_session=True,
        )
    try:
        _watch(child, run, seen, stop, show)
    finally:  # whatever happens here, no process trains on unseen
        if child.poll() is None:
            child.terminate()
    if child.returncode == 0:
        write_facts(run)
        return ""
    return _why_it_failed(child.returncode, run.folder / LOG)


def _write_config(run: Run) -> Path:
    """Write the settings of a run as a config file of its own, because the configuration may be
    edited while others are trained. Returns its path."""
    options = {name: value for name, value in asdict(run.settings).items() if name != "out_dir"}
    like = {"like": options["like"]}  # always written, or the file could be taken for nanoGPT's
    defaults = vars(training_settings(like))
    changed = {name: value for name, value in options.items() if value != defaults[name]}
    path = run.folder / "config.py"
    with replacing(path) as file:
        file.writelines(
            f"{name} = {value!r}\n".encode() for name, value in (changed | like).items()
        )
    return path


def _watch(
    child: subprocess.Popen,
    run: Run,
    seen: int,
    stop: Sequence[int],
    show: Callable[[dict[str, Any]], None],
) -> None:
    """Wait for train.py to end: show its metrics beyond step `seen`, pass signals on."""
    passed_on = 0
    running = True
    while running:
        running = child.poll() is None  # asked before reading, so that the last line is shown too
        for line in read_metrics(run.folder):
            if line["step"] > seen:
                seen = line["step"]
                show(line)
        if running:
            if os.name == "posix":  # elsewhere the child receives the signals of its terminal
                for number in stop[passed_on:]:
                    child.send_signal(number)
                passed_on = len(stop)
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=POLL_SECONDS)


def _why_it_failed(status: int, log: Path) -> str:
    """The last line that train.py wrote to stderr, or its exit status."""
    if status < 0:
        return f"ended by signal {-status}"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("train.py: ") if lines else f"train.py ended with status {status}"


def write_facts(run: Run) -> None:
    """Write down what the report needs of a trained model; this also marks the run as finished."""
    model, tokenizer, *_ = load_model(str(run.folder))
    try:
        sample = sample_of(model.eval(), tokenizer, run.settings.dataset)
    except UserError as error:  # its numbers are not finite
        sample = f"({error})"
    facts = {
        "parameters": model.parameter_count(),
        "sample": sample,
        "machine": f"{processor()}, {os.cpu_count()} cores; {choose_machine(run.settings)}",
        "torch": torch.__version__,
    }
    with replacing(run.folder / FACTS) as file:
        file.write(json.dumps(facts).encode())


def sample_of(model: GPT, tokenizer: Tokenizer, dataset: str) -> str:
    """What a trained model writes: a text, or translations of a few validation pairs of the
    dataset."""
    sampling = SampleSettings(max_new_tokens=SAMPLE_TOKENS)
    if model.config.has_cross_attention:
        return translations(model, tokenizer, dataset)
    if model.config.architecture == "encoder":
        return fill_text(model, tokenizer, "", sampling)
    return generate_text(model, tokenizer, default_prompt(tokenizer), sampling)


def translations(model: GPT, tokenizer: Tokenizer, dataset: str) -> str:
    """A few sources of a dataset's validation split and their likeliest targets, a pair a line."""
    pairs = load_pairs(DATA / dataset)
    split = pairs.open_split("val", model.config.block_size)
    sources = [split.pair(int(number))[0] for number in spaced_numbers(split, SAMPLE_PAIRS)]
    translator = Translator(model, tokenizer, SampleSettings(temperature=0.0), torch.float32)
    return translator.show(pairs.source_tokenizer, sources)
