"""What a user can rely on of symbols that spaces separate, such as sounds."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqv.text import symbols
from kqv.text.registry import tokenizer_from_dict
from kqv.text.symbols import SymbolTokenizer

SYMBOLS = st.lists(st.text("abɝə͡ːd1", min_size=1, max_size=3), min_size=1)


@given(SYMBOLS)
def test_any_symbols_come_back_from_their_ids(text: list[str]) -> None:
    tokenizer = SymbolTokenizer.of(text)
    ids = tokenizer.encode(" ".join(text))
    assert tokenizer.decode(ids) == " ".join(text)
    assert len(ids) == len(text) and tokenizer.vocab_size == len(set(text))
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == " ".join(text) + " "


@given(SYMBOLS)
def test_a_vocabulary_travels_as_plain_data(text: list[str]) -> None:
    tokenizer = SymbolTokenizer.of(text).with_markers("\x02\x03")
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again == tokenizer and again.encode(" ".join(text)) == tokenizer.encode(" ".join(text))


def test_more_white_space_is_one_space() -> None:
    tokenizer = SymbolTokenizer.of(["a", "b"])
    assert tokenizer.decode(tokenizer.encode(" a\t b  ")) == "a b"


def test_an_unknown_symbol_is_named_with_its_place(refused: Callable) -> None:
    with refused("symbol 'd͡ʒ', number 2", "is not among the 2"):
        SymbolTokenizer.of(["a", "b"]).encode("a d͡ʒ b")


def test_a_target_has_the_characters_of_its_text_and_its_end() -> None:
    tokenizer = SymbolTokenizer.of(["k", "d͡ʒ"]).with_markers("\x02\x03")
    ids = tokenizer.encode("d͡ʒ k \x03")
    assert tokenizer.characters_begun()[ids].sum() == len("d͡ʒ k" + "\x03")


def test_unknown_symbols_can_be_left_out_or_replaced() -> None:
    tokenizer = SymbolTokenizer.of(["a", "b", "\ufffd"])
    assert tokenizer.encode_known("a x b yz") == (tokenizer.encode("a b"), ["x", "yz"])
    assert tokenizer.replace_unknown("a x b yz") == "a \ufffd b \ufffd"
    assert tokenizer.knows("b a") and not tokenizer.knows("ba")


@pytest.mark.parametrize("data", ["", " ", "a a", "a  b", "a\tb", " a", "a\n", None, ["a"], {}])
def test_data_that_is_no_vocabulary_of_symbols_is_refused(data: Any, refused: Callable) -> None:
    with refused("vocabulary"):
        tokenizer_from_dict({"kind": "symbols", "symbols": data})


def test_a_vocabulary_too_large_to_be_meant_is_refused(
    refused: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbols, "MAX_SYMBOLS", 3)
    monkeypatch.setattr(symbols, "MAX_TOTAL_CHARACTERS", 100)
    with refused("at most 3", "bpe:4096"):
        SymbolTokenizer.of("abcd")
    with refused("100 characters together"):
        SymbolTokenizer.of(["a" * 101])
