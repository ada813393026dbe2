"""What a user can rely on when naming texts: every character arrives, 90 % of them in train.bin, and only once is it done."""

import codecs
import contextlib
import io
import itertools
import os
import pickle
import shutil
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kqv import project
from kqv.errors import UserError
from kqv.progress import ReadingBar
from kqv.project import ROOT
from kqv.text import cache, datasets, formats, preparation
from kqv.text.bpe import OWN_PATTERN, BpeTokenizer
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.datasets import Dataset, open_dataset, open_texts, prepare_dataset
from kqv.text.registry import load_tokenizer
from kqv.text.source_names import known_sources
from kqv.text.token_files import open_tokens
from kqv.text.tokenizer import token_dtype

ALPHABETS = [
    "abc \n",
    "äöüß€ \r\n",
    "абв, ",
    "山水文字。",
    "😀👩‍🚀é",
    "a\r\n",
    "\ufeffa\u2028\x0b\x85",
]
ANY_TEXT = st.sampled_from(ALPHABETS).flatmap(
    lambda alphabet: st.text(alphabet, max_size=40)
) | st.text(max_size=40)
ENCODINGS = ["utf-16", "utf-32", "utf-16-le", "latin-1", "cp1252", "shift_jis", "gb18030", "koi8-r"]
PIECES = st.integers(1, 9)  # bytes read at a time, instead of millions
SINGLE = [bytes([byte]) for byte in range(256)]
PAIRS = BpeTokenizer(
    "pairs",
    OWN_PATTERN,
    [*SINGLE, b"th", b" c", b"the", b"at", b" cat", b"\n\n", "山".encode(), b"'s"],
)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own."""
    monkeypatch.setattr(project, "DATA", tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the examples of property tests."""
    return tmp_path_factory.mktemp("room")


@contextmanager
def reading_pieces_of(size: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "PIECE_SIZE", size)
        yield


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def parts_of(dataset: Dataset) -> tuple[str, str]:
    """The text in train.bin and in val.bin."""
    dtype = token_dtype(dataset.vocab_size)
    train, val = (np.fromfile(dataset.folder / name, dtype) for name in ("train.bin", "val.bin"))
    assert (len(train), len(val)) == (dataset.train_tokens, dataset.val_tokens)
    return dataset.tokenizer.decode(train), dataset.tokenizer.decode(val)


def as_python_reads(data: bytes, encoding: str = "utf-8-sig") -> str:
    return io.TextIOWrapper(
        io.BytesIO(data), encoding
    ).read()  # what open(path, encoding=...) gives


# --- every character arrives --------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(ANY_TEXT, PIECES)
@example("\r", 1)
@example("a\r\nb", 2)
@example("\ufeff\ufeffa", 2)
@example("1234567890", 4)
def test_token_files_hold_the_text_as_python_reads_it(room: Path, text: str, piece: int) -> None:
    path = written(room / "text.txt", text)
    expected = as_python_reads(path.read_bytes())
    assume(expected)
    with reading_pieces_of(piece):
        dataset = prepare_dataset([path], room / "ids")
    train, val = parts_of(dataset)
    assert train + val == expected
    assert len(train) == int(0.9 * len(expected))
    assert dataset.tokenizer.characters == "".join(sorted(set(expected)))


@settings(max_examples=60)
@given(ANY_TEXT, PIECES, st.sampled_from(ENCODINGS))
def test_other_encodings_are_read_as_python_reads_them(
    room: Path, text: str, piece: int, encoding: str
) -> None:
    path = written(room / "text.txt", text.encode(encoding, "ignore"))
    expected = as_python_reads(path.read_bytes(), encoding)
    assume(expected)
    with reading_pieces_of(piece):
        assert "".join(parts_of(prepare_dataset([path], room / "ids", encoding))) == expected


@settings(max_examples=60)
@given(st.lists(ANY_TEXT, min_size=1, max_size=4), PIECES)
@example(["a", "b\n", "c"], 1)
@example(["a\r", "b", ""], 1)
@example(["a", "", "b"], 4)
def test_files_are_joined_with_a_newline_only_where_one_is_missing(
    room: Path, texts: list[str], piece: int
) -> None:
    paths = [written(room / f"{i}.txt", text) for i, text in enumerate(texts)]
    expected = ""
    for text in map(as_python_reads, map(str.encode, texts)):
        joint = "\n" if text and expected and not expected.endswith("\n") else ""
        expected += joint + text
    assume(expected)
    with reading_pieces_of(piece):
        assert "".join(parts_of(prepare_dataset(paths, room / "ids"))) == expected


