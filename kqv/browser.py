"""Show a finished page or picture in the user's browser."""

import os
import sys
import webbrowser
from pathlib import Path
from typing import Literal


def show(path: Path, ask: Literal["auto"] | bool) -> None:
    """Open a file in the browser: if `ask` is True, or if it is "auto" and a person is present.

    Nothing is lost where that fails, since the path was printed before. A line on stderr says so
    if opening was asked for.
    """
    if not ask or (ask == "auto" and not person_present()):
        return
    sys.stdout.flush()  # a browser that runs in this terminal starts after what was printed
    try:
        opened = webbrowser.open(path.absolute().as_uri())
    except (webbrowser.Error, OSError):
        opened = False
    if not opened and ask != "auto":
        print(f"no browser could be started: open {path} in one", file=sys.stderr)


def person_present() -> bool:
    """Whether stdout is a terminal on a machine with a screen: no pipe, SSH session or CI job."""
    remote = any(os.environ.get(name) for name in ("SSH_CONNECTION", "SSH_TTY", "CI"))
    if not sys.stdout.isatty() or remote:
        return False
    has_screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return has_screen or sys.platform in ("darwin", "win32")
