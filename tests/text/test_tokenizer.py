"""What a user can rely on of vocabularies: any text comes back, ids are nanoGPT's, and nothing unknown slips through."""

import contextlib
import json
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.hostile import Hostile
from hypothesis import given
from hypothesis import strategies as st

from kqv.errors import UserError
from kqv.text.characters import CODE_POINTS, CharTokenizer
from kqv.text.registry import load_tokenizer, tokenizer_from_dict
from kqv.text.tokenizer import token_dtype

TEXTS = st.text(min_size=1)


@given(TEXTS)
def test_any_text_comes_back_from_its_ids(text: str) -> None:
    tokenizer = CharTokenizer.of(text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text) and tokenizer.vocab_size == len(set(text))


@given(TEXTS)
def test_ids_are_those_of_nanogpt(text: str) -> None:
    chars = sorted(list(set(text)))  # two lines of nanoGPT's data/shakespeare_char/prepare.py
    stoi = {ch: i for i, ch in enumerate(chars)}
    assert CharTokenizer.of(text).encode(text) == [stoi[c] for c in text]


@given(TEXTS)
def test_a_vocabulary_travels_as_plain_data(text: str) -> None:
    tokenizer = CharTokenizer.of(text)
    for data in (tokenizer.to_dict(), json.loads(json.dumps(tokenizer.to_dict()))):
        again = tokenizer_from_dict(data)
        assert again.characters == tokenizer.characters and again.encode(text) == tokenizer.encode(
            text
        )


@given(TEXTS)
def test_the_table_for_big_texts_gives_the_same_ids(text: str) -> None:
    tokenizer = CharTokenizer.of(text)
    table = tokenizer.id_table()
    assert table.shape == (CODE_POINTS,)
    assert table[[ord(character) for character in text]].tolist() == tokenizer.encode(text)


def test_a_vocabulary_beyond_uint16_still_gives_each_character_its_own_id() -> None:
    tokenizer = CharTokenizer.of(map(chr, range(0x10000, 0x21000)))
    assert (
        tokenizer.id_table()[0x20FFF]
        == tokenizer.encode(chr(0x20FFF))[0]
        == 0x10FFF
        > np.iinfo(np.uint16).max
    )


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(1, np.uint16), (65536, np.uint16), (65537, np.uint32)]
)
def test_ids_take_two_bytes_as_in_nanogpt_unless_there_are_too_many(
    vocab_size: int, dtype: type
) -> None:
    assert token_dtype(vocab_size) is dtype
    assert np.iinfo(dtype).max >= vocab_size - 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hello W", ["'W'", "U+0057", "position 6"]),
        ("😀", ["'😀'", "U+1F600", "position 0"]),
        ("h\n", ["U+000A", "position 1"]),
    ],
)
def test_an_unknown_character_is_named_with_its_place(
    text: str, parts: list[str], refused: Callable
) -> None:
    with refused(*parts):
        CharTokenizer.of("helo wrd").encode(text)


@given(TEXTS, st.text())
def test_known_characters_can_be_taken_without_the_unknown(vocabulary: str, text: str) -> None:
    tokenizer = CharTokenizer.of(vocabulary)
    ids, unknown = tokenizer.encode_known(text)
    assert tokenizer.decode(ids) == "".join(
        character for character in text if character in vocabulary
    )
    assert unknown == "".join(character for character in text if character not in vocabulary)


def test_ids_are_places_in_any_order() -> None:
    tokenizer = CharTokenizer("cab")
    assert tokenizer.encode("abc") == [1, 2, 0] and tokenizer.decode([0, 1, 2]) == "cab"


GARBAGE = [
    None, [], {}, "char", 5, {"kind": "char"}, {"characters": "ab"}, {"kind": "char", "characters": ""},
    {"kind": "char", "characters": "aba"},
    {"kind": "char", "characters": ["a"]}, {"kind": "char", "characters": None}, {"kind": "gpt2", "characters": "ab"},
    {"kind": None, "characters": "ab"}, [{"kind": "char", "characters": "ab"}],
]  # fmt: skip


@pytest.mark.parametrize("data", GARBAGE, ids=repr)
def test_data_that_is_no_vocabulary_is_refused(
    data: Any, tmp_path: Path, refused: Callable
) -> None:
    with refused("vocabulary"):
        tokenizer_from_dict(data)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data))
    with refused(str(path), "vocabulary"):
        load_tokenizer(path.parent)