def test_the_first_characters_train_and_the_last_tenth_is_kept_apart(tmp_path: Path) -> None:
    dataset = open_texts([str(written(tmp_path / "abc.txt", "abcdefghijklmnopqrs"))])
    assert parts_of(dataset) == ("abcdefghijklmnopq", "rs")
    assert (dataset.folder / "train.bin").read_bytes() == np.arange(17, dtype="<u2").tobytes()


def test_a_folder_stands_for_its_txt_files_in_order_of_name(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    (folder / "deep.txt").mkdir(parents=True)
    for name, text in {
        "b.txt": "B",
        "a.txt": "A",
        "deep.txt/c.txt": "C",
        "notes.md": "no",
        "d.txt.bak": "no",
    }.items():
        written(folder / name, text)
    assert "".join(parts_of(open_texts([str(folder)]))) == "A\nB\nC"
    assert "".join(parts_of(open_texts([str(folder / "b.txt"), str(folder)]))) == "B\nA\nB\nC"


def test_standard_input_is_a_text_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"\xef\xbb\xbfpiped \xe2\x82\xac\r\n")
    os.close(writer)
    with os.fdopen(reader, encoding="ascii") as pipe:  # the locale of the terminal does not matter
        monkeypatch.setattr(sys, "stdin", pipe)
        dataset = open_texts([str(written(tmp_path / "first.txt", "first")), "-"])
    assert "".join(parts_of(dataset)) == "first\npiped €\n"


def test_memory_stays_flat_whatever_the_size_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    with path.open("wb") as file:
        for _ in range(30):
            file.write(b"All work and no play makes Jack a dull boy.\r\n" * 23_301)  # a megabyte
    with reading_pieces_of(1 << 18):
        tracemalloc.start()
        dataset = open_texts([str(path)])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert dataset.train_tokens + dataset.val_tokens == 30 * 23_301 * 44
    assert peak < 8 << 20 < path.stat().st_size / 3


def test_a_given_vocabulary_is_kept_whatever_the_text_uses_of_it(
    tmp_path: Path, refused: Callable
) -> None:
    tokenizer = CharTokenizer("abcdefg")
    dataset = open_texts([str(written(tmp_path / "x.txt", "gagabecda"))], tokenizer=tokenizer)
    assert dataset.tokenizer.characters == "abcdefg" and "".join(parts_of(dataset)) == "gagabecda"
    path = written(tmp_path / "y.txt", "abc xyz\n")
    with refused("5 characters", r"'\n' ' ' 'x' 'y' 'z'"):
        open_texts([str(path)], tokenizer=tokenizer)


def test_of_a_big_text_no_more_is_held_out_than_a_loss_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "MAX_VALIDATION_CHARACTERS", 7)
    text = "".join(map(chr, range(40, 110)))
    assert parts_of(open_texts([str(written(tmp_path / "big.txt", text))]))[1] == text[-7:]
    assert parts_of(open_texts([str(written(tmp_path / "small.txt", text[:60]))]))[1] == text[54:60]


# --- and only once ------------------------------------------------------------------------------------------------


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_ids_are_made_once_while_the_text_is_the_same(tmp_path: Path, data: Path) -> None:
    path = written(tmp_path / "novel.txt", "It was a dark and stormy night")
    first = open_texts([str(path)])
    before = stamps(first.folder)
    assert set(before) == {"train.bin", "val.bin", "tokenizer.json", "prepared.json"}
    os.utime(path, (0, 0))  # the text counts, not its date
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "prepare_texts", None)
        assert open_texts([str(path)]).folder == first.folder
        assert (
            open_texts([str(path)], tokenizer=first.tokenizer).folder == first.folder
        )  # as a checkpoint brings it
    assert stamps(first.folder) == before
    assert [folder.name for folder in (data / "cache").iterdir()] == [first.folder.name]


