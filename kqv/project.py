"""Paths of the project, and commands that run its scripts."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
DATA = ROOT.resolve() / "data"
CONFIGS = ROOT / "config"
ASSETS = Path(__file__).parent / "assets"  # HTML, style sheet and script of the pages


def shell_command(script: str, *options: str, launcher: Sequence[str] = ()) -> str:
    """A command that runs a script of the project from the current folder, with this Python.

    `launcher` goes between the two: arguments with which Python starts torchrun.
    """
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    here = os.getcwd() + os.sep
    path = str(ROOT / script).removeprefix(here)
    return shlex.join([python.removeprefix(here), *launcher, path, *options])
