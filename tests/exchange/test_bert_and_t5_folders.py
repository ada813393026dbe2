"""Folders of BERT and T5: transformers computes, fills and translates the same, and its own models
come in. What would be lost on the way is said in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.exchange import CHARACTERS, CHECKPOINT, OTHER_SHAPES, VOCABULARIES, shaped
from helpers.models import random_ids
from torch import Tensor

from kqv.checkpoints.loading import load_model
from kqv.exchange.config_json import from_config_json, to_config_json
from kqv.exchange.huggingface import to_huggingface
from kqv.exchange.tokenizer_json import to_tokenizer_json
from kqv.text.characters import CharTokenizer
from kqv.text.tokenizer import DOCUMENT_END, MASK, PAIR_MARKERS, TARGET_BEGIN, Tokenizer
from model import GPT, PADDING

transformers = pytest.importorskip("transformers")

BERTS = [shape for shape in OTHER_SHAPES if shape.startswith("bert")]
T5S = [shape for shape in OTHER_SHAPES if shape.startswith("t5")]


def load_theirs(folder: Path, name: str, **options: Any) -> tuple[Any, Any]:
    """The model, by this class of transformers, and the tokenizer of a folder."""
    model = getattr(transformers, name).from_pretrained(folder, local_files_only=True, **options)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def assert_close(found: Tensor, expected: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def sources(model: GPT) -> Tensor:
    """Two sources, the second shorter."""
    source = random_ids(model.config, batch=2, time=20)
    source[1, 7:] = PADDING
    return source


def translation(model: GPT, tokenizer: Tokenizer, source: str, length: int) -> str:
    """The likeliest target, by the plain forward pass."""
    begin, end = map(tokenizer.marker_id, (TARGET_BEGIN, DOCUMENT_END))
    ids, read = [begin], torch.tensor([tokenizer.encode(source)])
    while len(ids) <= length and ids[-1] != end:
        ids.append(int(model(torch.tensor([ids]), source=read)[0, -1].argmax()))
    return tokenizer.decode([token for token in ids if token not in (begin, end)])


# --- ours to theirs, and back -------------------------------------------------------------------


@pytest.mark.parametrize("shape", OTHER_SHAPES)
def test_a_config_goes_out_and_comes_back(shape: str) -> None:
    config = shaped(shape)[0].config
    back = from_config_json(json.loads(json.dumps(to_config_json(config))))
    assert (back.hidden, back.epsilon) == (config.hidden, config.epsilon)
    if config.has_cross_attention:
        assert back.encoder.n_layer == config.encoder.n_layer
    assert back.bias == shape.startswith("bert")  # BERT has all biases
    written = ("mlp_width", "norm_epsilon", "encoder_layers", "bias")
    not_compared = dict.fromkeys(written, 0)
    assert vars(back) | not_compared == vars(config) | not_compared


@pytest.mark.parametrize("shape", BERTS)
@torch.no_grad()
def test_transformers_reads_our_encoder_as_a_bert_and_it_comes_back(
    shape: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model, tokenizer = shaped(shape)
    to_huggingface(model, tokenizer, CHECKPOINT, tmp_path / "there")
    theirs, reader = load_theirs(tmp_path / "there", "AutoModel", add_pooling_layer=False)
    assert type(theirs) is transformers.BertModel
    capsys.readouterr()
    ids = random_ids(model.config)
    assert_close(model.run(ids), theirs(ids).last_hidden_state)

    back = load_model(str(tmp_path / "there"))
    assert back.tokenizer == tokenizer
    assert_close(back.model.eval()(ids), model(ids), atol=1e-6)  # with its head
    assert capsys.readouterr().err == ""  # nothing is lost

    assert (reader.mask_token, reader.mask_token_id) == (MASK, tokenizer.marker_id(MASK))
    batch = reader(["the hat", "a"], padding=True, return_tensors="pt")
    (alone,) = theirs(**reader("a", return_tensors="pt")).last_hidden_state
    assert_close(theirs(**batch).last_hidden_state[1, :1], alone)


@pytest.mark.parametrize("shape", T5S)
@torch.no_grad()
def test_transformers_reads_our_translator_as_a_t5_and_it_comes_back(
    shape: str, tmp_path: Path
) -> None:
    model, tokenizer = shaped(shape)
    to_huggingface(model, tokenizer, CHECKPOINT, tmp_path / "there")
    theirs, _ = load_theirs(tmp_path / "there", "AutoModelForSeq2SeqLM")
    assert type(theirs) is transformers.T5ForConditionalGeneration
    source, target = sources(model), random_ids(model.config, batch=2)
    mask = (source != PADDING).long()
    found = theirs(source.clamp_min(0), attention_mask=mask, decoder_input_ids=target)
    assert_close(model(target, source=source), found.logits)

    back = load_model(str(tmp_path / "there"))
    assert back.tokenizer == tokenizer
    assert_close(back.model.eval()(target, source=source), model(target, source=source), 1e-6)


@pytest.mark.parametrize("kind", VOCABULARIES)
@torch.no_grad()
def test_transformers_translates_a_padded_batch_as_we_do(kind: str, tmp_path: Path) -> None:
    model, tokenizer = shaped("t5", VOCABULARIES[kind]())
    to_huggingface(model, tokenizer, CHECKPOINT, tmp_path / "there")
    theirs, reader = load_theirs(tmp_path / "there", "AutoModelForSeq2SeqLM")
    texts = ["the hat is on", "a", "mats\n"]
    batch = reader(texts, padding=True, return_tensors="pt")
    assert batch["input_ids"][0].tolist() == tokenizer.encode(texts[0])
    written = theirs.generate(**batch, max_new_tokens=30, do_sample=False)
    for text, ids in zip(texts, written, strict=True):
        answer = reader.decode(ids, skip_special_tokens=True)
        assert answer == translation(model, tokenizer, text, 30)
    same = {"name": ""}  # bpe:N counts the markers, which were added here to a vocabulary of N
    back = load_model(str(tmp_path / "there")).tokenizer
    assert back.to_dict() | same == tokenizer.to_dict() | same


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("shape", ["bert", "t5"])
def test_no_text_is_taken_for_a_marker_and_a_mask_is_one(
    shape: str, kind: str, tmp_path: Path
) -> None:
    model, tokenizer = shaped(shape, VOCABULARIES[kind]())
    to_huggingface(model, tokenizer, CHECKPOINT, tmp_path / "there")
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "there", local_files_only=True)
    # Ă, ă and Ě are the names of the markers' bytes there.
    for text in ("the hat", "", "Ăă Ěa ÿ", "ĂăĚ"):
        if tokenizer.knows(text):
            assert reader(text)["input_ids"] == tokenizer.encode(text)
    if shape == "bert":
        mask = tokenizer.marker_id(MASK)
        expected = [*tokenizer.encode("a"), mask, *tokenizer.encode("b")]
        assert reader(f"a{MASK}b")["input_ids"] == expected


# --- theirs to ours -----------------------------------------------------------------------------


@torch.no_grad()
def saved(folder: Path, name: str, characters: str, **options: Any) -> Any:
    """A random model of this class of transformers with a vocabulary of characters."""
    size = len(characters)
    if name.startswith("Bert"):
        shape: dict[str, Any] = dict(
            vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=48, max_position_embeddings=24, pad_token_id=None,
        )  # fmt: skip
        config = transformers.BertConfig(**(shape | options))
    else:
        shape = dict(
            vocab_size=size, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False, eos_token_id=size - 1,
            decoder_start_token_id=size - 2, pad_token_id=size - 1,
        )  # fmt: skip
        config = transformers.T5Config(**(shape | options))
    torch.manual_seed(0)
    model = getattr(transformers, name)(config)
    if hasattr(model, "lm_head") and options.get("untied", False):
        model.lm_head.weight = torch.nn.Parameter(torch.randn(size, 32))
    for weight_name, weight in model.named_parameters():
        mean = 1.0 if "norm" in weight_name.lower() else 0.0
        torch.nn.init.normal_(weight, mean=mean, std=0.2)
    model.eval().save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(to_tokenizer_json(CharTokenizer(characters))))
    return model


@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM", "BertForPreTraining"])
@torch.no_grad()
def test_a_bert_of_transformers_has_its_hidden_states_here_and_its_head_is_said_to_be_left_out(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    theirs = saved(tmp_path, name, CHARACTERS + MASK)
    capsys.readouterr()
    model = load_model(str(tmp_path)).model.eval()
    ids = random_ids(model.config)
    encoder = theirs if name == "BertModel" else theirs.bert
    assert encoder.embeddings.token_type_embeddings.weight.any()
    assert_close(model.run(ids), encoder(ids).last_hidden_state)
    (line,) = capsys.readouterr().err.splitlines()
    assert "the predictions are not" in line and str(tmp_path) in line


@pytest.mark.parametrize("untied", [False, True])
@torch.no_grad()
def test_a_t5_of_transformers_computes_the_same_here(untied: bool, tmp_path: Path) -> None:
    theirs = saved(tmp_path, "T5ForConditionalGeneration", CHARACTERS + PAIR_MARKERS, untied=untied)
    model = load_model(str(tmp_path)).model.eval()
    source, target = sources(model), random_ids(model.config, batch=2, time=24)
    mask = (source != PADDING).long()
    found = theirs(source.clamp_min(0), attention_mask=mask, decoder_input_ids=target)
    assert_close(model(target, source=source), found.logits)


@pytest.mark.parametrize(
    ("name", "characters", "options", "words"),
    [
        ("BertModel", CHARACTERS, {}, "no token U+001A"),
        ("T5ForConditionalGeneration", CHARACTERS, {}, "no token U+0003"),
        (
            "T5ForConditionalGeneration",
            CHARACTERS + PAIR_MARKERS,
            {"decoder_start_token_id": 0},
            "decoder_start_token_id is 0",
        ),
        (
            "T5ForConditionalGeneration",
            CHARACTERS + PAIR_MARKERS,
            {"eos_token_id": 1},
            "eos_token_id is 1",
        ),
    ],
)
def test_tokens_that_an_architecture_needs_are_asked_for(
    name: str,
    characters: str,
    options: dict[str, Any],
    words: str,
    tmp_path: Path,
    refused: Callable,
) -> None:
    saved(tmp_path, name, characters, **options)
    with refused(str(tmp_path), words):
        load_model(str(tmp_path))


HOSTILE: list[dict[str, Any]] = [
    {"num_layers": 10**9},
    {"num_decoder_layers": 10**9},
    {"num_layers": "x"},
    {"num_decoder_layers": [1]},
    {"d_model": 10**7},
    {"n_positions": 10**12},
    {"layer_norm_epsilon": "x"},
    {"layer_norm_epsilon": float("nan")},
    {"vocab_size": None},
]


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_an_impossible_config_of_t5_is_one_line(
    change: dict[str, Any], tmp_path: Path, refused: Callable
) -> None:
    to_huggingface(*shaped("t5"), CHECKPOINT, tmp_path / "there")
    path = tmp_path / "there" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with refused(str(tmp_path)):
        load_model(str(tmp_path / "there"))


@pytest.mark.parametrize("name", ["position_embeddings", "token_type_embeddings"])
def test_positions_of_bert_that_are_none_are_one_line(
    name: str, tmp_path: Path, refused: Callable
) -> None:
    from safetensors.torch import load_file, save_file

    to_huggingface(*shaped("bert"), CHECKPOINT, tmp_path / "there")
    path = tmp_path / "there" / "model.safetensors"
    whole = load_file(path)
    key = f"bert.embeddings.{name}.weight"
    for rubbish in (torch.ones(()), torch.ones(3), torch.ones(0, 32), torch.ones(2, 2, 2)):
        save_file(whole | {key: rubbish}, path)
        with refused(str(tmp_path)):
            load_model(str(tmp_path / "there"))
    del whole[key]
    save_file(whole, path)
    with refused(str(tmp_path), key):
        load_model(str(tmp_path / "there"))
