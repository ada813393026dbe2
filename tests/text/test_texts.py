"""What a user can rely on when a text changes while it is read: it is refused by name."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.texts import text_of, texts_of, write

from kqv.progress import LongBar
from kqv.text import formats
from kqv.text.datasets import open_texts


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("one line more\n")


def replace(path: Path) -> None:
    os.replace(write(path.with_name("new"), "another text, as an editor saves it\n" * 300), path)


CHANGES = {
    "append": append,
    "rewrite with the same length": lambda path: write(
        path, path.read_text().replace("cat", "dog")
    ),
    "half a character": lambda path: write(path, path.read_bytes() + b"\xc3"),
    "truncate": lambda path: os.truncate(path, 1000),
    "empty": lambda path: os.truncate(path, 0),
    "replace": replace,
}


@contextmanager
def changing(place: str, change: Callable[[], object]) -> Iterator[None]:
    """Make a change once, in the middle of a pass over a text."""
    with pytest.MonkeyPatch.context() as patch:
        changes, move = iter([change]), LongBar.move

        def move_and_change(bar: LongBar, done: int, text: str = "") -> None:
            if bar.what == place and 2 * done > bar.total:
                next(changes, lambda: None)()
            move(bar, done, text)

        patch.setattr(LongBar, "move", move_and_change)
        patch.setattr(formats, "PIECE_SIZE", 1 << 10)
        yield


PASSES = ("hashing", "reading", "training the tokenizer", "tokenizing")


# While a text is tokenized, its old file stays open when another replaces it: see the next test.
CHANGED = [each for each in itertools.product(PASSES, CHANGES) if each != ("tokenizing", "replace")]


@pytest.mark.parametrize(("place", "change"), CHANGED)
def test_a_text_that_changes_while_it_is_prepared_is_refused_by_name(
    place: str, change: str, tmp_path: Path, data: Path, refused: Callable
) -> None:
    tokenizer = "char"
    if place == "training the tokenizer":
        pytest.importorskip("rustbpe")
        tokenizer = "bpe:300"
    paths = [
        write(tmp_path / f"{name}.txt", f"the cat of {name}\n" * 500) for name in ("one", "two")
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
        again = text_of(open_texts(words, tokenizer=tokenizer))
        assert again.removesuffix("\n") == text.removesuffix("\n")


def test_what_is_prepared_is_what_was_hashed_when_another_file_takes_its_place(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "x.txt", "the cat\n" * 500)
    with changing("tokenizing", lambda: replace(path)):
        dataset = open_texts([str(path)])
    assert text_of(dataset) == "the cat\n" * 500
    assert "another" in texts_of(open_texts([str(path)]))[0]


@pytest.mark.parametrize(
    ("before", "after", "part"),
    [
        ("cat", "dog", "'d' (U+0064)"),
        ("cat é", "dog é", "'d' (U+0064)"),
        ("cat é", "cat è", "'è' (U+00E8)"),
        ("tea é", "tea te", "10,000 characters"),
    ],
)
def test_a_change_that_hides_its_date_is_found_by_what_is_there(
    before: str, after: str, part: str, tmp_path: Path, data: Path, refused: Callable
) -> None:
    path = write(tmp_path / "x.txt", f"{before}\n".rjust(10, "a") * 1000)

    def change() -> None:
        state = path.stat()
        write(path, path.read_text().replace(before, after))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert path.stat().st_size == state.st_size

    with (
        changing("tokenizing", change),
        refused("the text changed while it was read", part, "again"),
    ):
        open_texts([str(path)])
    assert list((data / "cache").iterdir()) == []
