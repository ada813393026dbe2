"""What a user can rely on of titles and sources: nothing in a checkpoint is run."""

import io
import sys
from pathlib import Path

import pytest
from helpers.texts import write

from kqv.text.datasets import open_dataset, open_texts
from kqv.text.source_names import known_sources


def test_a_text_is_called_what_its_user_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = tmp_path / "letters"
    book.mkdir()
    files = [
        write(folder / f"{name}.txt", name)
        for folder, name in ((book, "one"), (tmp_path, "diary"), (tmp_path, "x"))
    ]
    monkeypatch.chdir(tmp_path)
    first = open_texts(["letters", "./diary.txt"])
    assert first.title == "letters/ and diary.txt"
    assert open_dataset(first.name).title == "letters/ and diary.txt"  # as a resumed run opens it
    assert open_texts(["diary.txt"]).title == "diary.txt"
    assert open_texts([str(files[1]), "letters", "x.txt"]).title == "diary.txt, letters/ and x.txt"
    assert open_texts(["x.txt"] * 9).title == "x.txt, x.txt and 7 more"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped in")))
    piped = open_texts(["-"])
    assert piped.title == open_dataset(piped.name).title == "standard input"


def test_what_a_checkpoint_calls_a_source_is_a_text_and_never_run() -> None:
    words = ["/novel.txt", "/evil.py", "evil.py", "--text=/own.py", "--out_dir=/", "--endings=md"]
    words += ["-", "relative.txt", 5]
    assert known_sources(words) == ["/novel.txt", "--text=/own.py", "--endings=md", "-"]
    assert known_sources("novel.txt") == known_sources(None) == []
