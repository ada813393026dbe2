"""Where the project is, and commands that run its scripts."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
DATA = ROOT.resolve() / "data"
CONFIGS = ROOT / "config"
ASSETS = Path(__file__).parent / "assets"  # of the pages: HTML, style, script


def shell_command(script: str, *options: str, launcher: Sequence[str] = ()) -> str:
    """A command line that works where this one did: the same Python, the same folder. Python starts the `launcher` if there is
    one, and that the script."""
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    here = os.getcwd() + os.sep
    path = str(ROOT / script).removeprefix(here)
    return shlex.join([python.removeprefix(here), *launcher, path, *options])
