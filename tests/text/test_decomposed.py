"""What a user can rely on of decomposed characters: a letter and its marks as tokens."""

import json
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqv.text.decomposed import DecomposedTokenizer
from kqv.text.registry import make_tokenizer, tokenizer_from_dict

TEXTS = st.text("aeéüđ한국어がか\u0301\u0323\u0308", min_size=1)


@given(TEXTS)
def test_a_text_comes_back_composed(text: str) -> None:
    tokenizer = DecomposedTokenizer.of(text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    stored = b"".join(map(tokenizer.token_bytes, ids)).decode()
    assert stored == unicodedata.normalize("NFD", text)


@given(TEXTS)
def test_how_a_character_is_stored_makes_no_difference(text: str) -> None:
    tokenizer = DecomposedTokenizer.of(text)
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert DecomposedTokenizer.of(composed) == DecomposedTokenizer.of(decomposed) == tokenizer
    assert tokenizer.encode(composed) == tokenizer.encode(decomposed) == tokenizer.encode(text)


@given(TEXTS)
def test_a_vocabulary_travels_as_plain_data(text: str) -> None:
    tokenizer = make_tokenizer("nfd", text, [], markers="\x02\x03")
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again == tokenizer and again.encode(text) == tokenizer.encode(text)
    assert tokenizer.encode("\x02\x03") == [tokenizer.vocab_size - 2, tokenizer.vocab_size - 1]


def test_syllables_share_their_letters() -> None:
    tokenizer = DecomposedTokenizer.of("한국")
    assert tokenizer.vocab_size == 6  # the ㄱ that begins a syllable is not the ㄱ that ends one
    assert tokenizer.knows("훈") and not tokenizer.knows("곡")


def test_an_unknown_character_is_named_where_the_user_wrote_it(refused: Callable) -> None:
    with refused("character 'ç' (U+00E7) at position 2 is not among the 3"):
        DecomposedTokenizer.of("éc").encode("éeç")


def test_unknown_characters_can_be_left_out_or_replaced() -> None:
    tokenizer = DecomposedTokenizer.of("é\ufffd")
    assert tokenizer.encode_known("èxé") == (tokenizer.encode("eé"), "\u0300x")
    assert tokenizer.replace_unknown("èé") == "e\ufffde\u0301"


@pytest.mark.parametrize("characters", ["", "aa", "é", "한", None, ["a"], {}])
def test_data_that_is_no_vocabulary_of_these_is_refused(characters: Any, refused: Callable) -> None:
    with refused("vocabulary"):
        tokenizer_from_dict({"kind": "nfd", "characters": characters})
