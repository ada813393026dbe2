"""The scripts as a user runs them: processes in a copy of the project, watched from outside."""

import itertools
import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kqv.checkpoints.loading import load_checkpoint
from kqv.project import ROOT as PROJECT
from kqv.text.registry import load_tokenizer

PATIENCE = 600  # seconds; a process that takes longer hangs
NOWHERE = "http://127.0.0.1:9"  # nothing listens there

# What makes a run small. A config file like any other: `run("train.py", text, TINY)`.
TINY = "tiny.py"
TINY_SETTINGS = """\
n_layer, n_head, n_embd = 1, 2, 16
block_size = 16
batch_size = 8
max_iters = 20
sample_chars = 0
"""

WORDS = (["red", "old", "big", "shy"], ["cat", "hen", "fox", "dog"], ["mat", "box", "log"])
SENTENCES = [
    f"The {adjective} {animal} sits on the {thing}.\n"
    for adjective, animal, thing in itertools.product(*WORDS)
]


def easy_text(sentences: int = 150) -> str:
    """A text that a tiny model learns within seconds."""
    return "".join(random.Random(1).choices(SENTENCES, k=sentences))


@dataclass
class Done:
    """How a process ended and what it said."""

    status: int
    stdout: str
    stderr: str


@dataclass
class Shell:
    """A shell in the folder of a project."""

    folder: Path

    def run(
        self,
        script: str,
        *words: object,
        input: str | bytes = b"",
        cwd: Path | None = None,
        python: tuple[str, ...] = (),
        largest_file: int | None = None,
    ) -> Done:
        """`python script words...` until it ends. `largest_file` in bytes is what a full disk is to it."""
        data = input.encode() if isinstance(input, str) else input
        limit = largest_file and (
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        )
        return _done(
            self._command(script, words, python),
            cwd=cwd or self.folder,
            input=data,
            preexec_fn=limit,
        )

    def run_at_terminal(self, script: str, *words: object, **variables: str) -> Done:
        """The same at a terminal, which shows stdout and stderr alike, with more environment variables."""
        ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, (40, 160))
        environment = {
            name: value
            for name, value in _environment().items()
            if name not in ("CI", "SSH_CONNECTION", "SSH_TTY")
        }
        command = self._command(script, words)
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment | variables,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        ) as process:
            watchdog = threading.Timer(PATIENCE, _end, [process])
            watchdog.start()
            os.close(theirs)
            shown = b""
            with suppress(OSError):  # Linux's way to say that the other end is closed
                while some := os.read(ours, 4096):
                    shown += some
            os.close(ours)
            status = process.wait()
            watchdog.cancel()
        return Done(status, shown.decode().replace("\r\n", "\n"), "")

    def run_printed(self, done: Done, start: str, *words: str) -> Done:
        """Paste the command that stands in a line of stdout after `start`, add `words`, and press Enter."""
        line = next(
            line for line in done.stdout.splitlines() if line.startswith(start)
        ).removeprefix(start)
        return _done(f"{line} {shlex.join(words)}", cwd=self.folder, shell=True)

    @contextmanager
    def start(
        self,
        script: str,
        *words: object,
        stdin: int = subprocess.DEVNULL,
        stderr: int = subprocess.PIPE,
        python: tuple[str, ...] = (),
    ) -> Iterator[subprocess.Popen[bytes]]:
        """The same process while it runs. It is killed when the block ends, and what it has started too.

        Its pipes are short, so it waits for its reader and cannot run far ahead: that makes a test of
        "in the middle of a run" independent of the machine's speed.
        """
        with subprocess.Popen(
            self._command(script, words, python),
            cwd=self.folder,
            env=_environment(),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            bufsize=0,
            pipesize=4096,
        ) as process:
            watchdog = threading.Timer(PATIENCE, _end, [process])
            watchdog.start()
            try:
                yield process
            finally:
                watchdog.cancel()
                _end(process)

    def signal_at(
        self, line: str, number: int, *words: object, pause: float = 0, script: str = "train.py"
    ) -> Done:
        """Run a script, send it a signal when it has printed a line that begins with `line`, wait for its end.

        After a `pause` of a second the run stands still at a full pipe: the signal comes while it reports.
        """
        with self.start(script, *words) as process:
            said = b""
            while not (latest := process.stderr.readline()).startswith(line.encode()):
                said += latest
                assert latest, f"the run ended before {line!r}:\n{said.decode()}"
            time.sleep(pause)
            process.send_signal(number)
            stdout, stderr = process.communicate()
            return Done(process.returncode, stdout.decode(), (said + latest + stderr).decode())

    def _command(
        self, script: str, words: tuple[object, ...], python: tuple[str, ...] = ()
    ) -> list[str]:
        return [sys.executable, *python, str(self.folder / script), *map(str, words)]


