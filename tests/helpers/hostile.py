"""An object that shows whether reading a file runs code that is in it."""

from pathlib import Path
from typing import Any


class Hostile:
    """Unpickling this creates a file, as it could do anything else."""

    def __init__(self, trace: Path) -> None:
        """`trace` is the file that shows that code was run."""
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.trace), "w")
