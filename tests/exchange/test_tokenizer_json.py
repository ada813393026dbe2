"""tokenizer.json: the library `tokenizers` encodes and decodes as ours do, and back."""

import json
from typing import Any

import pytest
from helpers.exchange import CHARACTERS, TEXTS, VOCABULARIES, learnt_pairs
from hypothesis import given
from hypothesis import strategies as st

from kqv.errors import UserError
from kqv.exchange.tokenizer_json import from_tokenizer_json, merges, to_tokenizer_json
from kqv.text.characters import CharTokenizer

tokenizers = pytest.importorskip("tokenizers")


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_the_library_of_hugging_face_encodes_and_decodes_as_ours(kind: str) -> None:
    ours = VOCABULARIES[kind]()
    data = to_tokenizer_json(ours)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(data))
    for text in [*TEXTS, "the cat's hat  sat\n\n on 12 mats é"]:
        if ours.knows(text):
            assert theirs.encode(text).ids == ours.encode(text)
            assert theirs.decode(ours.encode(text), skip_special_tokens=False) == text
    assert from_tokenizer_json(data) == ours
    assert from_tokenizer_json(json.loads(theirs.to_str())) == ours


def test_an_unknown_character_raises_and_never_vanishes() -> None:
    data = to_tokenizer_json(CharTokenizer(CHARACTERS))
    theirs = tokenizers.Tokenizer.from_str(json.dumps(data))
    with pytest.raises(Exception, match="Missing"):
        theirs.encode("aQa")


def test_merges_are_found_again_from_the_order_of_the_tokens() -> None:
    data = learnt_pairs()
    ours = to_tokenizer_json(from_tokenizer_json(data))["model"]["merges"]
    assert [tuple(pair) for pair in ours] == [tuple(pair) for pair in data["model"]["merges"]]
    with pytest.raises(UserError):
        merges([b"a", b"b", b"c", b"abc"])


def merges_by_definition(tokens: list[bytes]) -> list[tuple[bytes, bytes]] | None:
    """While there are more than two parts, merge the first pair of the lowest rank."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    found = []
    for token, own in ranks.items():
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            pairs = (ranks.get(parts[i] + parts[i + 1], own) for i in range(len(parts) - 1))
            rank, i = min((rank, i) for i, rank in enumerate(pairs))
            if rank >= own:
                return None
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:
            found.append((parts[0], parts[1]))
    return found


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=10),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_merges_are_those_of_the_definition(
    pairs: list[tuple[int, int]], random: Any, mixed: bool
) -> None:
    tokens = [b"a", b"b"]
    for left, right in pairs:
        tokens.append(tokens[left % len(tokens)] + tokens[right % len(tokens)])
    tokens = list(dict.fromkeys(tokens))
    if mixed:
        random.shuffle(tokens)
    expected = merges_by_definition(tokens)
    if expected is None:
        with pytest.raises(UserError):
            merges(tokens)
    else:
        assert merges(tokens) == expected


def test_the_merges_of_a_long_token_are_found_fast() -> None:
    doubled = [b"a" * (1 << i) for i in range(13)]
    assert merges(doubled)[-1] == (b"a" * 2048, b"a" * 2048)
