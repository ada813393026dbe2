"""data/g2p and data/multi30k: the published pairs to the byte, and no file of the user's lost.

The files are made here and small; their hashes take the place of the published ones.
"""

import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from kqv.errors import MachineError, UserError
from kqv.project import ROOT as PROJECT
from kqv.text import downloads
from kqv.text.downloads import sha256

SOUNDS = {"eng_us_train.tsv": "colonel\tk ɝ n ə l\n", "kor_dev.tsv": "가\tk a̠\n"}
SIDES = {
    "train.de.gz": "Zwei\tHunde.\nEin Mann \n",
    "train.en.gz": "Two dogs.\nA man\u2028here.\n",
}
TRAIN = "Zwei Hunde.\tTwo dogs.\nEin Mann \tA man\u2028here.\n".encode()


def load(name: str) -> ModuleType:
    """The script of a data folder as a module."""
    path = PROJECT / "data" / name / "prepare.py"
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def g2p(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """data/g2p/prepare.py with two small files, in a folder of its own."""
    module = load("g2p")
    hashes = {name: sha256(text.encode()) for name, text in SOUNDS.items()}
    paths = {
        "data/high/eng_us_train.tsv": "eng_us_train.tsv",
        "data/medium/kor_dev.tsv": "kor_dev.tsv",
    }
    monkeypatch.setattr(module, "HASHES", hashes)
    task = replace(module.TASK, hashes={path: hashes[name] for path, name in paths.items()})
    monkeypatch.setattr(module, "TASK", task)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "g2p")
    module.FOLDER.mkdir()
    return module


@pytest.fixture
def multi30k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """data/multi30k/prepare.py with two sentences, in a folder of its own."""
    module = load("multi30k")
    hashes = {f"data/task1/raw/{name}": sha256(packed(text)) for name, text in SIDES.items()}
    monkeypatch.setattr(module, "DATASET", replace(module.DATASET, hashes=hashes))
    monkeypatch.setattr(module, "WRITTEN", {"train.tsv": ("train", sha256(TRAIN))})
    monkeypatch.setattr(module, "FOLDER", tmp_path / "multi30k")
    module.FOLDER.mkdir()
    return module


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, bytes]], list[str]]:
    """Answer downloads with these files, by name. Returns the addresses as they are asked for."""

    def serve(files: dict[str, bytes]) -> list[str]:
        asked: list[str] = []

        def download(address: str, seconds: float) -> bytes:
            asked.append(address)
            name = address.rpartition("/")[2]
            if name not in files:
                raise OSError("no route to host")
            return files[name]

        monkeypatch.setattr(downloads, "download", download)
        return asked

    return serve


def packed(text: str) -> bytes:
    """A .gz file."""
    return gzip.compress(text.encode(), mtime=0)


