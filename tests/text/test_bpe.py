"""What a user can rely on of byte pairs: ids are tiktoken's, and nothing hostile is accepted."""

import base64
import json
import tracemalloc
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import tiktoken
import tiktoken_ext.openai_public as published
from helpers.byte_pairs import ALL_BYTES, ENGLISH, HARD_TEXTS, split_as, trained
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kqv.errors import UserError
from kqv.text.bpe import MAX_WHITE_SPACE, PATTERNS, BpeTokenizer
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.registry import tokenizer_from_dict
from kqv.text.tokenizer import Tokenizer

TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": ByteTokenizer,
    "bpe:300": trained,
    "bpe:280": lambda: trained(280),
    "cl100k_base": lambda: split_as("cl100k_base"),
    "o200k_base": lambda: split_as("o200k_base"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=HARD_TEXTS)
@example(text="<|end|> <|endoftext|>")
@example(text="\x00" * 9)
def test_any_text_comes_back_from_its_ids(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and tokenizer.knows(text)
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert sum(tokenizer.characters_begun()[ids]) == len(text)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_vocabulary_travels_as_plain_data(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    for data in (tokenizer.to_dict(), json.loads(json.dumps(tokenizer.to_dict()))):
        again = tokenizer_from_dict(data)
        assert again == tokenizer and (again.kind, again.name) == (tokenizer.kind, tokenizer.name)
        assert again.encode(ENGLISH) == tokenizer.encode(ENGLISH)
    assert tokenizer != CharTokenizer("ab") and tokenizer != "bytes"


@given(HARD_TEXTS)
@settings(max_examples=50)
def test_ids_are_those_of_rustbpe_which_trained_them(text: str) -> None:
    rustbpe = pytest.importorskip("rustbpe")
    learner = rustbpe.Tokenizer()
    learner.train_from_iterator([ENGLISH, "山水文字。é😀"], 300, pattern=PATTERNS["gpt2"])
    assert learner.vocab_size == trained().vocab_size == 300
    assert learner.encode(text) == trained().encode(text)


# --- the patterns ---------------------------------------------------------------------------------


@cache
def published_pattern(name: str) -> str:
    """What tiktoken has for the encoding of this name; its files are not downloaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "load_tiktoken_bpe", lambda *_, **__: {})
        patch.setattr(published, "data_gym_to_mergeable_bpe_ranks", lambda *_, **__: {})
        return published.ENCODING_CONSTRUCTORS[name]()["pat_str"]


@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
@given(text=HARD_TEXTS)
@example(text=ENGLISH)
@example(text="I'LL he'd'S don'T \n\n x  y 12345 !!\n/ \u0301a  ")
@example(text="12345 1234567")
def test_texts_are_split_as_by_tiktokens_own_patterns(name: str, text: str) -> None:
    # Whatever stands in the text is a token, so that the ids are the pieces.
    parts = {
        text[i:j].encode()
        for i in range(len(text))
        for j in range(i + 1, min(i + 60, len(text)) + 1)
    }
    tokens = list(dict.fromkeys([bytes([byte]) for byte in range(256)] + sorted(parts)))
    ranks = {token: rank for rank, token in enumerate(tokens)}
    reference = tiktoken.Encoding(
        name, pat_str=published_pattern(name), mergeable_ranks=ranks, special_tokens={}
    )
    assert BpeTokenizer(name, PATTERNS[name], tokens).encode(text) == reference.encode_ordinary(
        text
    )


# --- prompts --------------------------------------------------------------------------------------


def test_a_special_token_is_one_in_a_prompt_and_a_text_elsewhere() -> None:
    tokenizer = split_as("gpt2")
    assert tokenizer.encode_prompt("<|end|>a") == [400, *tokenizer.encode("a")]
    assert 400 not in tokenizer.encode("<|end|>a")
    assert tokenizer.decode([400, 97]) == "<|end|>a"
    assert (
        tokenizer.vocab_size == 401
        and tokenizer.token_bytes(350) == b""
        and tokenizer.characters_begun()[400] == 0
    )
    assert ByteTokenizer().encode_prompt("<|end|>") == list(b"<|end|>")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_is_no_character_is_named_or_left_out(name: str, refused: Callable) -> None:
    tokenizer = TOKENIZERS[name]()
    with refused("U+DCE9", "position 2"):
        tokenizer.encode("ab\udce9c")
    assert not tokenizer.knows("ab\udce9c")
    assert tokenizer.encode_known("ab\udce9c") == (tokenizer.encode("abc"), "\udce9")


def test_white_space_without_end_is_refused_before_tiktoken_breaks(refused: Callable) -> None:
    with refused("white spaces in a row at position 1", "bytes"):
        trained().encode("x" + " " * MAX_WHITE_SPACE + "x")
    text = "x" + " " * (MAX_WHITE_SPACE - 1) + "x"
    assert trained().decode(trained().encode(text)) == text


# --- data that is no vocabulary -------------------------------------------------------------------


def with_tokens(*tokens: bytes, **more: Any) -> dict[str, Any]:
    text = " ".join(base64.b64encode(token).decode() for token in tokens)
    return {
        "kind": "bpe",
        "name": "x",
        "pattern": PATTERNS["gpt2"],
        "tokens": text,
        "special": {},
        **more,
    }


BAD = {
    "no tokens": with_tokens(),
    "a byte is missing": with_tokens(*ALL_BYTES[1:]),
    "one is there twice": with_tokens(*ALL_BYTES, b"a"),
    "one is too long": with_tokens(*ALL_BYTES, b"ab" * 9999),
    "another pattern": with_tokens(*ALL_BYTES, pattern="(a+)+$"),
    "not base64": with_tokens(*ALL_BYTES, tokens="???"),
    "tokens as a list": with_tokens(*ALL_BYTES, tokens=["YQ=="]),
    "tokens in Greek": with_tokens(*ALL_BYTES, tokens="αβγ"),
    "special without an id": with_tokens(*ALL_BYTES, special={"<e>": "5"}),
    "special with the id of a byte": with_tokens(*ALL_BYTES, special={"<e>": 5}),
    "special far away": with_tokens(*ALL_BYTES, special={"<e>": 10**9}),
    "special below zero": with_tokens(*ALL_BYTES, special={"<e>": -1}),
    "special twice": with_tokens(*ALL_BYTES, special={"<e>": 256, "<f>": 256}),
    "special without a name": with_tokens(*ALL_BYTES, special={"": 256}),
    "special True": with_tokens(*ALL_BYTES, special={"<e>": True}),
    "no name": with_tokens(*ALL_BYTES, name=None),
    "a name of two lines": with_tokens(*ALL_BYTES, name="gpt2\nhello"),
    "half a character as a name": with_tokens(*ALL_BYTES, special={"\ud800": 256}),
    "too many": with_tokens(*ALL_BYTES, *(i.to_bytes(4, "big") for i in range(1 << 20))),
}


@pytest.mark.parametrize("kind", BAD)
def test_data_that_is_no_vocabulary_is_refused(kind: str, refused: Callable) -> None:
    with refused():
        tokenizer_from_dict(BAD[kind])


TOO_LARGE = {
    "a long token": with_tokens(*ALL_BYTES, b"ab" * (1 << 15)),
    "a million tokens": with_tokens(*ALL_BYTES, tokens="YQ== " * 10**6),
    "long tokens": with_tokens(
        *ALL_BYTES,
        *(bytes([byte]) * 4096 for byte in range(256)),
        *(b"a" * i for i in range(2, 3000)),
    ),
    "many special ones": with_tokens(*ALL_BYTES, special={f"<{i}>": 256 + i for i in range(5000)}),
}


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_a_vocabulary_larger_than_any_is_refused_before_work_is_done(
    kind: str, refused: Callable
) -> None:
    tracemalloc.start()
    with refused("at most"):
        tokenizer_from_dict(TOO_LARGE[kind])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 << 20


SPOILT = st.text() | st.dictionaries(st.text(), st.integers())


@given(st.dictionaries(st.sampled_from(["name", "pattern", "tokens", "special"]), SPOILT))
def test_any_data_is_a_vocabulary_or_refused(data: dict) -> None:
    good = trained().to_dict()
    try:
        tokenizer = tokenizer_from_dict({**good, **data})
    except UserError:
        return
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"
