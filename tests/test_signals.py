"""What a user can rely on when stopping a script: an answer at once, an end at the second try."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kqv.project import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

# The main thread is inside one call of a library, as in a backward pass of minutes.
BUSY = """
import hashlib, sys
from kqv.signals import stop_signals
with stop_signals("stopping", float(sys.argv[1])) as received:
    print("in", flush=True)
    hashlib.pbkdf2_hmac("sha512", b"", b"", int(sys.argv[2]))
    print([number for number in received], flush=True)
"""
HOURS = str(2**31 - 1)  # iterations
SECONDS = "1500000"


@contextmanager
def busy(second_after: str, iterations: str, **options: object) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", BUSY, second_after, iterations]
    pipe, folder = subprocess.PIPE, ROOT
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, cwd=folder, bufsize=0, **options
    ) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == b"in\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_answered_at_once_and_the_second_one_ends_the_process(
    number: int,
) -> None:
    with busy("0", HOURS) as process:
        process.send_signal(number)
        assert process.stderr.readline() == b"stopping\n"
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number


def test_one_signal_lets_the_work_end_by_itself() -> None:
    with busy("0", SECONDS) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == b"[15]\n"
        assert process.wait(timeout=60) == 0


def test_a_signal_that_torchrun_passes_on_does_not_count_as_a_second_one() -> None:
    with busy("3600", SECONDS) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == b"stopping\n"
        process.send_signal(signal.SIGINT)
        assert set(process.stdout.readline()) >= set(b"15")
        assert process.wait(timeout=60) == 0


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with busy("0", SECONDS, **ignore) as process:
        for _ in range(3):
            process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == b"[]\n"
        assert process.wait(timeout=60) == 0
