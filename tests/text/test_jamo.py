"""What a user can rely on when Korean syllables are cut into their letters."""

import json
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqv.text.jamo import JamoTokenizer
from kqv.text.registry import make_tokenizer, tokenizer_from_dict

JAMO = "\u1112\u1161\u11ab"
TEXTS = st.text(f"aéüđ한국어가힣\u0301{JAMO}", min_size=1)


@given(TEXTS)
def test_a_text_comes_back_with_whole_syllables(text: str) -> None:
    tokenizer = JamoTokenizer.of(text)
    ids = tokenizer.encode(text)
    decoded = tokenizer.decode(ids)
    assert unicodedata.normalize("NFC", decoded) == unicodedata.normalize("NFC", text)
    assert decoded == text or set(text) & set(JAMO)  # nothing but jamo is put together
    stored = b"".join(map(tokenizer.token_bytes, ids)).decode()
    assert unicodedata.normalize("NFD", stored) == unicodedata.normalize("NFD", text)


@given(st.text("한국어가힣 ", min_size=1))
def test_how_a_syllable_is_stored_makes_no_difference(text: str) -> None:
    tokenizer = JamoTokenizer.of(text)
    cut = unicodedata.normalize("NFD", text)
    assert JamoTokenizer.of(cut) == tokenizer and tokenizer.encode(cut) == tokenizer.encode(text)


@given(TEXTS)
def test_a_vocabulary_travels_as_plain_data(text: str) -> None:
    tokenizer = make_tokenizer("jamo", text, [], markers="\x02\x03")
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again == tokenizer and again.encode(text) == tokenizer.encode(text)
    assert tokenizer.encode("\x02\x03") == [tokenizer.vocab_size - 2, tokenizer.vocab_size - 1]


def test_syllables_share_their_letters() -> None:
    tokenizer = JamoTokenizer.of("한국")
    assert tokenizer.vocab_size == 6  # the ㄱ that begins a syllable is not the ㄱ that ends one
    assert tokenizer.knows("훈") and not tokenizer.knows("곡")


def test_a_syllable_counts_as_one_character() -> None:
    tokenizer = JamoTokenizer.of("한글 šk")
    assert tokenizer.characters_begun()[tokenizer.encode("한글 šk")].sum() == 5


def test_a_letter_with_a_mark_stays_a_letter_of_its_own() -> None:
    assert JamoTokenizer.of("sšが").vocab_size == 3


def test_an_unknown_character_is_named_where_the_user_wrote_it(refused: Callable) -> None:
    with refused("character '곡' (U+ACE1) at position 2 is not among the 7"):
        JamoTokenizer.of("한국a").encode("국a곡")


def test_unknown_characters_can_be_left_out_or_replaced() -> None:
    tokenizer = JamoTokenizer.of("한\ufffd")
    assert tokenizer.encode_known("하x항") == (tokenizer.encode("하하"), "x\u11bc")
    assert tokenizer.replace_unknown("항") == "\u1112\u1161\ufffd"


@pytest.mark.parametrize("characters", ["", "aa", "한", None, ["a"], {}])
def test_data_that_is_no_vocabulary_of_these_is_refused(characters: Any, refused: Callable) -> None:
    with refused("vocabulary"):
        tokenizer_from_dict({"kind": "jamo", "characters": characters})