@pytest.mark.parametrize(
    "content", [b"", b"not json", b'{"kind": "char", "chara', b"\xff\xfe", b"[" * 10**6]
)
def test_a_damaged_tokenizer_file_is_refused_by_name(
    content: bytes, tmp_path: Path, refused: Callable
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with refused(str(path), "cannot be used"):
        load_tokenizer(path.parent)


def test_a_missing_tokenizer_file_says_how_to_make_it(tmp_path: Path, refused: Callable) -> None:
    with refused(str(tmp_path / "tokenizer.json"), "prepare.py"):
        load_tokenizer(tmp_path)


# --- nanoGPT's meta.pkl -------------------------------------------------------------------------------------------


def nanogpt_meta(characters: str) -> dict[str, Any]:
    """What nanoGPT's prepare.py writes."""
    return {
        "vocab_size": len(characters),
        "itos": dict(enumerate(characters)),
        "stoi": {c: i for i, c in enumerate(characters)},
    }


@pytest.mark.parametrize("characters", ["\n abc", "zyx", "é\U0001f600a"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nanogpts_vocabulary_is_read(characters: str, protocol: int, tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(nanogpt_meta(characters), protocol))
    assert load_tokenizer(tmp_path).characters == characters


def test_our_own_vocabulary_comes_before_nanogpts(tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(nanogpt_meta("abc")))
    (tmp_path / "tokenizer.json").write_text(json.dumps(CharTokenizer("xyz").to_dict()))
    assert load_tokenizer(tmp_path).characters == "xyz"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_vocabulary_is_refused_and_not_run(
    protocol: int, tmp_path: Path, refused: Callable
) -> None:
    trace = tmp_path / "code was run"
    data = pickle.dumps({**nanogpt_meta("abc"), "surprise": Hostile(trace)}, protocol)
    pickle.loads(data)
    assert trace.exists()  # so it is hostile to who is careless
    trace.unlink()
    (tmp_path / "meta.pkl").write_bytes(data)
    with refused(str(tmp_path / "meta.pkl"), "open", "nothing in it was run"):
        load_tokenizer(tmp_path)
    assert not trace.exists()


BAD_PICKLES = {
    "nothing": b"", "no pickle": b"abc", "half of one": pickle.dumps(nanogpt_meta("abc"))[:-9], "a number": pickle.dumps(5),
    "no itos": pickle.dumps({"vocab_size": 3}), "a hole": pickle.dumps({"itos": {0: "a", 2: "b"}}),
    "words": pickle.dumps({"itos": {0: "a", 1: "bc"}}), "numbers": pickle.dumps({"itos": {0: 1, 1: 2}}),
    "a character twice": pickle.dumps({"itos": {0: "a", 1: "a"}}), "none": pickle.dumps({"itos": {}}),
    "a memory of four billion": b"\x80\x02}r\xff\xff\xff\xff.", "no end": b"\x80\x02" + b"]" * 10**6,
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_PICKLES)
def test_a_pickle_that_is_no_vocabulary_is_refused(
    kind: str, tmp_path: Path, refused: Callable
) -> None:
    (tmp_path / "meta.pkl").write_bytes(BAD_PICKLES[kind])
    with refused(str(tmp_path / "meta.pkl"), "cannot be used"):
        load_tokenizer(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
@pytest.mark.parametrize("name", ["meta.pkl", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_a_pipe_or_a_device_is_no_vocabulary_and_is_not_waited_for(
    name: str, kind: str, tmp_path: Path, refused: Callable
) -> None:
    os.mkfifo(tmp_path / name) if kind == "pipe" else (tmp_path / name).symlink_to(kind)
    with refused(str(tmp_path / name), "a device or a pipe, not a file"):
        load_tokenizer(tmp_path)


def test_the_characters_of_any_language_may_be_in_one_vocabulary(tmp_path: Path) -> None:
    characters = "".join(map(chr, range(0x20, 0xD800))) + "".join(map(chr, range(0x20000, 0x2A6DF)))
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(nanogpt_meta(characters)))
    assert load_tokenizer(tmp_path).characters == characters


@given(st.binary(max_size=60))
def test_any_bytes_are_a_vocabulary_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("meta.pkl", "tokenizer.json"):
            (Path(folder) / name).write_bytes(data)
            with contextlib.suppress(UserError):
                load_tokenizer(Path(folder))
