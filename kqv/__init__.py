"""What the scripts share, one noun a file. Nothing here imports a script."""

import time

__version__ = "0.9.0"

STARTED = time.perf_counter()
"""When the process began, as near as we can tell: a script imports this package before all that takes long."""
