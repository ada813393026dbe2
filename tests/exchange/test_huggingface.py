"""Hugging Face and back: transformers computes and tokenizes the same, and what our models cannot
be is refused by the name of the key that differs. Nothing is fetched."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.exchange import (
    CHARACTERS,
    CHECKPOINT,
    PROMPT,
    SHAPES,
    TEXTS,
    VOCABULARIES,
    equal_weights,
    greedy,
    learnt_pairs,
    shaped,
)
from helpers.models import random_ids
from safetensors.torch import load_file, save_file

from kqv.checkpoints.loading import load_model
from kqv.exchange.config_json import from_config_json, to_config_json
from kqv.exchange.huggingface import from_huggingface, locate, to_huggingface
from kqv.exchange.tokenizer_json import to_tokenizer_json
from kqv.options.checks import HUGGING_FACE_NAMES
from kqv.text.characters import CharTokenizer

transformers = pytest.importorskip("transformers")


def read_back(folder: Path) -> tuple[Any, Any]:
    """The model and the tokenizer as transformers loads them."""
    return (
        transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True),
        transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True),
    )


# --- ours to theirs ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_computes_the_same_and_writes_the_same_text(
    shape: str, tmp_path: Path
) -> None:
    model, tokenizer = shaped(shape)
    to_huggingface(model, tokenizer, CHECKPOINT, tmp_path / "there")
    theirs, reader = read_back(tmp_path / "there")
    ids = random_ids(model.config)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=0)
    prompt = reader(PROMPT, return_tensors="pt")
    assert prompt["input_ids"].tolist() == [tokenizer.encode(PROMPT)]
    (written,) = theirs.generate(**prompt, max_new_tokens=60, do_sample=False)
    assert reader.decode(written) == PROMPT + greedy(model, tokenizer)

    back = load_model(str(tmp_path / "there"))
    assert back.tokenizer == tokenizer
    with torch.no_grad():
        torch.testing.assert_close(back.model.eval()(ids), model(ids), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_config_goes_out_and_comes_back(shape: str) -> None:
    config = shaped(shape)[0].config
    back = from_config_json(json.loads(json.dumps(to_config_json(config))))
    assert back.mlp_width == back.hidden == config.hidden
    assert back.norm_epsilon == back.epsilon == config.epsilon
    not_compared = {"mlp_width": 0, "bias": True, "weight_init": "", "rope_base": 0.0}
    not_compared["norm_epsilon"] = 0.0
    if shape.startswith("qwen3"):  # rope_base has no meaning in GPT-2, which has all biases
        assert (back.rope_base, back.bias) == (config.rope_base, config.bias)
    assert vars(back) | not_compared == vars(config) | not_compared


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("shape", ["gpt2", "qwen3"])
def test_a_padded_batch_is_continued_like_each_of_its_prompts(
    shape: str, kind: str, tmp_path: Path
) -> None:
    model, tokenizer = shaped(shape, VOCABULARIES[kind]())
    to_huggingface(model, tokenizer, CHECKPOINT, tmp_path / "there")
    theirs, reader = read_back(tmp_path / "there")
    prompts = ["a", PROMPT, "the mat", reader.pad_token + "H"]
    prompts = [prompt for prompt in prompts if tokenizer.knows(prompt)]
    batch = reader(prompts, padding=True, return_tensors="pt")
    start = batch["input_ids"].shape[1]
    lengths = [len(tokenizer.encode_prompt(prompt)) for prompt in prompts]
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    written = theirs.generate(**batch, max_new_tokens=40, do_sample=False)
    for prompt, ids in zip(prompts, written, strict=True):
        alone = reader(prompt, return_tensors="pt")
        assert alone["input_ids"][0].tolist() == tokenizer.encode_prompt(prompt)
        (expected,) = theirs.generate(**alone, max_new_tokens=40, do_sample=False)
        assert ids[start:].tolist() == expected[alone["input_ids"].shape[1] :].tolist()

    # Padding adds no row to the model, and what transformers saves of it comes back.
    rows = theirs.get_input_embeddings().num_embeddings
    assert theirs.config.vocab_size == model.config.vocab_size == rows
    theirs.save_pretrained(tmp_path / "again")
    reader.save_pretrained(tmp_path / "again")
    for folder in ("there", "again"):
        back = load_model(str(tmp_path / folder))
        assert back.tokenizer == tokenizer and equal_weights(model, back.model)


@pytest.mark.parametrize("rare", ["山", "H", "\n"])
def test_the_character_that_the_model_expects_least_pads_and_the_card_says_so(
    rare: str, tmp_path: Path
) -> None:
    """transformers leaves it out of what a pipeline writes, so it should be seldom missed."""
    model, tokenizer = shaped("gpt2")
    model.norm.bias.data[:] = 1
    model.head.weight.data[tokenizer.encode(rare)] = -1  # its logit is far below all others
    to_huggingface(model, tokenizer, CHECKPOINT, tmp_path / "there")
    _, reader = read_back(tmp_path / "there")
    assert (reader.pad_token, reader.padding_side) == (rare, "left")
    ids = reader(PROMPT)["input_ids"]
    assert reader.decode(ids) == PROMPT
    assert reader.decode(ids, skip_special_tokens=True) == PROMPT.replace(rare, "")
    card = (tmp_path / "there" / "README.md").read_text()
    assert f"pads a batch on the left with `{rare!r}`" in card
    assert "skip_special_tokens=True" in card


@pytest.mark.parametrize("kind", ["bytes", "byte pairs", "byte pairs without an end"])
def test_padding_takes_nothing_from_texts_of_bytes(kind: str, tmp_path: Path) -> None:
    model, tokenizer = shaped("qwen3", VOCABULARIES[kind]())
    to_huggingface(model, tokenizer, CHECKPOINT, tmp_path / "there")
    _, reader = read_back(tmp_path / "there")
    for text in [*TEXTS, "ÿ", "señor ÿ"]:  # ÿ is the name of the byte 0xFF there
        ids = reader(text)["input_ids"]
        assert ids == tokenizer.encode(text)
        assert reader.decode(ids, skip_special_tokens=True) == text


# --- theirs to ours ---------------------------------------------------------------------------


def saved(folder: Path, kind: str, **options: Any) -> Any:
    """A random model of transformers with a vocabulary of characters, saved as its users do."""
    size = len(CHARACTERS)
    torch.manual_seed(0)
    if kind == "gpt2":
        gpt2 = dict(vocab_size=size, n_positions=24, n_embd=32, n_layer=2, n_head=4)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**gpt2, **options}))
    else:
        qwen3 = dict(
            vocab_size=size,
            max_position_embeddings=24,
            hidden_size=32,
            intermediate_size=80,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=8,
        )
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**{**qwen3, **options}))
    for name, weight in model.named_parameters():
        mean = 1.0 if "norm" in name or "ln_" in name else 0.0
        torch.nn.init.normal_(weight, mean=mean, std=0.2)
    model.eval().save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(to_tokenizer_json(CharTokenizer(CHARACTERS))))
    return model


def assert_same_logits(theirs: Any, folder: Path) -> None:
    model = load_model(str(folder)).model.eval()
    ids = random_ids(model.config)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gpt2", {}),
        ("gpt2", {"activation_function": "gelu", "n_inner": 48}),
        ("gpt2", {"tie_word_embeddings": False}),
        ("qwen3", {}),
        ("gpt2", {"layer_norm_epsilon": 0.1}),
        ("qwen3", {"tie_word_embeddings": True}),
        ("qwen3", {"rms_norm_eps": 0.1}),
        ("qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    ],
)
def test_a_model_saved_by_transformers_computes_the_same_here(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    assert_same_logits(saved(tmp_path, kind, **options), tmp_path)


def test_a_model_may_lie_in_several_files_in_half_precision_or_without_its_prefix(
    tmp_path: Path,
) -> None:
    theirs = saved(tmp_path, "gpt2")
    whole = tmp_path / "model.safetensors"
    # As OpenAI's GPT-2 lies on the hub: without the prefix, and with masks.
    bare = {name.removeprefix("transformer."): w for name, w in load_file(whole).items()}
    save_file(bare | {"h.0.attn.bias": torch.ones(1, 1, 24, 24)}, whole)
    assert_same_logits(theirs, tmp_path)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    whole.unlink()
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_same_logits(theirs, tmp_path)
    theirs.to(torch.bfloat16).save_pretrained(tmp_path)
    assert_same_logits(theirs.float(), tmp_path)


def test_byte_pairs_come_with_their_model_and_rows_without_a_token_are_kept(tmp_path: Path) -> None:
    data = learnt_pairs()
    tokens = len(data["model"]["vocab"]) + 1
    theirs = saved(tmp_path, "gpt2", vocab_size=tokens + 7)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert_same_logits(theirs, tmp_path)
    reader = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = "the cat's hat  sat\n\n on é 12"
    assert load_model(str(tmp_path)).tokenizer.encode(text) == reader(text)["input_ids"]


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
DIFFERENT: list[tuple[str, dict[str, Any], str]] = [
    ("qwen3", {"num_key_value_heads": 2}, "num_key_value_heads is 2"),
    ("qwen3", {"head_dim": 16}, "head_dim is 16"),
    ("qwen3", {"hidden_act": "gelu"}, "hidden_act is gelu"),
    ("qwen3", {"attention_bias": True}, "attention_bias is True"),
    ("qwen3", {"rope_parameters": YARN}, "rope_type is yarn"),
    ("gpt2", {"activation_function": "relu"}, "activation_function is relu"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
]


@pytest.mark.parametrize(("kind", "options", "words"), DIFFERENT)
def test_what_a_model_of_ours_cannot_be_is_named(
    kind: str, options: dict[str, Any], words: str, tmp_path: Path, refused: Callable
) -> None:
    saved(tmp_path, kind, **options)
    with refused(str(tmp_path), words):
        load_model(str(tmp_path))


def test_a_layer_with_a_sliding_window_is_named(tmp_path: Path, refused: Callable) -> None:
    saved(tmp_path, "qwen3")
    path = tmp_path / "config.json"
    layers = {"layer_types": ["full_attention", "sliding_attention"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | layers))
    with refused(str(tmp_path), "sliding_attention", "full_attention"):
        load_model(str(tmp_path))


# --- folders that are damaged or hostile ------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a random GPT-2."""
    saved(tmp_path, "gpt2")
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "llama"},
        {"n_layer": 10**9},
        {"n_layer": 1},
        {"n_layer": "x"},
        {"n_head": 5},
        {"vocab_size": None},
        {"n_positions": 10**12},
        {"n_embd": 10**7},
        {"n_inner": [3]},
        {"activation_function": ["gelu"]},
    ],
    ids=str,
)
def test_an_impossible_config_is_one_line(
    change: dict[str, Any], folder: Path, refused: Callable
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with refused(str(folder)):
        load_model(str(folder))


@pytest.mark.parametrize("text", ["", "[]", "{", "\0", "[" * 100_000, '{"model_type": "gpt2"}'])
def test_a_file_that_is_no_config_is_one_line(text: str, folder: Path, refused: Callable) -> None:
    (folder / "config.json").write_text(text)
    with refused(str(folder)):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("name", "words"),
    [("tokenizer.json", "put its tokenizer.json"), ("model.safetensors", "model.safetensors")],
)
def test_a_file_that_is_damaged_or_missing_is_one_line(
    name: str, words: str, folder: Path, refused: Callable
) -> None:
    path = folder / name
    for damaged in (b"", b"{}", b"[]", path.read_bytes()[:-50]):
        path.write_bytes(damaged)
        with refused(str(folder)):
            load_model(str(folder))
    path.unlink()
    with refused(str(folder), words):
        load_model(str(folder))


