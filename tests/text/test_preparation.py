"""What a user can rely on of a prepared text: every character is in it, 90 % in train.bin."""

import codecs
import io
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.byte_pairs import ALL_BYTES, PAIRS
from helpers.texts import ids_of, reading_pieces_of, text_of, texts_of, write
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kqv.errors import UserError
from kqv.text import preparation
from kqv.text.bpe import OWN_PATTERN, BpeTokenizer
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.datasets import open_texts, prepare_dataset
from kqv.text.registry import load_tokenizer
from kqv.text.token_files import open_tokens

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


def as_python_reads(data: bytes, encoding: str = "utf-8-sig") -> str:
    """What open(path, encoding=...) gives."""
    return io.TextIOWrapper(io.BytesIO(data), encoding).read()


# --- every character arrives ----------------------------------------------------------------------


@settings(max_examples=80)
@given(ANY_TEXT, PIECES)
@example("\r", 1)
@example("a\r\nb", 2)
@example("\ufeff\ufeffa", 2)
@example("1234567890", 4)
def test_token_files_hold_the_text_as_python_reads_it(folder: Path, text: str, piece: int) -> None:
    path = write(folder / "text.txt", text)
    expected = as_python_reads(path.read_bytes())
    assume(expected)
    with reading_pieces_of(piece):
        dataset = prepare_dataset([path], folder / "ids")
    train, val = texts_of(dataset)
    assert train + val == expected
    assert len(train) == int(0.9 * len(expected))
    assert dataset.tokenizer.characters == "".join(sorted(set(expected)))


@settings(max_examples=60)
@given(ANY_TEXT, PIECES, st.sampled_from(ENCODINGS))
def test_other_encodings_are_read_as_python_reads_them_without_a_byte_order_mark(
    folder: Path, text: str, piece: int, encoding: str
) -> None:
    path = write(folder / "text.txt", text.encode(encoding, "ignore"))
    expected = as_python_reads(path.read_bytes(), encoding).removeprefix("\ufeff")
    assume(expected)
    with reading_pieces_of(piece):
        assert text_of(prepare_dataset([path], folder / "ids", encoding)) == expected


@settings(max_examples=60)
@given(st.lists(ANY_TEXT, min_size=1, max_size=4), PIECES)
@example(["a", "b\n", "c"], 1)
@example(["a\r", "b", ""], 1)
@example(["a", "", "b"], 4)
def test_files_are_joined_with_a_newline_only_where_one_is_missing(
    folder: Path, texts: list[str], piece: int
) -> None:
    paths = [write(folder / f"{i}.txt", text) for i, text in enumerate(texts)]
    expected = ""
    for text in map(as_python_reads, map(str.encode, texts)):
        joint = "\n" if text and expected and not expected.endswith("\n") else ""
        expected += joint + text
    assume(expected)
    with reading_pieces_of(piece):
        assert text_of(prepare_dataset(paths, folder / "ids")) == expected


def test_the_first_characters_train_and_the_last_tenth_is_kept_apart(tmp_path: Path) -> None:
    dataset = open_texts([str(write(tmp_path / "abc.txt", "abcdefghijklmnopqrs"))])
    assert texts_of(dataset) == ("abcdefghijklmnopq", "rs")
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
        write(folder / name, text)
    assert text_of(open_texts([str(folder)])) == "A\nB\nC"
    assert text_of(open_texts([str(folder / "b.txt"), str(folder)])) == "B\nA\nB\nC"


def test_standard_input_is_a_text_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"\xef\xbb\xbfpiped \xe2\x82\xac\r\n")
    os.close(writer)
    with os.fdopen(reader, encoding="ascii") as pipe:  # the locale of the terminal does not matter
        monkeypatch.setattr(sys, "stdin", pipe)
        dataset = open_texts([str(write(tmp_path / "first.txt", "first")), "-"])
    assert text_of(dataset) == "first\npiped €\n"


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
    dataset = open_texts([str(write(tmp_path / "x.txt", "gagabecda"))], tokenizer=tokenizer)
    assert dataset.tokenizer.characters == "abcdefg" and text_of(dataset) == "gagabecda"
    path = write(tmp_path / "y.txt", "abc xyz\n")
    with refused("5 characters", r"'\n' ' ' 'x' 'y' 'z'"):
        open_texts([str(path)], tokenizer=tokenizer)


