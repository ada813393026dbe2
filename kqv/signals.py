"""Stop signals: SIGINT (Ctrl-C), SIGTERM, and SIGHUP, which a terminal sends when it closes.

A script goes through up to three stages:

    while torch is imported     SIG_DFL, set by the script's first statement: the process ends
    while it prepares           `end_by_exception`: temporary files are removed, the process ends
    while it trains             `stop_signals`: the step is finished and saved, the process ends
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def end_by_exception() -> None:
    """From now on a stop signal raises an exception, so that temporary files are removed.

    Call this after torch has been imported: its import swallows exceptions, or aborts on them.
    """
    for number in _not_ignored():
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else _exit)


@contextmanager
def stop_signals(answer: str, second_after: float | None = 0.0) -> Iterator[list[int]]:
    """A list that receives the stop signals that arrive during the block.

    The first signal prints the line `answer` to stderr ("" for none) at once, from a thread,
    because the main thread may be inside a backward pass for minutes. A later one ends the process
    with status 128 + its number if it arrives at least `second_after` seconds after the first;
    with None it is only added to the list.
    """
    received: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, receive) for number in _not_ignored()}
    # Python writes the numbers of signals to a socket; Windows takes no other kind of file.
    reader, writer = socket.socketpair()
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


def _not_ignored() -> list[int]:
    """The stop signals that our parent process has not set to be ignored, as nohup does."""
    return [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def _exit(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _watch(reader: socket.socket, answer: str, second_after: float | None) -> None:
    """Answer the signals whose numbers arrive at `reader`, until its other end is closed."""
    first = None
    with reader:
        while data := reader.recv(1):
            if data[0] not in STOP_SIGNALS:
                continue
            if first is None:
                first = time.monotonic()
                # Writing to a pipe that nobody reads blocks, and must not delay the second signal.
                threading.Thread(target=_print_line, args=(answer,), daemon=True).start()
            elif second_after is not None and time.monotonic() - first >= second_after:
                os._exit(128 + data[0])


def _print_line(line: str) -> None:
    """Write a line to stderr, below a progress bar. Safe while the main thread is printing."""
    if line:
        with suppress(OSError):  # a terminal that has closed
            os.write(2, f"{os.linesep if os.isatty(2) else ''}{line}{os.linesep}".encode())
