"""What a user can rely on of the text that is explained, and of how it is shown in a terminal."""

import unicodedata
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from helpers.models import randomised

from kqv.inside.figures import HeadFigures
from kqv.inside.labels import terminal_labels, visible
from kqv.inside.text_view import head_map
from kqv.inside.view import chosen_head, generated_ids, readable_text
from kqv.text.characters import CharTokenizer
from model import GPT, GPTConfig

TOKENIZER = CharTokenizer("abcdefghij\n")
SHAPE: dict[str, Any] = {
    "vocab_size": TOKENIZER.vocab_size,
    "block_size": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 8,
}


@pytest.fixture
def model() -> GPT:
    return randomised(GPTConfig(**SHAPE))


def test_a_generated_text_is_always_the_same_and_fits_the_context(model: GPT) -> None:
    ids = generated_ids(model, TOKENIZER)
    assert len(ids) == model.config.block_size and ids == generated_ids(model, TOKENIZER)
    assert ids[0] == TOKENIZER.encode("\n")[0]
    assert len(generated_ids(model, TOKENIZER, 5)) == 5


@pytest.mark.parametrize("text", ["schön", "a" * 17])
def test_a_text_that_the_model_cannot_take_is_replaced(model: GPT, text: str) -> None:
    shown = readable_text(model, TOKENIZER, text)
    assert TOKENIZER.knows(shown) and 0 < len(shown) <= 16
    assert readable_text(model, TOKENIZER, "abc") == "abc"


def head(layer: int, number: int, entropy: float) -> HeadFigures:
    return HeadFigures(layer, number, entropy, 0, 0, 0)


def test_the_head_of_lowest_entropy_is_shown_first_among_those_asked_for(refused) -> None:
    heads = [head(0, 0, 3.0), head(0, 1, 2.0), head(1, 0, 1.0), head(1, 1, 4.0)]
    chosen = {
        (layer, number): chosen_head(heads, layer, number)
        for layer in (-1, 0, 1)
        for number in (-1, 0, 1)
    }
    assert chosen[-1, -1] == heads[2] and chosen[0, -1] == heads[1] and chosen[-1, 1] == heads[1]
    assert all(chosen[each.layer, each.head] == each for each in heads)
    with refused("layers 0 to 1", "heads 0 to 1"):
        chosen_head(heads, 2, -1)


def test_a_map_marks_each_weight_below_its_character() -> None:
    drawn = head_map(["a", "␣"], [[1.0, 0.0], [0.25, 0.75]])
    assert drawn.splitlines() == ["  a␣", "a █", "␣ ·▓"]
    assert head_map(["ab", "c"], [[1.0, 0.0], [0.0, 1.0]]).splitlines() == ["ab █", "c   █"]


@hypothesis.given(st.characters())
def test_a_character_is_shown_without_effect_on_its_neighbours(character: str) -> None:
    shown = visible(character)
    assert all(sign.isprintable() and not sign.isspace() for sign in shown)
    assert not unicodedata.combining(shown[0])


def test_white_space_accents_and_what_has_no_shape_are_visible() -> None:
    signs = {
        "\n": "⏎",
        "\t": "⇥",
        " ": "␣",
        "\u0301": "◌\u0301",
        "\u202e": "U+202E",
        "<": "<",
        "ש": "ש",
        "ab c": "ab␣c",
    }
    assert [visible(text) for text in signs] == list(signs.values())


def test_a_character_takes_one_cell_of_a_terminal() -> None:
    tokenizer = CharTokenizer.of("a \u0301\u202e")
    labels = terminal_labels(tokenizer, tokenizer.encode("a \u0301\u202e"))
    assert labels == ["a", "␣", "�", "�"]
