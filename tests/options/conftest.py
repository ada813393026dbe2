"""What the tests of options share."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., str]:
    """Write a config file; returns its path as a word of the command line."""

    def write(text: str, name: str = "config.py") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write
