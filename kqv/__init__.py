"""What the scripts share, one noun a file. Nothing here imports a script."""

import time

STARTED = time.perf_counter()
"""When the process began, as near as we can tell: a script imports this package before all that takes long."""
