"""What a user can rely on of folders: what is read is said, and the hidden is not read."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kqv.text.sources import read_endings, text_files


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def read_from(folder: Path, endings: str = "") -> list[str]:
    found = text_files(str(folder), folder, read_endings(endings))
    return [path.relative_to(folder).as_posix() for path in found]


def test_a_folder_stands_for_its_texts_of_all_formats_in_order_of_name(tmp_path: Path) -> None:
    names = "a.txt b.txt.gz c.jsonl d.jsonl.zst e.parquet f.md g.gz h.json sub/i.txt.zst"
    touched(tmp_path, *names.split())
    assert read_from(tmp_path) == [
        "a.txt",
        "b.txt.gz",
        "c.jsonl",
        "d.jsonl.zst",
        "e.parquet",
        "sub/i.txt.zst",
    ]


def test_hidden_and_linked_folders_are_skipped_and_one_line_says_what_was_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "a.txt b.txt c.jsonl.gz sub/d.txt x.md y.md sub/z.png README old.TXT"
    hidden = ".secret/e.txt sub/.venv/f.txt .hidden.txt"
    folder = touched(tmp_path / "letters", *names.split(), *hidden.split())
    (folder / "circle").symlink_to(folder)
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    os.mkfifo(folder / "pipe.txt")
    assert read_from(folder) == ["a.txt", "b.txt", "c.jsonl.gz", "sub/d.txt"]
    assert capsys.readouterr().err == (
        f"{folder}: reading 3 .txt and 1 .jsonl.gz files; "
        "skipped 2 .md, 1 .TXT, 1 .png, 1 broken link, 1 extensionless file, 1 hidden file, "
        "2 hidden folders, 1 linked folder and 1 special file; "
        "--endings=md,py reads these endings instead\n"
    )
    assert read_from(folder / "sub" / ".venv") == ["f.txt"]  # who names it means it
    assert capsys.readouterr().err == f"{folder}/sub/.venv: reading 1 .txt file\n"


def test_the_endings_that_are_named_are_read_and_no_others(tmp_path: Path) -> None:
    names = "a.md b.py.gz c.txt d.html sub/e.md.zst f.jsonl md .git/g.md h.rmd"
    folder = touched(tmp_path / "x", *names.split())
    for option in ("md,py", ".md, .py", "*.md,*.py"):
        assert read_from(folder, option) == ["a.md", "b.py.gz", "sub/e.md.zst"]
    assert read_from(folder, "html") == ["d.html"]
    assert read_from(folder, "jsonl,txt") == ["c.txt", "f.jsonl"]


def test_a_folder_without_the_endings_says_which_it_has(tmp_path: Path, refused: Callable) -> None:
    folder = touched(tmp_path / "x", "a.md", "b.md", "c.py", ".git/d.txt")
    with refused(
        f"{folder} has no .txt, .jsonl or .parquet files, but 2 .md, 1 .py and 1 hidden folder: "
        "--endings=md reads"
    ):
        read_from(folder)
    with refused(f"{folder} has no .html files"):
        read_from(folder, "html")
    with refused("endings=md,, has an empty one", "--endings=md,py"):
        read_from(folder, "md,,")


def test_a_folder_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    folder = touched(tmp_path / "x", "a.txt", "closed/b.txt")

    def scandir(path: str, real: Callable = os.scandir) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # the mode of a folder says nothing to root
    with refused(f"{folder / 'closed'} cannot be read: Permission denied"):
        read_from(folder)
