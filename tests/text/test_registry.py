"""What a user can rely on of tokenizers from names and files: nothing in a file is run."""

import contextlib
import json
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.hostile import Hostile
from helpers.texts import nanogpt_meta
from hypothesis import given
from hypothesis import strategies as st

from kqv.errors import UserError
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.registry import load_tokenizer, make_tokenizer, tokenizer_from_dict

TEXT = "the cat and the hat and the mat\n" * 50


def test_tokenizers_are_made_from_names() -> None:
    assert make_tokenizer("char", "ba", [TEXT]) == CharTokenizer("ab")
    assert make_tokenizer("bytes", "ba", [TEXT]) == ByteTokenizer()


GARBAGE = [
    *(None, [], {}, "char", 5, {"kind": "char"}, {"characters": "ab"}),
    {"kind": "char", "characters": ""},
    {"kind": "char", "characters": "aba"},
    {"kind": "char", "characters": ["a"]},
    {"kind": "char", "characters": None},
    {"kind": "gpt2", "characters": "ab"},
    {"kind": None, "characters": "ab"},
    [{"kind": "char", "characters": "ab"}],
]


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


# --- nanoGPT's meta.pkl ---------------------------------------------------------------------------


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
    assert trace.exists()  # Python's own reader runs it
    trace.unlink()
    (tmp_path / "meta.pkl").write_bytes(data)
    with refused(str(tmp_path / "meta.pkl"), "open", "nothing in it was run"):
        load_tokenizer(tmp_path)
    assert not trace.exists()


BAD_PICKLES = {
    "nothing": b"",
    "no pickle": b"abc",
    "half of one": pickle.dumps(nanogpt_meta("abc"))[:-9],
    "a number": pickle.dumps(5),
    "no itos": pickle.dumps({"vocab_size": 3}),
    "a hole": pickle.dumps({"itos": {0: "a", 2: "b"}}),
    "words": pickle.dumps({"itos": {0: "a", 1: "bc"}}),
    "numbers": pickle.dumps({"itos": {0: 1, 1: 2}}),
    "a character twice": pickle.dumps({"itos": {0: "a", 1: "a"}}),
    "none": pickle.dumps({"itos": {}}),
    "a memo of four billion": b"\x80\x02}r\xff\xff\xff\xff.",
    "no end": b"\x80\x02" + b"]" * 10**5,
}


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
