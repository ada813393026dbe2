"""What the scripts share, one noun a file. Nothing here imports a script."""

import importlib.util
import time

if importlib.util.find_spec("tyro") is None:  # the smallest of the packages: none is installed
    raise SystemExit("kqv's packages are missing: make train, or pip install -r requirements.txt")

__version__ = "0.9.0"

STARTED = time.perf_counter()
"""When the process began, as near as we can tell: a script imports this package before all that takes long."""
