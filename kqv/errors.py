"""Errors as the user meets them: one line on stderr that says what to do, and an exit status.

2    the user's mistake (`UserError`): a wrong option, a missing file, an unreadable text
1    the machine's trouble (`MachineError`): disk full, out of memory
130  Ctrl-C, 143 SIGTERM, as shells expect (128 + the number of the signal)
"""

import contextlib
import errno
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Something the user can mend. The message is one line: what is wrong and what to do."""


class MachineError(Exception):
    """Something the machine could not do. One line: what was kept and how to go on."""


def run_script(main: Callable[[list[str]], int | None]) -> None:
    """Call `main(arguments)` and leave the process with its status; expected errors become one line."""
    if sys.stdout is None or sys.stderr is None:  # a process may be started with its streams closed
        nowhere = open(os.devnull, "w")  # noqa: SIM115 (as long as the process lives)
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    for stream in (sys.stdout, sys.stderr):
        # A terminal without Chinese or emoji shows their escapes: a stream of text must not end in an error.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    # Importing torch makes many objects and no garbage. Going through them again and again meanwhile, and taking them apart
    # at the end, takes 0.4 s of each command (docs/log.md).
    gc.set_threshold(100_000)
    status = _answered(lambda: main(sys.argv[1:]))
    # What is still in the buffer is written here, where an error can be answered; nothing else is left to do.
    flushed = _answered(sys.stdout.flush)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(status or flushed)


def _answered(action: Callable[[], Any]) -> int:
    """Do something; its errors become one line and a status."""
    try:
        return action() or 0
    except SystemExit as end:
        return _report(end.code, 1) if isinstance(end.code, str) else end.code or 0
    except (UserError, MachineError) as error:
        return _report(str(error), 2 if isinstance(error, UserError) else 1)
    except BrokenPipeError:
        # The reader of our output has left (`python sample.py | head`): an ordinary end, nothing to say.
        _drop_output()
        return 0
    except KeyboardInterrupt:
        return _report("interrupted", 130)
    except (MemoryError, OSError, RuntimeError, ImportError) as error:
        message = _machine_trouble(error)
        if message is None:
            raise
        if isinstance(error, OSError) and not error.filename:
            _drop_output()
        return _report(message, 1)


def _drop_output() -> None:
    """Let nothing more be written to a standard output that takes no more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(message: str, status: int) -> int:
    one_line = " ".join(message.split())
    with contextlib.suppress(OSError):  # a terminal that has closed
        print(f"{Path(sys.argv[0]).name}: {one_line}", file=sys.stderr)
    return status


def _machine_trouble(error: BaseException) -> str | None:
    """The line for a full disk or exhausted memory; None for what is a bug of ours and wants its traceback."""
    if isinstance(error, OSError):
        hint = (
            ": free some space and run the command again"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else ""
        )
        return f"{error.filename or 'input or output'}: {error.strerror or error}{hint}"
    if (
        isinstance(error, ModuleNotFoundError)
        and error.name
        and not error.name.startswith(("kqv", "model"))
    ):
        return f"the package {error.name.partition('.')[0]} is missing: pip install -r requirements.txt"
    if isinstance(error, ImportError) and (
        "failed to map" in str(error) or "cannot allocate" in str(error).lower()
    ):
        return "out of memory: this process may not take what its libraries need (ulimit -v); allow it 2 GB or more"
    # torch reports a failed allocation as a RuntimeError: "out of memory" on a GPU, "can't allocate" on a CPU, an overflow where
    # a tensor has more bytes than 64 bits can count.
    text = str(error)
    if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
        reason = next((line for line in text.splitlines() if "error:" in line), text.split("\n")[0])
        return f"the model could not be compiled ({reason.strip()[:200]}): leave out --compile, or write --compile=False"
    no_memory = (
        "out of memory",
        "can't allocate memory",
        "size calculation overflow",
        "integer multiplication overflow",
    )
    if isinstance(error, MemoryError) or any(words in text for words in no_memory):
        return "out of memory: lower --batch_size, --block_size or the size of the model"
    return None
