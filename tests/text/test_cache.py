"""What a user can rely on of the cache: a text is prepared once, and again if it changed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.byte_pairs import PAIRS
from helpers.texts import ids_of, modification_times, texts_of, write

from kqv.errors import UserError
from kqv.text import cache, datasets, formats
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.datasets import open_dataset, open_texts


def test_a_text_is_prepared_once_while_it_is_the_same(tmp_path: Path, data: Path) -> None:
    path = write(tmp_path / "novel.txt", "It was a dark and stormy night")
    first = open_texts([str(path)])
    before = modification_times(first.folder)
    assert set(before) == {"train.bin", "val.bin", "tokenizer.json", "prepared.json"}
    os.utime(path, (0, 0))  # the text counts, not its date
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "prepare_texts", None)
        assert open_texts([str(path)]).folder == first.folder
        # A checkpoint brings the tokenizer itself.
        assert open_texts([str(path)], tokenizer=first.tokenizer).folder == first.folder
    assert modification_times(first.folder) == before
    assert [folder.name for folder in (data / "cache").iterdir()] == [first.folder.name]


def test_a_text_is_prepared_again_when_anything_changes(tmp_path: Path, data: Path) -> None:
    one, two = (
        write(tmp_path / f"{name}.txt", text)
        for name, text in (("one", "first night"), ("two", "second night"))
    )
    folders = [
        open_texts([str(one)]).folder,
        open_texts([str(one), str(two)]).folder,
        open_texts([str(two), str(one)]).folder,
    ]
    folders.append(open_texts([str(one)], encoding="latin-1").folder)
    folders.append(
        open_texts([str(one)], tokenizer=CharTokenizer("abcdefghijklmnopqrstuvwxyz ")).folder
    )
    write(one, "first nights")
    folders.append(open_texts([str(one)]).folder)
    write(one, "First night")
    folders.append(open_texts([str(one)]).folder)
    assert len(set(folders)) == len(folders) == len(list((data / "cache").iterdir()))
    assert texts_of(open_texts([str(one)]))[0] == "First nig"


def test_each_tokenizer_has_a_cache_folder_of_its_own(tmp_path: Path, data: Path) -> None:
    path = str(write(tmp_path / "x.txt", "bytes of bytes" * 9))
    names: list[Any] = ["char", "bytes", CharTokenizer("bytes of"), PAIRS]
    folders = [open_texts([path], tokenizer=tokenizer).folder for tokenizer in names]
    assert len(set(folders)) == len(folders)
    # The same ids, whether the tokenizer is named or given:
    assert open_texts([path], tokenizer=ByteTokenizer()).folder == folders[1]
    assert [open_texts([path], tokenizer=tokenizer).folder for tokenizer in names] == folders


@pytest.mark.parametrize("content", ["", b"not utf-8 \xff"])
def test_a_failed_preparation_leaves_nothing_behind(
    content: str | bytes, tmp_path: Path, data: Path
) -> None:
    good = open_texts([str(write(tmp_path / "good.txt", "good"))])
    for words in (["bad.txt"], ["bad.txt", "good.txt"], ["good.txt", "missing.txt"]):
        if not content and words == ["bad.txt", "good.txt"]:
            continue  # an empty file beside another one is no mistake
        write(tmp_path / "bad.txt", content)
        with pytest.raises(UserError):
            open_texts([str(tmp_path / word) for word in words])
    assert list((data / "cache").iterdir()) == [good.folder]


def test_a_preparation_that_breaks_off_leaves_nothing_behind(
    tmp_path: Path, data: Path, small_disk: Callable[[int], None]
) -> None:
    path = write(tmp_path / "novel.txt", "It was a dark and stormy night. " * 1000)
    small_disk(20_000)
    try:
        with pytest.raises(OSError):
            open_texts([str(path)])
    finally:
        small_disk(1 << 30)
    assert list((data / "cache").iterdir()) == []
    assert sum(map(len, texts_of(open_texts([str(path)])))) == 32_000


def test_a_cache_folder_of_an_older_kqv_works(tmp_path: Path) -> None:
    path = write(tmp_path / "novel.txt", "It was a dark and stormy night")
    dataset = open_texts([str(path)])
    (dataset.folder / "prepared.json").unlink()
    before = modification_times(dataset.folder)
    assert open_dataset(dataset.name).title == dataset.name
    assert open_texts([str(path)]).title == "novel.txt"
    assert modification_times(dataset.folder) == before


DAMAGES = {
    "cut": lambda folder: os.truncate(folder / "train.bin", 4),
    "cut to nothing": lambda folder: os.truncate(folder / "val.bin", 0),
    "longer": lambda folder: os.truncate(folder / "train.bin", 10_000),
    "half an id": lambda folder: os.truncate(
        folder / "train.bin", (folder / "train.bin").stat().st_size + 1
    ),
    "no ids": lambda folder: (folder / "train.bin").unlink(),
    "no end": lambda folder: (folder / "val.bin").unlink(),
    "no vocabulary": lambda folder: (folder / "tokenizer.json").unlink(),
    "half a vocabulary": lambda folder: os.truncate(folder / "tokenizer.json", 20),
    "half a record": lambda folder: os.truncate(folder / "prepared.json", 20),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_token_files_are_made_again_and_reported(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "novel.txt", "It was a dark and stormy night. " * 20)
    dataset = open_texts([str(path)])
    before = {file.name: file.read_bytes() for file in dataset.folder.iterdir()}
    capsys.readouterr()
    DAMAGES[damage](dataset.folder)
    assert open_texts([str(path)]).folder == dataset.folder
    assert capsys.readouterr().err == f"{dataset.folder} is damaged: the text is prepared again\n"
    assert {file.name: file.read_bytes() for file in dataset.folder.iterdir()} == before


def test_a_large_cache_is_reported_with_the_command_that_clears_it(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "novel.txt", "It was a dark and stormy night. " * 2000)
    open_texts([str(path)])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cache, "LARGE_CACHE", 100_000)
    monkeypatch.chdir(tmp_path)
    open_texts([str(path)])
    assert capsys.readouterr().err == ""  # not at each start
    open_texts([str(path)], "latin-1")
    said = capsys.readouterr().err
    assert said.startswith(
        "data/cache holds 0.3 MB of prepared texts; delete it at any time (rm -r data/cache)"
    )


def test_the_hash_of_a_large_text_is_remembered_while_it_is_the_same_file(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "REMEMBER_HASH_FROM", 1000)
    path = tmp_path / "x.txt"
    path.write_text("the cat sat " * 200)
    folder = open_texts([str(path)]).folder
    with monkeypatch.context() as patch:
        patch.setattr(formats, "PIECE_SIZE", object())  # so that it cannot be read
        assert open_texts([str(path)]).folder == folder
    path.write_text("the dog sat " * 200)  # as long, but later
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    other = open_texts([str(path)])
    assert other.folder != folder and "dog" in other.tokenizer.decode(ids_of(other)[0])
    (data / "cache" / "hashes.json").write_text("{")  # damaged: made anew
    assert open_texts([str(path)]).folder == other.folder
