"""What a user can rely on of characters: any text comes back, and ids are nanoGPT's."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqv.text.characters import CODE_POINTS, CharTokenizer
from kqv.text.registry import tokenizer_from_dict
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