def test_of_a_big_text_no_more_is_held_out_than_a_loss_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "MAX_VALIDATION_CHARACTERS", 7)
    text = "".join(map(chr, range(40, 110)))
    assert texts_of(open_texts([str(write(tmp_path / "big.txt", text))]))[1] == text[-7:]
    assert texts_of(open_texts([str(write(tmp_path / "small.txt", text[:60]))]))[1] == text[54:60]


# --- what cannot be a text ------------------------------------------------------------------------


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
        write(tmp_path / name, content)
    with refused(*parts):
        open_texts([str(tmp_path / name)], encoding)


def test_a_folder_without_texts_is_refused_by_name(tmp_path: Path, refused: Callable) -> None:
    write(tmp_path / "notes.md", "text")
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
    folder: Path, data: bytes, piece: int
) -> None:
    # No text at all is another error.
    assume(data not in (b"", b"\xef", b"\xef\xbb", codecs.BOM_UTF8))
    path = write(folder / "text.txt", data)
    with reading_pieces_of(piece):
        try:
            data.decode()
        except UnicodeDecodeError as error:
            with pytest.raises(
                UserError, match=rf"byte 0x{data[error.start]:02X} at offset {error.start};"
            ):
                prepare_dataset([path], folder / "ids")
        else:
            assert text_of(prepare_dataset([path], folder / "ids")) == as_python_reads(data)


# --- other tokenizers -----------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(ANY_TEXT, min_size=1, max_size=3), PIECES, st.sampled_from(["bytes", "bpe"]))
@example(["the cat's on the mat\n\n 山。" * 3], 5, "bpe")
def test_ids_are_those_of_the_whole_text_whatever_the_tokenizer(
    folder: Path, texts: list[str], piece: int, kind: str
) -> None:
    paths = [write(folder / f"{i}.txt", text) for i, text in enumerate(texts)]
    assume(any(as_python_reads(text.encode()) for text in texts))
    whole = text_of(prepare_dataset(paths, folder / "ids"))
    tokenizer = ByteTokenizer() if kind == "bytes" else PAIRS
    with reading_pieces_of(piece):
        dataset = prepare_dataset(paths, folder / "ids", tokenizer=tokenizer)
    cut = int(0.9 * len(whole))
    assert ids_of(dataset) == (tokenizer.encode(whole[:cut]), tokenizer.encode(whole[cut:]))
    assert load_tokenizer(dataset.folder) == tokenizer == dataset.tokenizer


def test_byte_pairs_are_trained_on_the_training_split(tmp_path: Path) -> None:
    pytest.importorskip("rustbpe")
    path = write(tmp_path / "x.txt", "the cat " * 90 + "zyzy " * 16)
    tokenizer = open_texts([str(path)], tokenizer="bpe:300").tokenizer
    assert tokenizer.name == "bpe:300" and len(tokenizer.encode("the cat the cat")) == 4
    assert len(tokenizer.encode("zyzy")) == 4


def test_memory_stays_flat_with_byte_pairs_too(tmp_path: Path) -> None:
    path = write(tmp_path / "big.txt", "All work and no play makes Jack a dull boy.\r\n" * 150_000)
    with reading_pieces_of(1 << 16):
        tracemalloc.start()
        open_texts([str(path)], tokenizer=PAIRS)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 4 << 20 < path.stat().st_size / 1.5


def test_more_tokens_than_uint16_can_count_take_four_bytes(tmp_path: Path) -> None:
    many = BpeTokenizer(
        "many", OWN_PATTERN, ALL_BYTES + [f"{number:06}".encode() for number in range(70_000)]
    )
    dataset = prepare_dataset([write(tmp_path / "x.txt", "069999 " * 20)], tmp_path, tokenizer=many)
    ids = open_tokens(tmp_path / "train.bin", dataset.vocab_size, 8)[:]
    assert ids.dtype == np.uint32 and 70_255 in ids and dataset.train_tokens == len(ids)