def sounds_in(folder: Path) -> Path:
    """The files of sounds in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in SOUNDS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["g2p", "multi30k"])
def test_the_commit_and_the_hashes_are_whole(name: str) -> None:
    module = load(name)
    collection = module.TASK if name == "g2p" else module.DATASET
    assert len(collection.commit) == 40
    assert len(collection.hashes) == {"g2p": 33, "multi30k": 6}[name]
    assert {len(digest) for digest in collection.hashes.values()} == {64}
    assert len(set(collection.hashes.values())) == len(collection.hashes)


def test_sounds_are_written_as_they_were_published(
    g2p: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    g2p.main([f"--input={sounds_in(tmp_path / 'copies')}"])
    assert {path.name: path.read_text() for path in g2p.FOLDER.iterdir()} == SOUNDS
    assert capsys.readouterr().err == ""  # nothing is downloaded


def test_a_clone_of_the_repository_is_a_folder_of_files_too(
    g2p: ModuleType, tmp_path: Path
) -> None:
    copies = sounds_in(tmp_path / "copies")
    for path in g2p.TASK.hashes:
        (tmp_path / "clone" / path).parent.mkdir(parents=True)
        shutil.copy(copies / Path(path).name, tmp_path / "clone" / path)
    g2p.main([f"--input={tmp_path / 'clone'}"])
    assert names_in(g2p.FOLDER) == sorted(SOUNDS)


def test_before_a_download_one_line_says_what_comes_from_where_and_its_licence(
    g2p: ModuleType, serve: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = serve({name: text.encode() for name, text in SOUNDS.items()})
    g2p.main([])
    (line,) = capsys.readouterr().err.splitlines()
    for words in ("sigmorphon/2021-task1", "821bcdece5a4", "2 files", "4 MB", "CC BY-SA 3.0"):
        assert words in line
    commit = "https://raw.githubusercontent.com/sigmorphon/2021-task1/" + g2p.TASK.commit
    assert asked == [f"{commit}/{path}" for path in g2p.TASK.hashes]
    assert names_in(g2p.FOLDER) == sorted(SOUNDS)


def test_what_is_there_is_not_downloaded_again(g2p: ModuleType, serve: Callable) -> None:
    name, other = SOUNDS
    serve({name: SOUNDS[name].encode()})
    with pytest.raises(MachineError, match="no route to host"):
        g2p.main([])
    assert names_in(g2p.FOLDER) == [name]
    asked = serve({other: SOUNDS[other].encode()})
    g2p.main([])
    assert [address.rpartition("/")[2] for address in asked] == [other]
    g2p.main([])  # all is there: no network is needed
    assert len(asked) == 1


@pytest.mark.parametrize("answer", [b"", b"<html>not found</html>", b"colonel\tk \xc9"])
def test_other_bytes_from_the_network_are_never_written(
    g2p: ModuleType, serve: Callable, answer: bytes
) -> None:
    serve(dict.fromkeys(SOUNDS, answer))
    with pytest.raises(MachineError, match=r"another SHA-256.*--input=FOLDER"):
        g2p.main([])
    assert names_in(g2p.FOLDER) == []


def test_another_file_in_the_named_folder_is_refused(g2p: ModuleType, tmp_path: Path) -> None:
    copies = sounds_in(tmp_path / "copies")
    (copies / "kor_dev.tsv").write_text("mine\tm aɪ n\n")
    with pytest.raises(UserError, match=r"kor_dev.tsv is not the file of .*check out that commit"):
        g2p.main([f"--input={copies}"])


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_a_folder_without_the_files_is_named(g2p: ModuleType, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"{place}/eng_us_train.tsv cannot be read"):
        g2p.main([f"--input={tmp_path / place}"])


def test_a_file_of_the_users_is_named_and_never_overwritten(
    g2p: ModuleType, tmp_path: Path
) -> None:
    mine = g2p.FOLDER / "kor_dev.tsv"
    mine.write_text("mine\tm aɪ n\n")
    with pytest.raises(UserError, match=r"kor_dev.tsv is not what this script writes: delete it"):
        g2p.main([f"--input={sounds_in(tmp_path / 'copies')}"])
    assert mine.read_text() == "mine\tm aɪ n\n"
    assert names_in(g2p.FOLDER) == ["kor_dev.tsv"]


def test_lines_of_two_languages_become_pairs(multi30k: ModuleType, serve: Callable) -> None:
    asked = serve({name: packed(text) for name, text in SIDES.items()})
    multi30k.main([])
    assert (multi30k.FOLDER / "train.tsv").read_bytes() == TRAIN
    assert names_in(multi30k.FOLDER) == ["train.tsv"]
    multi30k.main([])
    assert len(asked) == 2


def test_an_unreachable_network_leaves_no_half_of_the_pairs(
    multi30k: ModuleType, serve: Callable
) -> None:
    serve({"train.de.gz": packed(SIDES["train.de.gz"])})
    with pytest.raises(MachineError, match=r"train.en.gz cannot be had.*--input=FOLDER"):
        multi30k.main([])
    assert names_in(multi30k.FOLDER) == []


@pytest.mark.parametrize("name", ["g2p", "multi30k"])
def test_a_mistake_is_one_line_and_status_2_in_the_shell(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "data" / name
    folder.mkdir(parents=True)
    script = shutil.copy(PROJECT / "data" / name / "prepare.py", folder)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
    for arguments, words in [
        (["copies"], "--input=copies"),
        (["--imput=copies"], "did you mean input?"),
        (["--input=nowhere"], "nowhere/"),
    ]:
        command = [sys.executable, str(script), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1 and words in done.stderr
    assert names_in(folder) == ["prepare.py"]
