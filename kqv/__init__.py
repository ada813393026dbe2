"""What the scripts share, one idea a folder. Nothing here imports a script."""

import time

__version__ = "0.9.0"

STARTED = time.perf_counter()
"""When the process started, nearly: scripts import this package before anything slow."""
