"""Run the scripts as a user does: as processes, in a copy of the project."""

import atexit
import functools
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
import tempfile
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
from helpers import forked as forked_script

from kqv.checkpoints.loading import load_checkpoint
from kqv.project import ROOT as PROJECT
from kqv.text.registry import load_tokenizer

TIMEOUT = 600  # seconds; a process that takes longer hangs
UNREACHABLE = "http://127.0.0.1:9"  # nothing listens on this port

# A config file for a small model and a short run: `shell.run("train.py", text, TINY)`.
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
    """A text that a tiny model learns in seconds."""
    return "".join(random.Random(1).choices(SENTENCES, k=sentences))


@dataclass
class Done:
    """The exit status of a process and what it printed."""

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
        forked: bool = True,
    ) -> Done:
        """Run `python script words...` to its end.

        `python` are options of Python itself. Writing a file beyond `largest_file` bytes fails as
        on a full disk. Without these, it is a fork of a process that has imported torch and
        matplotlib, unless `forked` is False.
        """
        data = input.encode() if isinstance(input, str) else input
        limit = largest_file and (
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        )
        if forked and not python and not limit:
            python = ("-I", "-S", forked_script.__file__, fork_server())
        return _done(
            self._command(script, words, python),
            cwd=cwd or self.folder,
            input=data,
            preexec_fn=limit,
        )

    def succeed(self, script: str, *words: object, **options: Any) -> Done:
        """`run` a script that must end with status 0."""
        done = self.run(script, *words, **options)
        assert done.status == 0, done.stderr
        return done

    def run_at_terminal(self, script: str, *words: object, **variables: str) -> Done:
        """Run a script to its end at a terminal, which shows stdout and stderr as one text.
        `variables` are added to its environment."""
        master, terminal = os.openpty()
        termios.tcsetwinsize(terminal, (40, 160))
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
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        ) as process:
            watchdog = threading.Timer(TIMEOUT, _end, [process])
            watchdog.start()
            os.close(terminal)
            shown = b""
            with suppress(OSError):  # EIO: on Linux the other end is closed
                while some := os.read(master, 4096):
                    shown += some
            os.close(master)
            status = process.wait()
            watchdog.cancel()
        return Done(status, shown.decode().replace("\r\n", "\n"), "")

    def run_printed(self, done: Done, start: str, *words: str) -> Done:
        """Run the command that `done` printed in the line that begins with `start`, with more
        words."""
        lines = done.stdout.splitlines()
        command = next(line.removeprefix(start) for line in lines if line.startswith(start))
        return _done(f"{command} {shlex.join(words)}", cwd=self.folder, shell=True)

    @contextmanager
    def start(
        self,
        script: str,
        *words: object,
        stdin: int = subprocess.DEVNULL,
        stderr: int = subprocess.PIPE,
        python: tuple[str, ...] = (),
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A script while it runs. At the end of the block it is killed with all that it started.

        Its pipes are short: it blocks until they are read, and so cannot run far ahead of the test.
        That makes "in the middle of a run" independent of the machine's speed.
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
            watchdog = threading.Timer(TIMEOUT, _end, [process])
            watchdog.start()
            try:
                yield process
            finally:
                watchdog.cancel()
                _end(process)

    def signal_at(
        self, line: str, number: int, *words: object, pause: float = 0, script: str = "train.py"
    ) -> Done:
        """Run a script, send it signal `number` once it has printed a line that begins with `line`,
        and wait for its end.

        After a `pause` of a second the run blocks on a full pipe: the signal comes while it prints.
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


@functools.cache
def fork_server() -> str:
    """The address of a process that waits for helpers/forked.py. It ends with us."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    address = os.path.join(folder, "socket")
    server = subprocess.Popen(
        [sys.executable, forked_script.__file__, address],
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    atexit.register(server.communicate)  # closes its standard input
    assert server.stdout and server.stdout.readline() == b"listening\n"
    return address


def torchrun(processes: int, *options: str) -> tuple[str, ...]:
    """What to pass as `python` for torchrun to start so many processes."""
    return (
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
        *options,
    )


def copy_project(folder: Path) -> Shell:
    """A shell in a copy of the files that the scripts need, with no dataset prepared."""
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
    """Decode the ids of a prepared dataset, training split first."""
    tokenizer = load_tokenizer(folder)
    return "".join(
        tokenizer.decode(np.fromfile(folder / name, dtype=np.uint16))
        for name in ("train.bin", "val.bin")
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def untimed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics without the times and speeds, which differ from run to run."""
    clock = ("tokens_per_second", "wall_seconds")
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def same_weights(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same model, bit for bit."""
    first, second = load_checkpoint(one)["model"], load_checkpoint(other)["model"]
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def fake_browser(folder: Path) -> tuple[dict[str, str], Path]:
    """Environment variables that name a fake browser, and the file to which it appends the
    addresses that it is asked to show."""
    program, shown = folder / "browser.sh", folder / "shown.txt"
    program.write_text(f'#!/bin/sh\necho "$1" >> {shlex.quote(str(shown))}\n')
    program.chmod(0o755)
    return {"BROWSER": str(program), "DISPLAY": ":0"}, shown


def full_pipe() -> tuple[int, int]:
    """The reading and the writing end of a full pipe: writing to it blocks until it is read."""
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
            stdout, stderr = process.communicate(input, timeout=TIMEOUT)
        finally:
            _end(process)
    return Done(process.returncode, stdout.decode(), stderr.decode())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that still runs, with its descendants: those of torchrun are in sessions of
    their own and would live on."""
    if process.poll() is None:
        below = _descendants(process.pid)
        process.kill()
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    """The ids of all processes below a process."""
    found = []
    for path in Path("/proc").glob(f"{pid}/task/*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _environment() -> dict[str, str]:
    """The user's variables without those that would change a run, and a proxy that refuses."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    # A tiny model gains nothing from threads or a GPU, and so the tests are alike everywhere.
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return environment | {
        "PIP_NO_INDEX": "1",
        "HTTPS_PROXY": UNREACHABLE,
        "https_proxy": UNREACHABLE,
        "NO_PROXY": "",
        "no_proxy": "",
    }
