"""What the end-to-end tests share: a copy of the project, a text, and two trained models."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.pairs import date_pairs, write_pairs
from helpers.shell import TINY, Done, Shell, copy_project, easy_text


@dataclass
class Run:
    """A finished training run: the command line, its out_dir, how it ended."""

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
def dates(tmp_path_factory) -> Path:
    """A file of pairs: a few dates in words, with their digits, which are symbols, too."""
    pairs = [(words, " ".join(digits)) for words, digits in date_pairs(200)]
    return write_pairs(tmp_path_factory.mktemp("pairs") / "dates.tsv", pairs)


@pytest.fixture(scope="session")
def trained(shell, text, tmp_path_factory) -> Run:
    """A tiny model that has learned its text. It is shared: tests do not write to its folder."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    words = (text, TINY, "--max_iters=300")
    done = shell.succeed("train.py", *words, f"--out_dir={folder}")
    return Run(words, folder, done)


@pytest.fixture(scope="session")
def one_line(shell, tmp_path_factory) -> Run:
    """A tiny model of a text without a newline."""
    folder = tmp_path_factory.mktemp("one_line")
    (folder / "song.txt").write_text("la li lu " * 100)
    words = (folder / "song.txt", TINY, "--sample_chars=20")
    done = shell.succeed("train.py", *words, f"--out_dir={folder / 'run'}")
    return Run(words, folder / "run", done)
