"""What a model can rely on of markers: U+0002, U+0003 and U+001A have ids of their own."""

import pytest
from helpers.byte_pairs import PAIRS, WITH_END, trained
from hypothesis import given
from hypothesis import strategies as st

from kqv.errors import UserError
from kqv.text.bpe_training import train_bpe
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.registry import make_tokenizer, tokenizer_from_dict
from kqv.text.symbols import SymbolTokenizer
from kqv.text.tokenizer import DOCUMENT_END, MASK, PAIR_MARKERS, TARGET_BEGIN, Tokenizer

TOKENIZERS: list[Tokenizer] = [
    CharTokenizer.of("the cat"),
    ByteTokenizer(),
    PAIRS,
    WITH_END,
    SymbolTokenizer.of(["the", "cat"]),
]


def name(tokenizer: Tokenizer) -> str:
    return tokenizer.name


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=name)
def test_markers_have_ids_that_come_back_as_these_characters(tokenizer: Tokenizer) -> None:
    marked = tokenizer.with_markers(PAIR_MARKERS + MASK)
    ids = [marked.marker_id(marker) for marker in (TARGET_BEGIN, DOCUMENT_END, MASK)]
    assert len(set(ids)) == 3 and max(ids) < marked.vocab_size
    assert [marked.decode([number]) for number in ids] == [TARGET_BEGIN, DOCUMENT_END, MASK]
    assert tokenizer_from_dict(marked.to_dict()) == marked
    assert marked.with_markers(PAIR_MARKERS + MASK) == marked


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=name)
def test_new_markers_are_the_last_ids_and_change_no_other(tokenizer: Tokenizer) -> None:
    marked = tokenizer.with_markers(PAIR_MARKERS)
    new = marked.vocab_size - tokenizer.vocab_size
    assert new == (0 if tokenizer.kind == "bytes" else 2)
    if new:
        ids = [marked.marker_id(marker) for marker in PAIR_MARKERS]
        assert ids == [tokenizer.vocab_size, tokenizer.vocab_size + 1]
    assert marked.encode("the cat") == tokenizer.encode("the cat")


def test_a_vocabulary_without_a_marker_says_so() -> None:
    for tokenizer in (CharTokenizer.of("ab"), SymbolTokenizer.of("ab")):
        with pytest.raises(UserError, match=r"no token U\+0002"):
            tokenizer.marker_id(TARGET_BEGIN)


@given(st.text("the \x02\x03\x1acat", max_size=20))
def test_byte_pairs_never_make_a_marker_of_a_text(text: str) -> None:
    marked = PAIRS.with_markers(PAIR_MARKERS + MASK)
    ids = marked.encode(text)
    assert max(ids, default=0) < PAIRS.vocab_size and marked.decode(ids) == text


def test_trained_byte_pairs_have_as_many_tokens_as_asked_for_with_markers() -> None:
    assert trained().vocab_size == 300
    text = [f"{word}{DOCUMENT_END}" * 40 for word in ("the cat", "that hat", "a mat")]
    tokenizer = make_tokenizer("bpe:262", "", text, documents=True, markers=PAIR_MARKERS)
    assert tokenizer.vocab_size == 262 and tokenizer.marker_id(TARGET_BEGIN) == 260
    assert tokenizer.marker_id(DOCUMENT_END) == 261
    fewest = train_bpe("bpe:257", text, documents=True, markers=PAIR_MARKERS)
    assert fewest.vocab_size == 258  # 256 bytes and two markers
