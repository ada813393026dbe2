"""Train several configurations side by side, on the same batches, and draw the difference.

    python compare.py config/experiments/scale_dk8_*.py             one question
    python compare.py config/experiments/*.py --seeds=3             all questions, three times each
    python compare.py mine.py other.py novel.txt --max_iters=200    configs and a text of your own; options are for all
    python compare.py mine.py other.py --text=program.py            the same with a text that ends in .py

Each configuration is trained with each seed by a process of train.py, one after the other, so that their times can be
compared. A run has a folder named after what is trained, out_dir/runs/DIGEST: one that is finished is taken as it is,
one that was stopped goes on. At the end out_dir/report.html and report.md show them side by side.
"""

import signal

if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # Ctrl-C during imports ends the process, without a traceback

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kqv.browser import show
from kqv.comparison.report import write_report
from kqv.comparison.runs import FACTS, Configuration, Run, docstring, loss_table
from kqv.errors import MachineError, UserError, run_script
from kqv.files import replacing
from kqv.machine.load import processor
from kqv.options.command_line import read_arguments, split_configs
from kqv.options.defaults import take_nanogpt_defaults, training_settings
from kqv.options.settings import (
    CompareSettings,
    SampleSettings,
    TrainSettings,
    check_comparing,
    check_endings,
    check_training,
)
from kqv.progress import Bar
from kqv.project import ROOT, shell_command
from kqv.run_files import TO_RESUME
from kqv.signals import end_by_exception, stop_signals
from kqv.training.metrics import read_metrics
from kqv.training.run_folder import occupy

LOG = "log.txt"  # what train.py said, in the folder of a run
SAMPLE_CHARS = 150
ANSWER = "stopping after this step of this run; Ctrl-C again ends it now"  # to the first Ctrl-C

