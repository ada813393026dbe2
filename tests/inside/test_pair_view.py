"""What a user can rely on when looking inside an encoder-decoder."""

import json
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from helpers.models import randomised

from kqv.inside import json_view, page, png_view, text_view
from kqv.inside.figures import alignment, cross_figures, self_figures
from kqv.inside.labels import terminal_labels, token_label, width
from kqv.inside.pair_view import pair_to_read, readable_source, target_ids, view_pair, written_ids
from kqv.inside.trace import LayerTrace, record
from kqv.inside.view import Reader, View, chosen_heads
from kqv.text.characters import CharTokenizer
from kqv.text.symbols import SymbolTokenizer
from kqv.text.tokenizer import PAIR_MARKERS, Tokenizer
from model import GPTConfig

LETTERS = CharTokenizer("abcdefghijklmnop")
SOUNDS = SymbolTokenizer(["k", "ɝ", "n", "ə", "l", "d͡ʒ"]).with_markers(PAIR_MARKERS)
SHAPE: dict[str, Any] = {
    "architecture": "encoder_decoder",
    "block_size": 12,
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 8,
}


def reader_of(source: Tokenizer = LETTERS, target: Tokenizer = SOUNDS, **options: Any) -> Reader:
    own = 0 if source is target else source.vocab_size
    config = GPTConfig(vocab_size=target.vocab_size, source_vocab_size=own, **{**SHAPE, **options})
    return Reader("a model", randomised(config, spread=0.4), target, source)


def view_of(reader: Reader, source: str, target: str | None = None) -> View:
    return view_pair(reader, pair_to_read(reader, source, target))


def test_the_target_is_what_the_model_writes() -> None:
    reader = reader_of()
    source = torch.tensor([LETTERS.encode("bead")])
    ids = written_ids(reader.model, SOUNDS, source[0].tolist())
    assert ids[0] == SOUNDS.marker_id("\u0002") and 1 <= len(ids) <= 12
    logits = reader.model(torch.tensor([ids]), source=source)[0]
    logits[:, SOUNDS.marker_id("\u0002")] = -torch.inf  # it is never written
    likeliest = logits.argmax(-1).tolist()
    assert likeliest[:-1] == ids[1:]
    assert len(ids) == 12 or likeliest[-1] == SOUNDS.marker_id("\u0003")
    assert view_of(reader, "bead").trace.ids == ids


def test_a_target_that_is_given_is_shown() -> None:
    encoder, decoder, cross = view_of(reader_of(), "bead", "d͡ʒ ə").parts
    assert [part.kind for part in (encoder, decoder, cross)] == ["encoder", "decoder", "cross"]
    assert encoder.queries.labels == encoder.keys.labels == cross.keys.labels == list("bead")
    assert decoder.queries.labels == decoder.keys.labels == cross.queries.labels
    assert cross.queries.labels == ["⊢", "d͡ʒ", "ə"]
    assert cross.layers[0].weights.shape == (2, 3, 4)


def test_one_vocabulary_may_serve_both_sides() -> None:
    tokenizer = LETTERS.with_markers(PAIR_MARKERS)
    view = view_of(reader_of(tokenizer, tokenizer, encoder_layers=1), "abc", "cab")
    assert [len(part.layers) for part in view.parts] == [1, 2, 2]
    assert view.parts[2].queries.labels == ["⊢", "c", "a", "b"]


@pytest.mark.parametrize(
    ("source", "target", "hints"),
    [
        ("", None, ["the text has 0", "1 to 12"]),
        ("abcd" * 4, None, ["the text has 16", "1 to 12"]),
        ("abc!", None, ["'!'", "position 3"]),
        ("abc", "k " * 12, ["the target has 12 tokens", "at most 11"]),
        ("abc", "k q", ["'q'"]),
    ],
)
def test_a_pair_that_cannot_be_read_is_refused(source, target, hints, refused) -> None:
    with refused(*hints):
        view_of(reader_of(), source, target)


def test_a_vocabulary_without_markers_is_refused(refused) -> None:
    with refused("U+0002"):
        view_of(reader_of(LETTERS, LETTERS), "abc")


@hypothesis.given(st.text(max_size=40))
@hypothesis.settings(max_examples=30)
def test_some_source_is_found_whatever_the_text(text: str) -> None:
    for tokenizer in (LETTERS, SOUNDS):
        source = readable_source(reader_of(tokenizer), text)
        assert 0 < len(tokenizer.encode(source)) <= 12


def test_a_source_keeps_what_the_model_knows_of_a_text() -> None:
    assert readable_source(reader_of(), "The cat had a cab.") == "hecahadacab"


