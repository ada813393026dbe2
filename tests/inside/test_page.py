"""What a user can rely on of the page before a browser opens it.

Its numbers are the model's, and no text breaks out of its script element.
"""

import base64
import json
import re
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from helpers.models import randomised
from torch import Tensor

from kqv.inside.figures import MEANINGS, head_figures
from kqv.inside.page import CODE, SCRIPT_SCORES, code_line, pack, render, script_json
from kqv.inside.trace import record
from kqv.inside.view import Part, Tokens, View
from kqv.project import ASSETS, ROOT
from kqv.text.characters import CharTokenizer
from model import MASKS, SCORES, GPTConfig


def unpack(packed: dict[str, Any], nibbles: int, shape: tuple[int, ...]) -> Tensor:
    """What the page does with packed numbers, from their bytes as hexadecimal digits."""
    digits = base64.b64decode(packed["numbers"]).hex()[: shape[0] * shape[1] * shape[2] * nibbles]
    whole = [int(digits[at : at + nibbles], 16) for at in range(0, len(digits), nibbles)]
    middle = 2 ** (4 * nibbles - 1)
    return (torch.tensor(whole).view(shape) - middle) * torch.tensor(
        packed["units"], dtype=torch.float64
    )[:, None, None]


@pytest.mark.parametrize("nibbles", [6, 5, 4, 3, 2])
@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 5, 7), (1, 1, 1)])
def test_packed_numbers_are_as_exact_as_their_bits(
    nibbles: int, shape: tuple[int, int, int]
) -> None:
    sizes = torch.tensor([1.0, 30.0, 0.0])[: shape[0], None, None]
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * sizes
    most = numbers.abs().amax(dim=(1, 2))
    error = (unpack(pack(numbers, nibbles), nibbles, shape) - numbers).abs().amax(dim=(1, 2))
    assert torch.all(error <= 1.01 * most / 2 ** (4 * nibbles))


@hypothesis.given(st.text())
def test_no_text_gets_out_of_the_script_element(text: str) -> None:
    packed = script_json({"text": text})
    assert "<" not in packed and packed.isascii() and json.loads(packed) == {"text": text}


@pytest.mark.parametrize("stage", CODE)
def test_each_stage_names_a_line_of_model_py(stage: str) -> None:
    place, line = code_line(*CODE[stage]).split("  ", 1)
    name, number = place.split(":")
    lines = (ROOT / name).read_text().splitlines()
    assert lines[int(number) - 1].strip() == line


def view_of(text: str, title: str = "a model", **options: Any) -> View:
    tokenizer = CharTokenizer.of(text)
    model = randomised(GPTConfig(vocab_size=tokenizer.vocab_size, block_size=len(text), **options))
    trace = record(model, tokenizer.encode(text))
    tokens = Tokens(tokenizer, trace.ids)
    part = Part("decoder", trace.layers, head_figures(model, trace, trace, ()), tokens, tokens)
    return View(title, model, tokenizer, trace, [part])


def html_of(*views: View, layer: int = 0, head: int = 0) -> str:
    """The page of these models, with one head open."""
    chosen = next(each for each in views[0].heads if (each.layer, each.head) == (layer, head))
    return render(views, chosen)


def data_of(html: str) -> Any:
    found = re.search(r'<script type="application/json">(.*?)</script>', html)
    assert found
    return json.loads(found[1])


def test_the_page_holds_the_numbers_and_fills_each_place_once() -> None:
    text = "{{script}} {{data}} </script>"
    view = view_of(text, title=text, n_layer=2, n_head=2, n_embd=16)
    html = html_of(view, layer=1)
    data = data_of(html)
    assert "".join(data["texts"]["text"]["labels"]) == text.replace(" ", "␣") and data["start"] == {
        "layer": 1,
        "head": 0,
    }
    [model] = data["models"]
    assert model["title"] == text  # labels are single characters: only here it stands whole
    assert (
        html.count("</script>") == 2
        and html.count("{{") == html.count("{{script}} {{data}} \\u003c/script>") * 2 == 2
    )
    (part,) = model["parts"]
    for layer, packed in zip(view.trace.layers, part["layers"], strict=True):
        for name in ("query", "key", "value"):
            numbers = getattr(layer, name)
            torch.testing.assert_close(
                unpack(packed[name], model["nibbles"], numbers.shape).float(),
                numbers,
                atol=1e-6,
                rtol=0,
            )


@pytest.mark.parametrize(("n_embd", "exact"), [(192, True), (384, False)])
def test_a_page_of_six_layers_six_heads_and_256_characters_is_below_four_megabytes(
    n_embd: int, exact: bool
) -> None:
    text = ("The quick brown fox jumps over the lazy dog. " * 6)[:256]
    html = html_of(view_of(text, n_layer=6, n_head=6, n_embd=n_embd))
    assert len(html.encode()) < 4e6
    assert ("exact to 1e-6" in html) == exact and ("rounded to 12 bits" in html) != exact


@pytest.mark.parametrize(
    ("table", "name", "entry"),
    [
        (SCORES, "attention_score", lambda query, key, scale: (query @ key.mT).abs() * scale),
        (MASKS, "mask", lambda distance: (distance >= 0) & (distance % 2 == 0)),
    ],
)
def test_scores_and_masks_that_the_page_cannot_show_are_refused_by_name(
    table, name, entry, monkeypatch, refused
) -> None:
    monkeypatch.setitem(table, "mine", entry)
    monkeypatch.setattr("kqv.options.config.check_model", lambda options: None)
    view = view_of("abcdefgh", n_layer=1, n_head=1, n_embd=8, **{name: "mine"})
    with refused(f"{name}=mine", "--format=json"):
        html_of(view)


def test_the_gaps_beside_global_tokens_are_refused_by_their_name(refused) -> None:
    shape = {"n_layer": 1, "n_head": 1, "n_embd": 8, "window": 2, "global_tokens": 1}
    assert "1 global tokens" in html_of(view_of("ab", **shape))
    with refused("global_tokens=1 has gaps", "--format=json"):
        html_of(view_of("abcdefgh", **shape))


def test_models_that_tokenize_the_text_differently_are_not_shown_on_one_page(refused) -> None:
    shape = {"n_layer": 1, "n_head": 1, "n_embd": 8}
    views = [view_of("abcd", "one", **shape), view_of("abc", "another", **shape)]
    with refused("one and another", "different tokens"):
        html_of(*views)


def keys_of(table: str) -> list[str]:
    """The keys of an object at the top level of explain.js."""
    (content,) = re.findall(
        rf"^const {table} = \{{(.*?)\}};$", (ASSETS / "explain.js").read_text(), re.M | re.S
    )
    return re.findall(r"(\w+): [(\"\[]", content)


@pytest.mark.parametrize("table", ["TERMS", "FROM_SUM", "SCORE_FORMULAS"])
def test_the_script_has_a_formula_for_each_score(table: str) -> None:
    assert tuple(keys_of(table)) == SCRIPT_SCORES


def test_the_script_explains_each_figure() -> None:
    assert keys_of("FIGURES") == list(MEANINGS)
    assert set(keys_of("BADGES")) < set(MEANINGS)


def test_a_page_asks_for_nothing() -> None:
    """No address at all, and a policy that lets the browser refuse any."""
    html = html_of(view_of("abc", n_layer=1, n_head=1, n_embd=8))
    assert "default-src 'none'" in html
    assert not re.search(r"https?:|//[a-z]|src=|@import|url\(", html)