def test_ids_are_made_anew_when_anything_changes(tmp_path: Path, data: Path) -> None:
    one, two = (
        written(tmp_path / f"{name}.txt", text)
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
    written(one, "first nights")
    folders.append(open_texts([str(one)]).folder)
    written(one, "First night")
    folders.append(open_texts([str(one)]).folder)
    assert len(set(folders)) == len(folders) == len(list((data / "cache").iterdir()))
    assert parts_of(open_texts([str(one)]))[0] == "First nig"


def test_a_cached_text_is_a_dataset_under_the_name_it_reports(tmp_path: Path) -> None:
    dataset = open_texts([str(written(tmp_path / "novel.txt", "It was a dark and stormy night"))])
    again = open_dataset(dataset.name)
    assert dataset.name.startswith("cache/novel-")
    assert again.folder == dataset.folder and parts_of(again) == parts_of(dataset)


@pytest.mark.parametrize("content", ["", b"not utf-8 \xff"])
def test_a_failed_preparation_leaves_nothing_behind(
    content: str | bytes, tmp_path: Path, data: Path
) -> None:
    good = open_texts([str(written(tmp_path / "good.txt", "good"))])
    for words in (["bad.txt"], ["bad.txt", "good.txt"], ["good.txt", "missing.txt"]):
        if content or words != [
            "bad.txt",
            "good.txt",
        ]:  # an empty file beside a full one is no mistake
            written(tmp_path / "bad.txt", content)
            with pytest.raises(UserError):
                open_texts([str(tmp_path / word) for word in words])
    assert list((data / "cache").iterdir()) == [good.folder]


def test_a_text_is_called_what_its_user_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = tmp_path / "letters"
    book.mkdir()
    files = [
        written(folder / f"{name}.txt", name)
        for folder, name in ((book, "one"), (tmp_path, "diary"), (tmp_path, "x"))
    ]
    monkeypatch.chdir(tmp_path)
    first = open_texts(["letters", "./diary.txt"])
    assert first.title == "letters/ and diary.txt"
    assert (
        open_dataset(first.name).title == "letters/ and diary.txt"
    )  # as a run that goes on opens it
    assert open_texts(["diary.txt"]).title == "diary.txt"
    assert open_texts([str(files[1]), "letters", "x.txt"]).title == "diary.txt, letters/ and x.txt"
    assert open_texts(["x.txt"] * 9).title == "x.txt, x.txt and 7 more"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped in")))
    piped = open_texts(["-"])
    assert piped.title == open_dataset(piped.name).title == "standard input"


def test_a_cache_of_an_older_kqv_goes_on_working(tmp_path: Path) -> None:
    path = written(tmp_path / "novel.txt", "It was a dark and stormy night")
    dataset = open_texts([str(path)])
    (dataset.folder / "prepared.json").unlink()
    before = stamps(dataset.folder)
    assert open_dataset(dataset.name).title == dataset.name
    assert open_texts([str(path)]).title == "novel.txt" and stamps(dataset.folder) == before


def test_a_text_whose_ids_are_gone_is_named_with_the_command_that_helps(
    tmp_path: Path, refused: Callable
) -> None:
    path = written(tmp_path / "my novel.txt", "It was a dark and stormy night")
    dataset = open_texts([str(path)], "latin-1")
    assert dataset.sources == [str(path), "--encoding=latin-1"]
    again = open_dataset(dataset.name, sources=dataset.sources, again="python train.py")
    assert again.folder == dataset.folder
    shutil.rmtree(dataset.folder)
    with refused("my novel.txt", "gone", "prepare the text again with python train.py"):
        open_dataset(dataset.name, sources=dataset.sources, again="python train.py")


def test_what_a_checkpoint_calls_a_source_is_a_text_and_never_run() -> None:
    words = [
        "/novel.txt",
        "/evil.py",
        "evil.py",
        "--text=/own.py",
        "--out_dir=/",
        "--endings=md",
        "-",
        "relative.txt",
        5,
    ]
    assert known_sources(words) == ["/novel.txt", "--text=/own.py", "--endings=md", "-"]
    assert known_sources("novel.txt") == known_sources(None) == []


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
def test_damaged_ids_are_made_again_and_said_so(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "novel.txt", "It was a dark and stormy night. " * 20)
    dataset = open_texts([str(path)])
    before = {file.name: file.read_bytes() for file in dataset.folder.iterdir()}
    capsys.readouterr()
    DAMAGES[damage](dataset.folder)
    assert open_texts([str(path)]).folder == dataset.folder
    assert capsys.readouterr().err == f"{dataset.folder} is damaged: the text is prepared again\n"
    assert {file.name: file.read_bytes() for file in dataset.folder.iterdir()} == before


def test_ids_of_a_dataset_that_are_cut_short_are_refused_with_what_helps(
    data: Path, refused: Callable
) -> None:
    folder = data / "own"
    folder.mkdir(parents=True)
    prepare_dataset([written(folder / "input.txt", "to be or not to be" * 9)], folder)
    assert open_dataset("own").title == "own"
    os.truncate(folder / "train.bin", 100)
    with refused(
        f"{folder / 'train'}.bin has 100 bytes, and 290 were written",
        "prepare it again",
        "prepared.json",
    ):
        open_dataset("own")
    written(folder / "prepare.py", "")
    with refused(f"run {folder / 'prepare.py'} again"):
        open_dataset("own")


def test_a_large_cache_is_told_with_how_to_clear_it(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "novel.txt", "It was a dark and stormy night. " * 2000)
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


# --- a text that changes meanwhile --------------------------------------------------------------------------------


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("one line more\n")


def replace(path: Path) -> None:
    os.replace(written(path.with_name("new"), "another text, as an editor saves it\n" * 300), path)


CHANGES = {
    "append": append,
    "rewrite": lambda path: written(
        path, path.read_text().replace("cat", "dog")
    ),  # as long as it was
    "half a character": lambda path: written(path, path.read_bytes() + b"\xc3"),
    "truncate": lambda path: os.truncate(path, 1000),
    "empty": lambda path: os.truncate(path, 0),
    "replace": replace,
}


@contextmanager
def changing(place: str, change: Callable[[], object]) -> Iterator[None]:
    """Make a change once, in the middle of a pass over a text."""
    with pytest.MonkeyPatch.context() as patch:
        changes, move = iter([change]), ReadingBar.move

        def move_and_change(bar: ReadingBar, done: int, text: str = "") -> None:
            if bar.what == place and 2 * done > bar.total:
                next(changes, lambda: None)()
            move(bar, done, text)

        patch.setattr(ReadingBar, "move", move_and_change)
        patch.setattr(formats, "PIECE_SIZE", 1 << 10)
        yield


PLACES = ("hashing", "reading", "training the tokenizer", "tokenizing")
# (What replaces a file while it is encoded is another file than the one that is open: see the next test.)
CHANGED = [each for each in itertools.product(PLACES, CHANGES) if each != ("tokenizing", "replace")]


@pytest.mark.parametrize(("place", "change"), CHANGED)
def test_a_text_that_changes_while_it_is_prepared_is_refused_by_name(
    place: str, change: str, tmp_path: Path, data: Path, refused: Callable
) -> None:
    tokenizer = "char"
    if place == "training the tokenizer":
        pytest.importorskip("rustbpe")
        tokenizer = "bpe:300"
    paths = [
        written(tmp_path / f"{name}.txt", f"the cat of {name}\n" * 500) for name in ("one", "two")
    ]
    words = list(map(str, paths))
    with (
        changing(place, lambda: CHANGES[change](paths[1])),
        refused("two.txt changed while it was read", "again"),
    ):
        open_texts(words, tokenizer=tokenizer)
    assert list((data / "cache").iterdir()) == []
    if change != "half a character":
        text = "\n".join(path.read_text().removesuffix("\n") for path in paths)
        assert "".join(parts_of(open_texts(words, tokenizer=tokenizer))).removesuffix(
            "\n"
        ) == text.removesuffix("\n")


def test_what_is_prepared_is_what_was_hashed_when_another_file_takes_its_place(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "x.txt", "the cat\n" * 500)
    with changing("tokenizing", lambda: replace(path)):
        dataset = open_texts([str(path)])
    assert "".join(parts_of(dataset)) == "the cat\n" * 500
    assert "another" in parts_of(open_texts([str(path)]))[0]


@pytest.mark.parametrize(
    ("before", "after", "part"),
    [("cat", "dog", "'d' (U+0064)"), ("cat é", "dog é", "'d' (U+0064)"), ("cat é", "cat è", "'è' (U+00E8)"),
     ("tea é", "tea te", "10,000 characters")],
)  # fmt: skip
def test_a_change_that_hides_its_date_is_found_by_what_is_there(
    before: str, after: str, part: str, tmp_path: Path, data: Path, refused: Callable
) -> None:
    path = written(tmp_path / "x.txt", f"{before}\n".rjust(10, "a") * 1000)

    def change() -> None:
        state = path.stat()
        written(path, path.read_text().replace(before, after))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert path.stat().st_size == state.st_size

    with (
        changing("tokenizing", change),
        refused("the text changed while it was read", part, "again"),
    ):
        open_texts([str(path)])
    assert list((data / "cache").iterdir()) == []


def test_a_preparation_that_breaks_off_leaves_nothing_behind(
    tmp_path: Path, data: Path, small_disk: Callable[[int], None]
) -> None:
    path = written(tmp_path / "novel.txt", "It was a dark and stormy night. " * 1000)
    small_disk(20_000)
    try:
        with pytest.raises(OSError):
            open_texts([str(path)])
    finally:
        small_disk(1 << 30)
    assert list((data / "cache").iterdir()) == []
    assert sum(map(len, parts_of(open_texts([str(path)])))) == 32_000


def test_a_dataset_is_prepared_by_its_script_the_first_time(data: Path, refused: Callable) -> None:
    folder = data / "tiny"
    folder.mkdir(parents=True)
    project = str(ROOT)
    script = f"""
import sys; sys.path.insert(0, {project!r})
from pathlib import Path
from kqv.text.datasets import prepare_dataset
folder = Path(__file__).parent
with (folder / "runs").open("a") as file: file.write("x")
(folder / "input.txt").write_text("hello tiny world")
prepare_dataset([folder / "input.txt"], folder)
"""
    written(folder / "prepare.py", script)
    for _ in range(2):
        assert "".join(parts_of(open_dataset("tiny"))) == "hello tiny world"
    assert (folder / "runs").read_text() == "x"
    with refused("no dataset tinny", "tiny"):
        open_dataset("tinny")
    (data / "broken").mkdir()
    script = written(data / "broken" / "prepare.py", "raise SystemExit(3)")
    with refused(str(script), "status 3"):
        open_dataset("broken")


def test_a_folder_that_nanogpt_prepared_is_a_dataset(data: Path) -> None:
    folder = data / "from_nanogpt"
    folder.mkdir(parents=True)
    text = "to be or not to be"
    characters = sorted(set(text))
    ids = np.array([characters.index(c) for c in text], dtype=np.uint16)
    ids[:16].tofile(folder / "train.bin")
    ids[16:].tofile(folder / "val.bin")
    meta = {
        "vocab_size": len(characters),
        "itos": dict(enumerate(characters)),
        "stoi": {c: i for i, c in enumerate(characters)},
    }
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    dataset = open_dataset("from_nanogpt")
    assert (dataset.train_tokens, dataset.val_tokens, dataset.vocab_size) == (
        16,
        2,
        len(characters),
    )
    assert "".join(parts_of(dataset)) == text


def test_a_name_cannot_lead_to_a_script_elsewhere(
    data: Path, tmp_path: Path, refused: Callable
) -> None:
    """The name may come from a checkpoint."""
    data.mkdir(exist_ok=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    written(elsewhere / "prepare.py", f"open({str(tmp_path / 'trace')!r}, 'w')")
    for name in (
        str(elsewhere),
        os.path.relpath(elsewhere, data),
        "nothing/../" + os.path.relpath(elsewhere, data),
    ):
        with refused("no dataset"):
            open_dataset(name)
    assert not (tmp_path / "trace").exists()


def test_ids_and_vocabulary_of_two_texts_never_stand_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    """A second preparation of a folder dies after each file that it puts in place."""
    before, after = (
        written(tmp_path / "before.txt", "abc" * 100),
        written(tmp_path / "after.txt", "uvwxyz" * 100),
    )
    for deaths in range(4):
        folder = tmp_path / str(deaths)
        prepare_dataset([before], folder)
        left = iter(range(deaths))

        def replace(old: str, new: str, real: Callable = os.replace, left: Any = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            real(old, new)

        monkeypatch.setattr(os, "replace", replace)
        with contextlib.suppress(KeyboardInterrupt):
            prepare_dataset([after], folder)
        monkeypatch.undo()
        if (folder / "val.bin").exists():
            tokenizer, ids = (
                load_tokenizer(folder),
                [np.fromfile(folder / name, np.uint16) for name in ("train.bin", "val.bin")],
            )
            assert tokenizer.decode(np.concatenate(ids)) in ("abc" * 100, "uvwxyz" * 100)
        else:  # a folder without val.bin is prepared again
            with refused("no dataset", "name a text file"):
                open_dataset(str(folder))


# --- what cannot be a text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "encoding", "parts"),
    [
        ("empty.txt", b"", "utf-8", ["empty.txt", "empty"]),
        ("mark.txt", codecs.BOM_UTF8, "utf-8", ["mark.txt", "empty"]),
        ("missing.txt", None, "utf-8", ["missing.txt", "no such file"]),
        ("n_layer=8", None, "utf-8", ["no such file", "--"]),
        (
            "euro.txt",
            b"10 \x80",
            "utf-8",
            ["euro.txt is not utf-8", "byte 0x80 at offset 3", "--encoding="],
        ),
        (
            "cut.txt",
            "10 €".encode()[:-1],
            "utf-8",
            ["cut.txt is not utf-8", "byte 0xE2 at offset 3"],
        ),
        ("odd.txt", b"a\0b\0c", "utf-16-le", ["odd.txt is not utf-16-le", "byte 0x63 at offset 4"]),
        (
            "bare.txt",
            "no byte order mark".encode("utf-16-le"),
            "utf-16",
            ["bare.txt is not utf-16", "--encoding="],
        ),
        ("x.txt", b"text", "utf-7.5", ["utf-7.5", "utf-16, latin-1"]),
        ("x.txt", b"7465", "hex", ["hex", "utf-16, latin-1"]),
        ("x.txt", b"grkg", "rot13", ["rot13", "utf-16, latin-1"]),
        ("x.txt", b"text", "", ["utf-16, latin-1"]),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_is_no_text_is_refused_by_name(
    name: str,
    content: bytes | None,
    encoding: str,
    parts: list[str],
    tmp_path: Path,
    refused: Callable,
) -> None:
    if content is not None:
        written(tmp_path / name, content)
    with refused(*parts):
        open_texts([str(tmp_path / name)], encoding)


def test_a_folder_without_texts_is_refused_by_name(tmp_path: Path, refused: Callable) -> None:
    written(tmp_path / "notes.md", "text")
    with refused(str(tmp_path), ".txt"):
        open_texts([str(tmp_path)])


BYTES = st.lists(
    st.sampled_from([b"a", b"\r", b"\n", "é€".encode(), "😀".encode(), codecs.BOM_UTF8])
    | st.binary(max_size=2)
)


@settings(max_examples=80)
@given(BYTES.map(b"".join), PIECES)
@example(b"aaaa\xe2\x82", 3)
@example(b"\xef\xbb\xbfab\xff", 4)
@example(b"aaaaaaaaaaaaaa\xe2(", 3)
def test_what_is_not_utf8_is_refused_with_the_byte_and_where_it_stands(
    room: Path, data: bytes, piece: int
) -> None:
    assume(
        data not in (b"", b"\xef", b"\xef\xbb", codecs.BOM_UTF8)
    )  # no text at all: that is another complaint
    path = written(room / "text.txt", data)
    with reading_pieces_of(piece):
        try:
            data.decode()
        except UnicodeDecodeError as error:
            with pytest.raises(
                UserError, match=rf"byte 0x{data[error.start]:02X} at offset {error.start};"
            ):
                prepare_dataset([path], room / "ids")
        else:
            assert "".join(parts_of(prepare_dataset([path], room / "ids"))) == as_python_reads(data)


# --- other tokenizers ---------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(ANY_TEXT, min_size=1, max_size=3), PIECES, st.sampled_from(["bytes", "bpe"]))
@example(["the cat's on the mat\n\n 山。" * 3], 5, "bpe")
def test_ids_are_those_of_the_whole_text_whatever_the_tokenizer(
    room: Path, texts: list[str], piece: int, kind: str
) -> None:
    paths = [written(room / f"{i}.txt", text) for i, text in enumerate(texts)]
    whole = (
        "".join(parts_of(prepare_dataset(paths, room / "ids")))
        if any(map(as_python_reads, map(str.encode, texts)))
        else ""
    )
    assume(whole)
    tokenizer = ByteTokenizer() if kind == "bytes" else PAIRS
    with reading_pieces_of(piece):
        dataset = prepare_dataset(paths, room / "ids", tokenizer=tokenizer)
    cut, dtype = int(0.9 * len(whole)), token_dtype(dataset.vocab_size)
    assert np.fromfile(room / "ids" / "train.bin", dtype).tolist() == tokenizer.encode(whole[:cut])
    assert np.fromfile(room / "ids" / "val.bin", dtype).tolist() == tokenizer.encode(whole[cut:])
    assert load_tokenizer(dataset.folder) == tokenizer == dataset.tokenizer


def test_a_vocabulary_is_learnt_from_the_part_to_train_on(tmp_path: Path) -> None:
    pytest.importorskip("rustbpe")
    path = written(tmp_path / "x.txt", "the cat " * 90 + "zyzy " * 16)
    tokenizer = open_texts([str(path)], tokenizer="bpe:300").tokenizer
    assert tokenizer.name == "bpe:300" and len(tokenizer.encode("the cat the cat")) == 4
    assert len(tokenizer.encode("zyzy")) == 4


def test_each_tokenizer_has_ids_of_its_own(tmp_path: Path, data: Path) -> None:
    path = str(written(tmp_path / "x.txt", "bytes of bytes" * 9))
    names: list[Any] = ["char", "bytes", CharTokenizer("bytes of"), PAIRS]
    folders = [open_texts([path], tokenizer=tokenizer).folder for tokenizer in names]
    assert len(set(folders)) == len(folders)
    assert (
        open_texts([path], tokenizer=ByteTokenizer()).folder == folders[1]
    )  # the same ids, named or given
    assert [open_texts([path], tokenizer=tokenizer).folder for tokenizer in names] == folders


def test_memory_stays_flat_with_byte_pairs_too(tmp_path: Path) -> None:
    path = written(
        tmp_path / "big.txt", "All work and no play makes Jack a dull boy.\r\n" * 300_000
    )
    with reading_pieces_of(1 << 16):
        tracemalloc.start()
        open_texts([str(path)], tokenizer=PAIRS)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 8 << 20 < path.stat().st_size / 1.5


def test_more_tokens_than_uint16_can_count_take_four_bytes(tmp_path: Path) -> None:
    many = BpeTokenizer(
        "many", OWN_PATTERN, SINGLE + [f"{number:06}".encode() for number in range(70_000)]
    )
    dataset = prepare_dataset(
        [written(tmp_path / "x.txt", "069999 " * 20)], tmp_path, tokenizer=many
    )
    ids = open_tokens(tmp_path / "train.bin", dataset.vocab_size, 8)[:]
    assert ids.dtype == np.uint32 and 70_255 in ids and dataset.train_tokens == len(ids)


@pytest.fixture
def gpt2_ids(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as nanoGPT's data/shakespeare/prepare.py leaves it, with another vocabulary in the place of GPT-2's."""
    monkeypatch.setattr(datasets, "load_tiktoken", {"gpt2": PAIRS}.__getitem__)
    folder = data / "shakespeare"
    folder.mkdir(parents=True)
    for name in ("train", "val"):
        np.array(PAIRS.encode(f"the {name} cat"), dtype=np.uint16).tofile(folder / f"{name}.bin")
    written(folder / "prepare.py", "raise SystemExit(3)")
    return folder


def test_a_folder_without_a_vocabulary_has_gpt2s_as_nanogpt_assumes(
    gpt2_ids: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = open_dataset("shakespeare")
    assert parts_of(dataset) == ("the train cat", "the val cat") and dataset.tokenizer == PAIRS
    assert "taken for those of GPT-2" in capsys.readouterr().err


def test_another_tokenizer_than_a_folder_has_reads_its_text(
    gpt2_ids: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    assert open_dataset("shakespeare", "gpt2").folder == gpt2_ids
    with refused("tokens of gpt2 and no input.txt", "name a text file"):
        open_dataset("shakespeare", "bytes")
    written(gpt2_ids / "input.txt", "the whole cat")
    monkeypatch.setattr(datasets, "load_tiktoken", None)  # its files are not needed for another
    dataset = open_dataset("shakespeare", "bytes")
    assert dataset.tokenizer == ByteTokenizer() and "".join(parts_of(dataset)) == "the whole cat"


def test_the_tokenizer_of_a_checkpoint_saves_fetching_gpt2s_again(
    gpt2_ids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_tiktoken", None)
    own = BpeTokenizer("gpt2", OWN_PATTERN, PAIRS.tokens)
    assert open_dataset("shakespeare", own).tokenizer is own
