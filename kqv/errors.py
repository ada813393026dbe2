"""Errors as the user meets them: one line on stderr that says what to do, and an exit status.

2    the user's mistake (`UserError`): a wrong option, a missing file, an unreadable text
1    the machine's trouble (`MachineError`): disk full, out of memory
130  Ctrl-C, 143 SIGTERM, as shells expect (128 + number of the signal)

Any other exception is a bug of ours, and keeps its traceback.
"""

import contextlib
import errno
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Objects between two garbage collections while a script starts (Python's default is 2000 or less).
GC_THRESHOLD = 100_000
MAX_REASON = 200  # characters of a compiler's message

# torch reports a failed allocation as a RuntimeError with one of these: the first on a GPU, the
# second on a CPU, the others where a tensor has more bytes than 64 bits can count.
OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "size calculation overflow",
    "integer multiplication overflow",
)


class UserError(Exception):
    """Something the user can mend. One line: what is wrong, and what to do."""


class MachineError(Exception):
    """Something the machine could not do. One line: what was kept, and how to go on."""


def run_script(main: Callable[[list[str]], int | None]) -> None:
    """Call `main(arguments)` and end the process with its status; expected errors are one line."""
    if sys.stdout is None or sys.stderr is None:  # a process may be started with closed streams
        nowhere = open(os.devnull, "w")  # noqa: SIM115 (open as long as the process lives)
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show Chinese or emoji shows escapes instead of raising an error.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    # Importing torch makes many objects and no garbage: to collect it meanwhile, and to destroy
    # the objects at the end, takes 0.4 s of each command (docs/log.md).
    gc.set_threshold(GC_THRESHOLD)
    status = exit_status(lambda: main(sys.argv[1:]))
    # Write what is buffered here, where an error can still be reported. Nothing else is left to do.
    flushed = exit_status(sys.stdout.flush)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(status or flushed)


def exit_status(action: Callable[[], Any]) -> int:
    """Run an action and return its exit status; an expected error is reported in one line."""
    try:
        return action() or 0
    except SystemExit as end:
        return _report(end.code, 1) if isinstance(end.code, str) else end.code or 0
    except UserError as error:
        return _report(str(error), 2)
    except MachineError as error:
        return _report(str(error), 1)
    except BrokenPipeError:
        # The reader of our output has left (`python sample.py | head`): no error, nothing to say.
        _discard_stdout()
        return 0
    except KeyboardInterrupt:
        return _report("interrupted", 130)
    except (MemoryError, OSError, RuntimeError, ImportError) as error:
        message = _machine_trouble(error)
        if message is None:
            raise
        if isinstance(error, OSError) and not error.filename:
            _discard_stdout()
        return _report(message, 1)


def _discard_stdout() -> None:
    """Send what is still written to standard output nowhere, because it accepts no more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(message: str, status: int) -> int:
    one_line = " ".join(message.split())
    with contextlib.suppress(OSError):  # a terminal that has closed
        print(f"{Path(sys.argv[0]).name}: {one_line}", file=sys.stderr)
    return status


def _machine_trouble(error: BaseException) -> str | None:
    """The line for trouble of the machine, such as a full disk; None for a bug of ours."""
    if isinstance(error, OSError):
        disk_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = ": free some space and run the command again" if disk_full else ""
        return f"{error.filename or 'input or output'}: {error.strerror or error}{hint}"
    if isinstance(error, ImportError):
        return _import_trouble(error)
    text = str(error)
    if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
        reason = next((line for line in text.splitlines() if "error:" in line), text.split("\n")[0])
        return (
            f"the model could not be compiled ({reason.strip()[:MAX_REASON]}): leave out "
            f"--compile, or write --compile=False"
        )
    if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
        return "out of memory: lower --batch_size, --block_size or the size of the model"
    return None


def _import_trouble(error: ImportError) -> str | None:
    """The line for a missing package or too little memory for a library; None for a bug of ours."""
    if isinstance(error, ModuleNotFoundError):
        if not error.name or error.name.startswith(("kqv", "model")):
            return None
        package = error.name.partition(".")[0]
        return f"the package {package} is missing: pip install -r requirements.txt"
    text = str(error)
    if "failed to map" in text or "cannot allocate" in text.lower():
        return (
            "out of memory: this process may not take what its libraries need (ulimit -v); "
            "allow it 2 GB or more"
        )
    if any(words in text for words in OUT_OF_MEMORY):
        return "out of memory: lower --batch_size, --block_size or the size of the model"
    return None