def torchrun(processes: int, *options: str) -> tuple[str, ...]:
    """What to hand to `python` for torchrun to start so many processes."""
    return (
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
        *options,
    )


def copy_project(folder: Path) -> Shell:
    """A shell in a copy of all that the scripts need, with no data prepared yet."""
    folder.mkdir()
    for script in PROJECT.glob("*.py"):
        shutil.copy(script, folder)
    for name in ("kqv", "config", "benchmarks"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*PROJECT.glob("data/*/prepare.py"), *PROJECT.glob("data/*/differences.json")]:
        (folder / path.relative_to(PROJECT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.relative_to(PROJECT))
    (folder / TINY).write_text(TINY_SETTINGS)
    return Shell(folder)


def prepared_text(folder: Path) -> str:
    """What the ids in a prepared folder stand for."""
    tokenizer = load_tokenizer(folder)
    return "".join(
        tokenizer.decode(np.fromfile(folder / name, dtype=np.uint16))
        for name in ("train.bin", "val.bin")
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def untimed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics without what a clock measured."""
    clock = ("tokens_per_second", "wall_seconds")
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def same_weights(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same model, bit for bit."""
    first, second = load_checkpoint(one)["model"], load_checkpoint(other)["model"]
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def fake_browser(folder: Path) -> tuple[dict[str, str], Path]:
    """The environment variables of a machine with a screen and a browser, and the file into which that browser writes the
    addresses that it is to show."""
    program, shown = folder / "browser.sh", folder / "shown.txt"
    program.write_text(f'#!/bin/sh\necho "$1" >> {shlex.quote(str(shown))}\n')
    program.chmod(0o755)
    return {"BROWSER": str(program), "DISPLAY": ":0"}, shown


def full_pipe() -> tuple[int, int]:
    """The reading and the writing end of a pipe without room: who writes a line to it stands still until it is read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"." * 4096)
    os.set_blocking(writer, True)
    return reader, writer


def _done(command: str | list[str], input: bytes = b"", **options: Any) -> Done:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=_environment(), stdin=pipe, stdout=pipe, stderr=pipe, **options
    ) as process:
        try:
            stdout, stderr = process.communicate(input, timeout=PATIENCE)
        finally:
            _end(process)
    return Done(process.returncode, stdout.decode(), stderr.decode())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that still runs, and all that it has started: torchrun's have a session of their own, and live on."""
    if process.poll() is None:
        below = _descendants(process.pid)
        process.kill()
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found = []
    for path in Path("/proc").glob(f"{pid}/task/*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _environment() -> dict[str, str]:
    """The user's variables, less what would change a run, and with a network that refuses at once."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    # Several threads or a GPU gain a tiny model nothing, and so the tests are the same on every machine.
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return environment | {
        "PIP_NO_INDEX": "1",
        "HTTPS_PROXY": NOWHERE,
        "https_proxy": NOWHERE,
        "NO_PROXY": "",
        "no_proxy": "",
    }
