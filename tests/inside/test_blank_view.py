"""What a user can rely on of an encoder that is explained: what each blank would be."""

import json
import re
from typing import Any

import pytest
import torch
from helpers.models import randomised

from kqv.inside import json_view, page, png_view, text_view
from kqv.inside.blank_view import readable_blanks
from kqv.inside.labels import token_label
from kqv.inside.reading import look, what_to_read
from kqv.inside.view import Reader, View, chosen_heads
from kqv.options.settings import ExplainSettings
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.tokenizer import MASK, Tokenizer
from model import GPTConfig

LETTERS = CharTokenizer.of("The cat sat on the mat.").with_markers(MASK)
TEXT = "The c_t sat on_"


def encoder(tokenizer: Tokenizer = LETTERS, **options: Any) -> Reader:
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32} | options
    model = randomised(GPTConfig(tokenizer.vocab_size, **{"architecture": "encoder"} | shape))
    return Reader("an encoder", model, tokenizer, tokenizer)


def view_of(reader: Reader, text: str, **options: Any) -> View:
    settings = ExplainSettings(text=text, **options)
    return look(reader, what_to_read(reader, settings, {"text"}))


def page_data(*views: View) -> dict[str, Any]:
    rendered = page.render(views, views[0].heads[0])
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', rendered)[1])


OPTIONS: list[dict[str, Any]] = [
    {},
    {"norm_first": False, "norm": "layernorm", "position": "learned"},
    {"position": "relative"},
    {"window": 4},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_predictions_at_blanks_are_the_model_s(options: dict[str, Any]) -> None:
    reader = encoder(**options)
    view = view_of(reader, TEXT)
    ids = LETTERS.encode(TEXT.replace("_", MASK))
    with torch.no_grad():
        computed = reader.model(torch.tensor([ids]))[0].softmax(-1)
    torch.testing.assert_close(view.trace.predictions[-1], computed, atol=1e-5, rtol=1e-4)
    data = json.loads(json_view.render(view))
    assert data["blanks"] == view.blanks == [5, 14]
    assert data["text"] == TEXT.replace("_", MASK)
    torch.testing.assert_close(torch.tensor(data["predictions"])[-1, 5], computed[5])
    best, token = computed[5].max(-1)
    label, chance = page_data(view)["models"][0]["predictions"][-1][5][0]
    assert label == token_label(LETTERS, int(token)) and abs(chance - float(best)) < 1e-4


def test_each_format_says_what_each_blank_would_be() -> None:
    view = view_of(encoder(), TEXT)
    text = text_view.render(view, chosen_heads(view, -1, -1))
    title, rows = text.split("\n\n")[-2:]
    assert title == "the likeliest characters at each blank after the last layer"
    assert [row.split(" → ")[0] for row in rows.splitlines()] == ["□ (5)", "□ (14)"]
    data = page_data(view)
    assert data["texts"]["text"]["labels"][5] == "□" and data["start"]["position"] == 5
    assert data["models"][0]["blanks"] == [5, 14]
    assert data["models"][0]["parts"][0]["rows"] == [[0, 14]] * 15  # all is seen
    assert png_view.render(view).startswith(b"\x89PNG")


def test_a_text_without_blanks_is_said_to_have_none() -> None:
    view = view_of(encoder(), "The cat")
    assert view.blanks == [] and page_data(view)["models"][0]["blanks"] == []
    title, rows = text_view.render(view, chosen_heads(view, 0, 0)).split("\n\n")[-2:]
    assert "none" in title and len(rows.splitlines()) == 7


def test_the_page_of_a_decoder_knows_no_blanks() -> None:
    view = view_of(encoder(architecture="decoder"), "The cat")
    data = page_data(view)
    assert view.blanks is None and data["start"].keys() == {"layer", "head"}
    assert "blanks" not in data["models"][0] and "blanks" not in json.loads(json_view.render(view))


def test_an_encoder_and_a_decoder_stand_on_one_page() -> None:
    views = [view_of(encoder(architecture=kind), "The cat") for kind in ("encoder", "decoder")]
    assert ["blanks" in model for model in page_data(*views)["models"]] == [True, False]


def test_a_blank_is_the_character_asked_for() -> None:
    view = view_of(encoder(), "The c?t", blank="?")
    assert view.blanks == [5]
    assert view_of(encoder(ByteTokenizer()), "é_").blanks == [2]


def test_what_cannot_be_read_is_refused_in_one_line(refused) -> None:
    with refused("'x'", "position 2"):
        view_of(encoder(), "T_x")
    with refused("33 characters", "an encoder", "32"):
        view_of(encoder(), "_" * 33)
    with refused("the text has 0"):
        view_of(encoder(), "")
    with refused("'a'", "--blank="):
        view_of(encoder(), "The cat", blank="a")
    with refused("U+001A", "train"):
        view_of(encoder(CharTokenizer.of("The cat")), "The cat")


@pytest.mark.parametrize("block_size", [1, 2, 6, 32])
@pytest.mark.parametrize("tokenizer", [LETTERS, CharTokenizer("xyz" + MASK), ByteTokenizer()])
def test_a_text_that_nobody_gave_has_blanks_and_fits(tokenizer: Tokenizer, block_size: int) -> None:
    reader = encoder(tokenizer, block_size=block_size)
    text = readable_blanks(reader, ExplainSettings().text)
    assert text == readable_blanks(reader, ExplainSettings().text)
    view = look(reader, text)
    assert view.blanks and len(view.trace.ids) <= block_size
    if tokenizer is LETTERS and block_size == 32:
        assert text.replace(MASK, "_") == "The c_t sat o_ the ma_."