def test_the_target_of_one_model_is_read_by_the_one_beside_it() -> None:
    reader, other = reader_of(), reader_of(target=SymbolTokenizer([*"əkl", *PAIR_MARKERS]))
    pair = pair_to_read(reader, "abc", "k ə l")
    assert view_pair(other, pair).parts[2].queries.labels == ["⊢", "k", "ə", "l"]


def test_every_format_shows_all_three_kinds_of_attention() -> None:
    reader = reader_of(encoder_layers=1)
    view = view_of(reader, "bead", "k n")
    chosen = chosen_heads(view, 1, 0)
    assert [(each.layer, each.head) for each in chosen[1:]] == [(1, 0), (1, 0)]
    assert (chosen[0].layer, chosen[0].head) == (0, 0)  # the encoder has no layer 1
    text = text_view.render(view, chosen)
    for kind in ("self-attention of the encoder", "self-attention of the decoder", "cross-att"):
        assert text.count(kind) == 2  # figures and a map
    assert "cross-attention, layer 1, head 0: a row for each token of the target, a col" in text
    assert "  bead\n" in text and "alignment" in text and "induction" not in text
    assert png_view.render(view).startswith(b"\x89PNG")
    numbers = json.loads(json_view.render(view))
    assert numbers["text"] == "bead" and numbers["source"] == list("bead")
    assert list(numbers["parts"]) == ["encoder", "decoder", "cross"]
    for part in view.parts:
        shown = numbers["parts"][part.kind]
        assert len(shown["heads"]) == len(part.heads) and len(shown["layers"]) == len(part.layers)
        for layer, stages in zip(part.layers, shown["layers"], strict=True):
            for stage in json_view.STAGES:
                torch.testing.assert_close(torch.tensor(stages[stage]), getattr(layer, stage))
    assert page.render([view], chosen[-1]).count("encoder of 1 layers, decoder of 2") == 1


def test_the_bias_of_relative_positions_is_in_the_json() -> None:
    view = view_of(reader_of(position="relative"), "bead", "k n")
    parts = json.loads(json_view.render(view))["parts"]
    for part in view.parts[:2]:
        torch.testing.assert_close(torch.tensor(parts[part.kind]["bias"]), part.layers[0].bias)
    assert "bias" not in parts["cross"]


def layer_with(weights: torch.Tensor) -> LayerTrace:
    """A layer of one head with these weights (time, seen)."""
    model = reader_of(n_layer=1, n_head=1).model
    trace = record(model, [0] * len(weights), source=[0] * weights.shape[1])
    layer = trace.cross[0]
    layer.weights = weights[None]
    return layer


def test_a_head_that_reads_the_source_in_step_with_the_target_is_aligned() -> None:
    (figures,) = cross_figures([layer_with(torch.eye(5))])
    assert figures.diagonal == 0 and figures.alignment == pytest.approx(1)
    (figures,) = cross_figures([layer_with(torch.eye(5).flip(1))])
    assert figures.alignment == pytest.approx(-1) and figures.diagonal == pytest.approx(0.6)
    (figures,) = cross_figures([layer_with(torch.full((4, 5), 0.2))])
    assert figures.alignment == pytest.approx(0, abs=1e-6)
    twice = torch.eye(3).repeat_interleave(2, dim=1) / 2  # each sound is two letters
    (figures,) = cross_figures([layer_with(twice)])
    assert figures.alignment > 0.9 and figures.diagonal < 0.15


def test_a_head_that_looks_at_one_place_only_aligns_nothing() -> None:
    weights = torch.zeros(4, 5)
    weights[:, 2] = 1
    assert alignment(weights) == 0
    assert alignment(torch.ones(1, 5) / 5) == alignment(torch.ones(5, 1)) == 0


def test_a_head_of_self_attention_is_described_by_where_it_looks() -> None:
    for shift, name in ((0, "itself"), (1, "following")):
        weights = torch.eye(5).roll(shift, 1)
        weights[-1] = torch.eye(5)[-1]
        (figures,) = self_figures([layer_with(weights)])
        assert getattr(figures, name) == pytest.approx(1)
    weights = torch.zeros(5, 5)
    weights[:, 0] = 1
    (figures,) = self_figures([layer_with(weights)])
    assert figures.first == 1 and figures.distance == pytest.approx(2) and figures.entropy == 0


def test_a_symbol_is_shown_whole_and_an_accent_takes_no_cell() -> None:
    assert [token_label(SOUNDS, i) for i in SOUNDS.encode("d͡ʒ ə")] == ["d͡ʒ", "ə"]
    assert width("d͡ʒ") == 2
    assert terminal_labels(SOUNDS, target_ids(SOUNDS, "k")) == ["⊢", "k"]
