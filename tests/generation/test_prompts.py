"""What a user can rely on of prompts: they may come through a pipe, and have an end."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kqv.generation.prompts import text_of


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_a_prompt_may_come_through_a_pipe_but_has_an_end(tmp_path: Path, refused: Callable) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", f"printf 'To be\\r\\n' > {pipe}"]):
        assert text_of(f"FILE:{pipe}") == "To be\n"
    with refused("/dev/zero", "more than"):
        text_of("FILE:/dev/zero")
