"""A finished page or picture in the browser of the person who asked for it."""

import os
import sys
from pathlib import Path
from typing import Literal


def show(path: Path, ask: Literal["auto"] | bool) -> None:
    """Open a file in the browser: if asked to, or by "auto" where a person sits at a terminal beside a browser.

    Where that fails nothing is lost, since its path was printed; it is said if it was asked for.
    """
    if not ask or (ask == "auto" and not person_present()):
        return
    import webbrowser

    sys.stdout.flush()  # a browser that runs in the terminal comes after what was printed
    try:
        opened = webbrowser.open(path.absolute().as_uri())
    except (webbrowser.Error, OSError):
        opened = False
    if not opened and ask != "auto":
        print(f"no browser could be started: open {path} in one", file=sys.stderr)


def person_present() -> bool:
    """Whether stdout is a terminal on a machine with a screen: not a pipe, not at the other end of an SSH connection."""
    if not sys.stdout.isatty() or any(
        os.environ.get(name) for name in ("SSH_CONNECTION", "SSH_TTY", "CI")
    ):
        return False
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
