"""An object that shows whether reading a file runs what is in it."""

from pathlib import Path
from typing import Any


class Hostile:
    """Unpickling this makes a file: what it could do besides is anybody's guess."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.trace), "w")