def test_weights_outside_the_folder_are_not_read(folder: Path, refused: Callable) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"x": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with refused("../secret", "not in the folder"):
        load_model(str(folder))


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "model.safetensors.index.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_a_pipe_or_a_device_is_refused_and_not_waited_for(
    name: str, kind: str, folder: Path, refused: Callable
) -> None:
    if "index" in name:
        (folder / "model.safetensors").unlink()
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name) if kind == "pipe" else (folder / name).symlink_to(kind)
    with refused(str(folder), "a device or a pipe, not a file"):
        load_model(str(folder))


def test_a_header_or_a_vocabulary_larger_than_any_is_refused_unread(
    folder: Path, refused: Callable
) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes((1 << 40).to_bytes(8, "little") + whole[8:])
    with refused(str(folder), "header"):
        load_model(str(folder))
    weights.write_bytes(whole)
    data = learnt_pairs()
    data["model"]["vocab"] |= {"a" * (1 << 16): len(data["model"]["vocab"])}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with refused(str(folder), "at most"):
        load_model(str(folder))
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate(1 << 40)
    with refused(str(folder), "more than"):
        load_model(str(folder))


# --- named models -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", HUGGING_FACE_NAMES)
def test_a_named_gpt2_is_taken_from_the_cache_or_asked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with refused(name, "config.json", "model.safetensors", "--init_from=FOLDER"):
        locate(name)
    repository = tmp_path / f"models--openai-community--{name}"
    saved(repository / "snapshots" / "abc", "gpt2")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert from_huggingface(Path(locate(name)))["model_args"]["block_size"] == 24


def test_a_named_gpt2_without_the_package_names_it(
    monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused("pip install transformers"):
        locate("gpt2")
    assert locate("some/folder") == "some/folder"
