"""What a user can rely on of cuts: the ids of the pieces are the ids of the whole text."""

import itertools

import pytest
from helpers.byte_pairs import ENGLISH, HARD_TEXTS, split_as
from hypothesis import example, given
from hypothesis import strategies as st

from kqv.text.bpe import PATTERNS
from kqv.text.safe_cuts import safe_pieces


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=HARD_TEXTS, cuts=st.lists(st.integers(0, 60), max_size=6))
@example(text="山山。山,a!\n/x 's", cuts=[1, 2, 3, 4, 5, 6])
@example(text="x\n\n y", cuts=[1, 2, 3, 4])
def test_the_ids_of_safe_pieces_are_those_of_the_whole(
    pattern: str, text: str, cuts: list[int]
) -> None:
    places = [0, *sorted(cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    cut_anew = list(safe_pieces(pieces))
    tokenizer = split_as(pattern)
    assert "".join(cut_anew) == text and all(cut_anew)
    assert [token for piece in cut_anew for token in tokenizer.encode(piece)] == tokenizer.encode(
        text
    )


def test_pieces_stay_small_in_any_usual_text() -> None:
    for text in (ENGLISH, "山水文字，一二三。" * 50, "word\n" * 200, "a b " * 200):
        pieces = list(safe_pieces(text[i : i + 40] for i in range(0, len(text), 40)))
        assert max(map(len, pieces)) < 100