OWN = ("out_dir", "seed", "seeds", "open")  # options that are not laid over the configurations
# Settings that make no difference to what is trained.
ASIDE = (
    "out_dir", "encoding", "endings", "init_from", "eval_only", "checkpoint_minutes", "on_write_error", "sample_chars",
    "inner_figures", "tensorboard", "wandb_log", "wandb_project", "wandb_run_name", "dry_run", "rate", "activation_checkpointing",
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Check all, train all, report. Returns the exit status."""
    paths, others = split_configs(CompareSettings, arguments)
    paths = list(dict.fromkeys(paths))
    given, words = read_arguments(CompareSettings, others, "CONFIG.py ... [TEXT ...]")
    settings = CompareSettings(**given)
    check_comparing(settings)
    check_endings(settings.endings, words)
    if not paths:
        raise UserError(
            "name the configurations to compare, for example config/experiments/scale_dk8_*.py"
        )
    over = {name: value for name, value in given.items() if name not in OWN}
    # All are read before the first run: a mistake in the last one costs nothing.
    configurations = [read_configuration(path, over) for path in paths]
    names = [each.name for each in configurations]
    for each, path in zip(configurations, paths, strict=True):
        if names.count(each.name) > 1:  # in two folders
            each.name = path

    # The texts, prepared once for each tokenizer.
    from kqv.text.datasets import Dataset, open_dataset, open_texts

    end_by_exception()
    prepared: dict[tuple[str, ...], Dataset] = {}
    for each in configurations:
        tokenizer = str(each.changes.get("tokenizer", over.get("tokenizer", "")))
        texts = words or each.texts
        key = (tokenizer, "" if texts else each.settings.dataset, *texts)
        if key not in prepared:
            how = (settings.encoding, tokenizer or "char", settings.text_field, settings.endings)
            prepared[key] = (
                open_texts(texts, *how) if texts else open_dataset(each.settings.dataset, tokenizer)
            )
        each.settings = replace(each.settings, dataset=prepared[key].name, endings="")
        each.text = prepared[key].title

    out_dir = Path(settings.out_dir)
    lock = ExitStack()
    lock.enter_context(occupy(out_dir))
    for each in configurations:
        each.runs = [
            run_of(each.settings, settings.seed + number, out_dir)
            for number in range(settings.seeds)
        ]
    with stop_signals(ANSWER, second_after=None) as stop:
        failures = train_all(configurations, stop)
    if stop:
        texts = (
            words if "-" not in words else []
        )  # standard input is gone, but not what was made of it
        again = {"dataset": next(iter(prepared.values())).name} if "-" in words else {}
        texts = [f"--text={text}" if text.endswith(".py") else text for text in texts]
        options = [f"--{name}={value}" for name, value in {**given, **again}.items()]
        print("stopped; what is done is kept; to go on:")
        print(f"  {shell_command('compare.py', *paths, *texts, *options)}")
        return 128 + stop[0]
    laid_over = " ".join(f"--{name}={value}" for name, value in over.items())
    page, report = write_report(configurations, out_dir, laid_over)
    print(page, report, loss_table(configurations), sep="\n")
    show(page, settings.open)
    lock.close()
    if failures:
        raise MachineError(
            failures[0] + (f" (and {len(failures) - 1} more failed)" if failures[1:] else "")
        )
    return 0


def read_configuration(path: str, over: dict[str, Any]) -> Configuration:
    """A configuration with the options of the command laid over it, its runs still to be named.

    Raises UserError naming it if no run can have such settings.
    """
    own, texts = read_arguments(TrainSettings, [path], instead="to train on it write --text={}")
    together = {**own, **over}
    if remark := take_nanogpt_defaults([path], together):
        print(remark, file=sys.stderr)
    settings = training_settings(together)
    try:
        check_training(settings)
        if settings.init_from != "scratch" or settings.eval_only or settings.dry_run:
            raise UserError(
                "what is compared is trained from scratch: leave init_from, eval_only and dry_run out"
            )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    # What the file says, and `like` where its signs say that it is nanoGPT's.
    its_own = [name for name in together if name in own or name not in over]
    changes = {name: getattr(settings, name) for name in its_own if name not in (*OWN, *ASIDE)}
    return Configuration(Path(path).stem, docstring(Path(path)), changes, settings, texts=texts)


def run_of(settings: TrainSettings, seed: int, out_dir: Path) -> Run:
    """The run of a configuration with a seed. Its folder is named after all that decides what is trained."""
    settings = replace(settings, seed=seed, sample_chars=0, inner_figures=True)
    identity = {name: value for name, value in asdict(settings).items() if name not in ASIDE}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return Run(replace(settings, out_dir=str(out_dir / "runs" / digest)))


class Progress(Bar):
    """How far all runs are, and the one that is being made."""

    def __init__(self, steps: int, done: int) -> None:
        super().__init__(steps, done, "steps of all runs:")
        self.before = done

    def begin(self, what: str, steps: int, number: str) -> None:
        """The next run, of so many steps; `number` is "1 of 3"."""
        self.what, self.steps = f"run {number} ({what})", steps
        self.move(self.before, self.what)
        if not self.terminal:
            self.say(f"run {number}: {what}, {steps:,} steps")

    def show(self, line: dict[str, Any]) -> None:
        """A line of its metrics."""
        where = f"{self.what}, step {line['step']:,} of {self.steps:,}"
        loss = f": loss {line['train_loss']:.3f}" if "train_loss" in line else ""
        self.move(self.before + line["step"], where + loss)
        if not self.terminal and "val_loss" in line:
            self.say(f"{where}: validation loss {line['val_loss']:.4f} (estimate)")

    def end(self) -> None:
        """The run is over, finished or not."""
        self.before += self.steps


def train_all(configurations: Sequence[Configuration], stop: Sequence[int]) -> list[str]:
    """Train what is not finished, until all is or a signal is in `stop`. Returns a line for each run that failed."""
    # Two configurations may be the same: their runs have the same folder, and are made once.
    runs: dict[Path, tuple[str, Run]] = {}
    for each in configurations:
        for run in each.runs:
            runs.setdefault(run.folder, (f"{each.name}, seed {run.settings.seed}", run))
    to_do = [(what, run) for what, run in runs.values() if not run.facts]
    steps, left = (
        sum(run.settings.max_iters for _, run in which) for which in (runs.values(), to_do)
    )
    progress, failures = Progress(steps, steps - left), []
    for number, (what, run) in enumerate(to_do, start=1):
        progress.begin(what, run.settings.max_iters, f"{number} of {len(to_do)}")
        failure = train(run, stop, progress.show)
        if stop:
            break
        progress.end()
        if failure:
            failures.append(f"{what}: {failure}")
            progress.say(f"failed: {failures[-1]}")
    progress.close()
    return failures


def train(run: Run, stop: Sequence[int], show: Callable[[dict[str, Any]], None]) -> str:
    """Train a run to its end, from where it was; each new line of its metrics is shown, each signal in `stop` handed on.
    Returns why it did not get there, or nothing."""
    run.folder.mkdir(parents=True, exist_ok=True)
    shown = -1
    if any((run.folder / name).exists() for name in TO_RESUME):
        words = ["--init_from=resume"]
        shown = max((line["step"] for line in read_metrics(run.folder)), default=-1)
    else:
        # A file of its own, for the configuration may be edited while others are trained.
        words = [str(run.folder / "config.py")]
        options = {name: value for name, value in asdict(run.settings).items() if name != "out_dir"}
        like = {"like": options["like"]}  # always written: the file could be taken for nanoGPT's
        defaults = vars(training_settings(like))
        changed = {name: value for name, value in options.items() if value != defaults[name]}
        changed |= like
        with replacing(run.folder / "config.py") as file:
            file.writelines(f"{name} = {value!r}\n".encode() for name, value in changed.items())
    command = [sys.executable, str(ROOT / "train.py"), *words, f"--out_dir={run.folder}"]
    with (run.folder / LOG).open("wb") as log:
        # In a session of its own: Ctrl-C in a terminal reaches a whole group, and train.py takes a second one as "at once".
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    handed_on = 0
    try:
        while True:
            running = (
                child.poll() is None
            )  # asked before the metrics are read, so that the last line is shown too
            for line in read_metrics(run.folder):
                if line["step"] > shown:
                    shown = line["step"]
                    show(line)
            if not running:
                break
            if os.name == "posix":  # elsewhere a child has the signals of its terminal
                for number in stop[handed_on:]:
                    child.send_signal(number)
                handed_on = len(stop)
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=0.2)
    finally:  # whatever happens here, nothing trains on unseen
        if child.poll() is None:
            child.terminate()
    if child.returncode == 0:
        write_facts(run)
        return ""
    if child.returncode < 0:
        return f"ended by signal {-child.returncode}"
    lines = [
        line for line in (run.folder / LOG).read_text(errors="replace").splitlines() if line.strip()
    ]
    return (
        lines[-1].removeprefix("train.py: ")
        if lines
        else f"train.py ended with status {child.returncode}"
    )


def write_facts(run: Run) -> None:
    """Write down what the report needs of a trained model."""
    import torch

    from kqv.checkpoints.loading import load_model
    from kqv.generation.prompts import default_prompt
    from kqv.generation.sampling import generate_text
    from kqv.machine.device import choose_machine

    model, tokenizer, *_ = load_model(str(run.folder))
    try:
        sampling = SampleSettings(max_new_tokens=SAMPLE_CHARS)
        sample = generate_text(model.eval(), tokenizer, default_prompt(tokenizer), sampling)
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


if __name__ == "__main__":
    run_script(main)
