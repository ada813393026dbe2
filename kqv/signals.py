"""Stop signals: SIGINT (Ctrl-C), SIGTERM, and SIGHUP, which a terminal sends when it closes.

A script goes through up to three stages:

    while torch is imported     SIG_DFL, set by the first statement of the script: the process ends
    while it prepares           `end_by_exception`: what is unfinished is removed, then the process ends
    while it trains             `stop_signals`: the step is finished and saved, then the process ends
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOP = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def end_by_exception() -> None:
    """From now on let a stop signal raise an exception, so that temporary files are removed.

    Call it when torch has been imported: its import swallows exceptions, or aborts on them.
    """
    for number in _heeded():
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else _exit)


@contextmanager
def stop_signals(answer: str, second_after: float | None = 0.0) -> Iterator[list[int]]:
    """Give a list that receives the stop signals that arrive while the block lasts.

    The first one is answered at once with the line `answer` on stderr ("" for none): by a thread, because the main thread
    may be inside one backward pass for minutes. A later one, if it comes at least `second_after` seconds after the first,
    ends the process with status 128 + its number. With None it is only received, too.
    """
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in _heeded()
    }
    reader, writer = socket.socketpair()  # Windows has no other file that Python writes signals to
    writer.setblocking(False)
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, answer, second_after), daemon=True).start()
    try:
        yield received
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()


def _heeded() -> list[int]:
    """The stop signals that whoever started this process has not told it to ignore, as nohup does."""
    return [number for number in STOP if signal.getsignal(number) != signal.SIG_IGN]


def _exit(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _watch(reader: socket.socket, answer: str, second_after: float | None) -> None:
    """Read the numbers of signals that Python writes to the other end when they arrive, until that is closed."""
    first = None
    with reader:
        while data := reader.recv(1):
            if data[0] not in STOP:
                continue
            if first is None:
                first = time.monotonic()
                # A pipe that nobody reads may block the write, and must not block the second signal.
                threading.Thread(target=_say, args=(answer,), daemon=True).start()
            elif second_after is not None and time.monotonic() - first >= second_after:
                os._exit(128 + data[0])


def _say(answer: str) -> None:
    """Write a line to stderr, below the progress bar if there is one. It may be called while the main thread prints."""
    if answer:
        with suppress(OSError):  # a terminal that has closed
            os.write(2, f"{os.linesep if os.isatty(2) else ''}{answer}{os.linesep}".encode())
