"""What a user can rely on of big texts: the same ids on any number of cores, in little memory, and killed is not lost."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kqv import project
from kqv.project import ROOT as PROJECT
from kqv.text import cache, formats, tokenizing
from kqv.text.bpe import OWN_PATTERN, BpeTokenizer
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.datasets import Dataset, open_texts, prepare_dataset
from kqv.text.token_files import open_tokens
from kqv.text.tokenizer import DOCUMENT_END, Tokenizer
from kqv.text.tokenizing import map_in_order
from kqv.text.unfinished import locked_workspace

SINGLE = [bytes([byte]) for byte in range(256)]
MERGED = [b"th", b" c", b"the", b"at", b" cat", b"\n\n", b".."]
PAIRS = BpeTokenizer("pairs", OWN_PATTERN, [*SINGLE, *MERGED])
ENDED = BpeTokenizer(
    "ended", OWN_PATTERN, [*SINGLE, *MERGED], {"<|endoftext|>": 263, "<|other|>": 264}
)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own."""
    monkeypatch.setattr(project, "DATA", tmp_path / "data")
    return tmp_path / "data"


def lines(path: Path, documents: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def ids_of(dataset: Dataset) -> tuple[list[int], list[int]]:
    train, val = (
        open_tokens(dataset.folder / name, dataset.vocab_size, 0)[:]
        for name in ("train.bin", "val.bin")
    )
    return train.tolist(), val.tolist()


# --- documents ----------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        "the cat",
        " the",
        "th",
        "...",
        "\n\n",
        " ",
        "<|endoftext|>",
        "山",
        "a",
        "\r\n",
        "at. The cat sat",
    ]
)
DOCUMENTS = st.lists(st.lists(WORDS, max_size=8).map("".join), min_size=2, max_size=8)


@settings(max_examples=60)
@given(DOCUMENTS, st.integers(1, 20), st.sampled_from([PAIRS, ENDED, ByteTokenizer()]))
@example(["the cat"] * 9, 3, ENDED)
@example(["the ", "cat.", ".", " the"], 100, PAIRS)
def test_each_document_is_encoded_by_itself_and_followed_by_its_end(
    tmp_path_factory: pytest.TempPathFactory, documents: list[str], piece: int, tokenizer: Tokenizer
) -> None:
    end = {"ended": 263}.get(tokenizer.name, 3)
    each = [[*tokenizer.encode(text), end] for text in documents]
    ends = np.cumsum([len(text) + 1 for text in documents]).tolist()
    # To train on: up to the first end of a document at or after 90 %, but not the last document.
    count = next(
        i for i in range(1, len(ends)) if ends[i - 1] >= int(0.9 * ends[-1]) or i == len(ends) - 1
    )
    room = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "PIECE_SIZE", piece)
        dataset = prepare_dataset(
            [lines(room / "documents.jsonl", documents)], room / "ids", tokenizer=tokenizer
        )
    assert ids_of(dataset) == (list(chain(*each[:count])), list(chain(*each[count:])))


def test_characters_have_the_end_of_a_document_as_a_character(tmp_path: Path) -> None:
    dataset = open_texts([str(lines(tmp_path / "x.jsonl", ["abc", "abd", "b"]))])
    assert dataset.tokenizer == CharTokenizer(DOCUMENT_END + "abcd")
    assert [dataset.tokenizer.decode(ids) for ids in ids_of(dataset)] == [
        f"abc{DOCUMENT_END}abd{DOCUMENT_END}",
        f"b{DOCUMENT_END}",
    ]


def test_one_document_is_cut_like_any_text(tmp_path: Path) -> None:
    dataset = open_texts([str(lines(tmp_path / "x.jsonl", ["abcdefghi"]))])
    assert [dataset.tokenizer.decode(ids) for ids in ids_of(dataset)] == ["abcdefghi", DOCUMENT_END]


