"""What the end-to-end tests share: a copy of the project, a text, and models that were trained once."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.shell import TINY, Done, Shell, copy_project, easy_text


@dataclass
class Run:
    """A finished training run: what was typed, what came of it."""

    words: tuple[object, ...]
    folder: Path
    done: Done


@pytest.fixture(scope="session")
def shell(tmp_path_factory) -> Shell:
    return copy_project(tmp_path_factory.mktemp("copy") / "kqv")


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "animals.txt"
    path.write_text(easy_text())
    return path


@pytest.fixture(scope="session")
def trained(shell, text, tmp_path_factory) -> Run:
    """A tiny model that has learnt its text. Shared: tests leave its folder as it is."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    words = (text, TINY, "--max_iters=300")
    done = shell.run("train.py", *words, f"--out_dir={folder}")
    assert done.status == 0, done.stderr
    return Run(words, folder, done)


@pytest.fixture(scope="session")
def one_line(shell, tmp_path_factory) -> Run:
    """A tiny model of a text without a single newline."""
    folder = tmp_path_factory.mktemp("one_line")
    (folder / "song.txt").write_text("la li lu " * 100)
    words = (folder / "song.txt", TINY, "--sample_chars=20")
    done = shell.run("train.py", *words, f"--out_dir={folder / 'run'}")
    assert done.status == 0, done.stderr
    return Run(words, folder / "run", done)
