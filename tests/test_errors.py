"""What a user can rely on when something fails: one line, a status, no traceback but for bugs."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kqv.project import ROOT

# Output is buffered, as for most users: the rest is written when it is too late for a traceback.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
SCRIPT = r"""
import errno, os, sys, time
sys.path.insert(0, PROJECT)
from kqv.errors import MachineError, UserError, run_script

def main(arguments):
    match arguments:
        case ["nothing"]: return None
        case ["status", number]: return int(number)
        case ["exit", number]: sys.exit(int(number))
        case ["print", text]: print(text)
        case ["print much"]:
            for _ in range(100_000): print("a line that nobody reads")
        case ["print late" | "exit late" | "user late" as how]:
            sys.stdin.read()
            print("a line that nobody reads")
            if how == "exit late": sys.exit(0)  # as --help does
            if how == "user late": raise UserError("a mistake")
        case ["wait"]:
            print("waiting", flush=True)
            time.sleep(60)
        case ["user"]: raise UserError("no such file:\n  novel.txt")
        case ["machine"]: raise MachineError("out.pt could not be written")
        case ["full"]: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/ckpt.pt")
        case ["missing"]: open("/no such folder/x")
        case ["memory"]: raise MemoryError
        case ["gpu memory"]:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB\nGPU 0 has a total")
        case ["cpu memory"]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
        case ["torch"]:
            raise ImportError("libtorch_cpu.so: failed to map segment from shared object")
        case ["package"]: import safetensor_s.torch
        case ["our package"]: import kqv.nothing
        case ["too large"]:
            raise RuntimeError("Storage size calculation overflowed with sizes=[1000000000000]")
        case ["compiler"]:
            failed = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})
            output = "C++ compile error\n\nCommand:\ng++ x.cpp\nx.cpp:1: error: no Python.h\n"
            raise failed("CppCompileError: " + output + "1 error")
        case ["bug"]: raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        case ["other bug"]: return 1 / 0

run_script(main)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "script.py"
    path.write_text(SCRIPT.replace("PROJECT", repr(str(ROOT))))
    return path


def run(script: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "env": ENVIRONMENT,
        "timeout": 30,
        **options,
    }
    return subprocess.run([sys.executable, str(script), *arguments], **options)


@pytest.mark.parametrize(
    ("argument", "status", "parts"),
    [
        ("user", 2, ["no such file: novel.txt"]),
        ("machine", 1, ["out.pt could not be written"]),
        ("full", 1, ["out/ckpt.pt", "No space left", "free some space"]),
        ("missing", 1, ["/no such folder/x", "No such file"]),
        ("memory", 1, ["out of memory", "--batch_size"]),
        ("gpu memory", 1, ["out of memory", "--batch_size"]),
        ("cpu memory", 1, ["out of memory", "--batch_size"]),
        ("torch", 1, ["out of memory", "ulimit -v"]),
        ("package", 1, ["safetensor_s is missing", "pip install -r requirements.txt"]),
        ("too large", 1, ["out of memory", "--batch_size"]),
        ("compiler", 1, ["could not be compiled (x.cpp:1: error: no Python.h)", "--compile=False"]),
    ],
)
def test_an_expected_error_is_one_line_and_a_status(
    script: Path, argument: str, status: int, parts: list[str]
) -> None:
    done = run(script, argument)
    assert (done.returncode, done.stdout) == (status, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("script.py: ") and all(part in line for part in parts)


@pytest.mark.parametrize(
    ("arguments", "status"), [("nothing", 0), ("status 0", 0), ("status 143", 143), ("exit 3", 3)]
)
def test_the_status_is_the_one_that_main_returns(script: Path, arguments: str, status: int) -> None:
    done = run(script, *arguments.split())
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("bug", "RuntimeError: mat1 and mat2"),
        ("other bug", "ZeroDivisionError:"),
        ("our package", "ModuleNotFoundError:"),
    ],
)
def test_a_bug_of_ours_keeps_its_traceback(script: Path, argument: str, words: str) -> None:
    done = run(script, argument)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback") and words in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals as shells know them")
def test_ctrl_c_is_one_line_and_status_130(script: Path) -> None:
    def hear() -> None:  # what a shell starts in the background, tests among it, does not
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command, pipe = [sys.executable, str(script), "wait"], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=hear) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, "script.py: interrupted\n")


@pytest.mark.parametrize(
    ("argument", "status", "line"),
    [
        ("print much", 0, ""),
        ("print late", 0, ""),
        ("exit late", 0, ""),
        ("user late", 2, "script.py: a mistake\n"),
    ],
)
def test_a_reader_that_leaves_early_is_no_error(
    script: Path, argument: str, status: int, line: str
) -> None:
    """As in `python sample.py | head -1`."""
    reader, writer = os.pipe()
    command, pipe = [sys.executable, str(script), argument], subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=writer, stderr=pipe, text=True, env=ENVIRONMENT
    ) as process:
        os.close(writer)
        if argument == "print much":
            assert os.read(reader, 10) == b"a line tha"
        os.close(reader)
        _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (status, line)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_output_that_does_not_fit_the_disk_is_one_line(script: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run(script, "print", "text", stdout=full)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "No space left" in line


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize(("arguments", "status"), [("nothing", 0), ("print text", 0), ("user", 2)])
def test_without_any_output_the_status_is_still_right(
    script: Path, arguments: str, status: int
) -> None:
    """As in `python train.py >&-`, or where a service manager gives none."""
    done = subprocess.run(
        f"exec {sys.executable} {script} {arguments} >&- 2>&-",
        shell=True,
        env=ENVIRONMENT,
        timeout=30,
    )
    assert done.returncode == status


def test_text_that_the_terminal_cannot_show_is_escaped(script: Path) -> None:
    done = run(script, "print", "naïve 文字", env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "na\\xefve \\u6587\\u5b57\n", "")