def test_the_end_of_a_document_is_no_more_than_a_character_in_a_text_without_documents(
    tmp_path: Path,
) -> None:
    text = f"the cat..{DOCUMENT_END}.." * 10
    (tmp_path / "x.txt").write_text(text)
    train, val = ids_of(open_texts([str(tmp_path / "x.txt")], tokenizer=ENDED))
    assert (train, val) == (
        ENDED.encode(text[: len(text) * 9 // 10]),
        ENDED.encode(text[len(text) * 9 // 10 :]),
    )
    assert 263 not in train + val


def test_a_vocabulary_learnt_from_documents_ends_with_endoftext(tmp_path: Path) -> None:
    pytest.importorskip("rustbpe")
    path = lines(tmp_path / "x.jsonl", ["the cat sat on the mat"] * 50)
    tokenizer = open_texts([str(path)], tokenizer="bpe:265").tokenizer
    assert isinstance(tokenizer, BpeTokenizer)
    assert (
        tokenizer.vocab_size == 265
        and tokenizer.special == {"<|endoftext|>": 264}
        and tokenizer.name == "bpe:265"
    )
    assert not any(DOCUMENT_END.encode() in token and len(token) > 1 for token in tokenizer.tokens)
    assert ids_of(open_texts([str(path)], tokenizer=tokenizer))[0].count(264) == 45


def test_half_a_character_in_a_document_is_refused_by_name(
    tmp_path: Path, refused: Callable
) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "\\ud83d"}\n')
    with refused("x.jsonl", "half of a surrogate pair"):
        open_texts([str(tmp_path / "x.jsonl")])


# --- on all cores -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", ["char", "bytes", ENDED], ids=["char", "bytes", "bpe"])
def test_ids_are_the_same_on_any_number_of_cores(
    tokenizer: Tokenizer | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.txt"
    path.write_text(
        "".join(f"the cat number {i} sat on mat {i * i % 97}. Жук\n" for i in range(9000))
    )
    monkeypatch.setattr(formats, "PIECE_SIZE", 5000)
    found = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(tokenizing, "core_count", lambda cores=cores: cores)
        found.append(ids_of(prepare_dataset([path], tmp_path / str(cores), tokenizer=tokenizer)))
    assert found[0] == found[1] == found[2]


def test_work_is_done_at_once_taken_in_order_and_never_much_of_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenizing, "core_count", lambda: 2)
    together, asked = threading.Barrier(2, timeout=20), []

    def items() -> Iterator[int]:
        for number in range(40):
            asked.append(number)
            yield number

    def work(number: int) -> int:
        together.wait()  # ends only if another thread is at work too
        return number**2

    taken = 0
    for number, square in map_in_order(work, items()):
        assert (number, square) == (taken, taken**2) and len(asked) <= taken + 5 + 1
        taken += 1
    assert taken == 40


# --- nothing lost -------------------------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys
from pathlib import Path
from kqv import project
from kqv.text import formats, tokenizing
from kqv.text.unfinished import Progress
from kqv.text.datasets import open_texts
from kqv.signals import end_by_exception

end_by_exception()

def keep_or_die(progress, room, keep=Progress.save):
    if progress.done > int(sys.argv[4]):
        os.kill(os.getpid(), int(sys.argv[5]))
    keep(progress, room)

Progress.save = keep_or_die
project.DATA, tokenizing.SAVE_INTERVAL, formats.PIECE_SIZE = Path(sys.argv[1]), 0.0, 1 << 16
print(open_texts([sys.argv[2]], tokenizer=sys.argv[3]).folder)
"""


@contextmanager
def preparing(
    data: Path, path: Path | str, tokenizer: str, most: int = 10**9, number: int = signal.SIGKILL
) -> Iterator[subprocess.Popen[str]]:
    """A process that prepares a text, and sends itself a signal before it notes that more than `most` characters are done."""
    command, pipe = (
        [
            sys.executable,
            "-c",
            SCRIPT,
            str(data),
            str(path),
            tokenizer,
            str(most),
            str(int(number)),
        ],
        subprocess.PIPE,
    )
    with subprocess.Popen(
        command, cwd=PROJECT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("tokenizer", ["char", "bpe:300"])
def test_a_preparation_that_is_killed_goes_on_where_it_was(
    tokenizer: str, tmp_path: Path, data: Path
) -> None:
    if tokenizer != "char":
        pytest.importorskip("rustbpe")
    path = lines(
        tmp_path / "x.jsonl", [f"The cat number {i} sat on the mat.\n" * 40 for i in range(3000)]
    )
    expected = open_texts([str(path)], tokenizer=tokenizer)

    with preparing(tmp_path / "killed", path, tokenizer, most=500_000) as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    (note,) = (tmp_path / "killed").glob("cache/unfinished-*/progress.json")
    kept = json.loads(note.read_text())
    before, size = kept["done"], 2 if tokenizer != "char" else 1
    assert (
        0 < before <= 500_000
        and (note.parent / "ids" / "train.bin").stat().st_size > size * kept["train"]
    )
    with (
        preparing(tmp_path / "killed", path, tokenizer) as process,
        preparing(tmp_path / "killed", path, tokenizer) as other,
    ):
        said = [process.communicate(timeout=60), other.communicate(timeout=60)]
    folder, again = (Path(stdout.strip()) for stdout, _ in said)
    assert folder == again and f"{before:,} characters are done" in said[0][1] + said[1][1]
    for name in ("train.bin", "val.bin", "tokenizer.json"):
        assert (folder / name).read_bytes() == (expected.folder / name).read_bytes()
    assert {file.name for file in folder.iterdir()} == {
        "train.bin",
        "val.bin",
        "tokenizer.json",
        "prepared.json",
    }
    assert not list(folder.parent.glob("unfinished-*/*"))


def test_a_second_process_waits_for_the_first_and_finds_its_work(
    tmp_path: Path, data: Path
) -> None:
    (tmp_path / "x.txt").write_text("the cat sat " * 2000)
    digest = open_texts([str(tmp_path / "x.txt")]).folder.name.removeprefix("x-")
    there = tmp_path / "other" / "cache"
    there.mkdir(parents=True)
    with ExitStack() as stack:
        with locked_workspace(there / f"x-{digest}", digest):
            process = stack.enter_context(preparing(tmp_path / "other", tmp_path / "x.txt", "char"))
            assert "another process is preparing the same text" in process.stderr.readline()
            os.rename(data / "cache" / f"x-{digest}", there / f"x-{digest}")
            stamp = (there / f"x-{digest}" / "val.bin").stat()
        stdout, stderr = process.communicate()
    assert (Path(stdout.strip()), stderr) == (there / f"x-{digest}", "")
    assert (there / f"x-{digest}" / "val.bin").stat() == stamp and list(there.iterdir()) == [
        there / f"x-{digest}"
    ]


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


def test_what_was_abandoned_is_removed_after_a_week_and_not_before(
    tmp_path: Path, data: Path
) -> None:
    (tmp_path / "x.txt").write_text("the cat sat")
    left = [data / "cache" / f"unfinished-{name}" for name in ("new", "old")]
    for folder, days in zip(left, (6, 8), strict=True):
        folder.mkdir(parents=True)
        (folder / "progress.json").touch()
        then = time.time() - days * 24 * 3600
        os.utime(folder, (then, then))
    open_texts([str(tmp_path / "x.txt")])
    assert left[0].exists() and not left[1].exists()


def test_what_another_process_works_on_stays_whatever_a_clock_says(
    tmp_path: Path, data: Path
) -> None:
    (tmp_path / "x.txt").write_text("the cat sat")
    cache = data / "cache"
    cache.mkdir(parents=True)
    with locked_workspace(cache / "y", "running") as room:
        os.utime(room, (0, 0))
        open_texts([str(tmp_path / "x.txt")])
        assert room.exists() and Path(f"{room}.lock").exists()
    assert not list(cache.glob("unfinished-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_preparation_that_is_stopped_goes_on_and_says_so(number: int, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("The cat sat on the mat.\n" * 100_000)
    with preparing(tmp_path / "stopped", path, "char", most=500_000, number=number) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGINT if number == signal.SIGINT else 128 + number)
    assert "the same command continues there" in said
    (note,) = (tmp_path / "stopped").glob("cache/unfinished-*/progress.json")
    assert json.loads(note.read_text())["done"] > 0
    with preparing(tmp_path / "stopped", path, "char") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and "continuing what was prepared before" in said


def test_the_copy_of_standard_input_is_gone_when_a_process_is_stopped_or_the_next_one_starts(
    tmp_path: Path,
) -> None:
    cache = tmp_path / "data" / "cache"
    for number in (signal.SIGTERM, signal.SIGKILL):
        with preparing(tmp_path / "data", "-", "char") as process:
            process.stdin.write("my secret " * 100_000)
            process.stdin.flush()
            while not [path for path in cache.glob("unfinished-*/stdin") if path.stat().st_size]:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(number)
            with suppress(BrokenPipeError):  # a signal just before a read waits for its end
                os.write(process.stdin.fileno(), b"more of it")
            process.wait(timeout=60)
        assert bool(list(cache.iterdir())) == (
            number == signal.SIGKILL
        )  # nobody can answer that one
    (tmp_path / "x.txt").write_text("the cat sat")
    with preparing(tmp_path / "data", tmp_path / "x.txt", "char") as process:
        folder = Path(process.communicate(timeout=60)[0].strip())
    assert list(cache.iterdir()) == [folder]
