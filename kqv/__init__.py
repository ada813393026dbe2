"""What the scripts share, one idea a folder. Nothing here imports a script."""

import importlib.util
import time

if importlib.util.find_spec("tyro") is None:  # the smallest of the packages: none is installed
    raise SystemExit("kqv's packages are missing: make train, or pip install -r requirements.txt")

__version__ = "0.9.0"

STARTED = time.perf_counter()
"""When the process started, nearly: scripts import this package before anything slow."""
