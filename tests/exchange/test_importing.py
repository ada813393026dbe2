"""What a user can rely on of models that others made: what has our shape computes the same here, what has not is refused by
the name of what is different, and nothing is fetched."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.exchange import CHARACTERS, learnt_pairs
from helpers.models import random_ids

from kqv.checkpoints.single import load_model
from kqv.exchange.importing import NAMED, from_huggingface, located
from kqv.exchange.tokenizer_json import to_tokenizer_json
from kqv.text.characters import CharTokenizer

transformers = pytest.importorskip("transformers")
SIZE = len(CHARACTERS)


def saved(folder: Path, kind: str, **options: Any) -> Any:
    """A random model of transformers with a vocabulary of characters, saved as its users do."""
    gpt2 = {"vocab_size": SIZE, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4}
    qwen3 = {
        "vocab_size": SIZE, "max_position_embeddings": 24, "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "gpt2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**gpt2, **options}))
    else:
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**{**qwen3, **options}))
    for name, weight in model.named_parameters():
        torch.nn.init.normal_(weight, mean=1.0 if "norm" in name or "ln_" in name else 0.0, std=0.2)
    model.eval().save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(to_tokenizer_json(CharTokenizer(CHARACTERS))))
    return model


def same(theirs: Any, folder: Path) -> None:
    model, *_ = load_model(str(folder))
    ids = random_ids(model.config)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids), theirs(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gpt2", {}), ("gpt2", {"activation_function": "gelu", "n_inner": 48}), ("gpt2", {"tie_word_embeddings": False}),
        ("qwen3", {}), ("qwen3", {"tie_word_embeddings": True}),
        ("qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    ],
)  # fmt: skip
def test_a_model_saved_by_transformers_computes_the_same_here(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    same(saved(tmp_path, kind, **options), tmp_path)


def test_it_may_lie_in_several_files_in_half_precision_or_without_its_prefix(
    tmp_path: Path,
) -> None:
    from safetensors.torch import load_file, save_file

    theirs = saved(tmp_path, "gpt2")
    whole = tmp_path / "model.safetensors"
    weights = load_file(whole)
    # as OpenAI's GPT-2 lies on the hub: without the prefix, and with masks
    bare = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    save_file(bare | {"h.0.attn.bias": torch.ones(1, 1, 24, 24)}, whole)
    same(theirs, tmp_path)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    whole.unlink()
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    same(theirs, tmp_path)
    theirs.to(torch.bfloat16).save_pretrained(tmp_path)
    same(theirs.float(), tmp_path)


def test_byte_pairs_come_with_their_model_and_rows_without_a_token_are_kept(tmp_path: Path) -> None:
    data = learnt_pairs()
    tokens = len(data["model"]["vocab"]) + 1
    theirs = saved(tmp_path, "gpt2", vocab_size=tokens + 7)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    same(theirs, tmp_path)
    reader = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = "the cat's hat  sat\n\n on é 12"
    assert load_model(str(tmp_path))[1].encode(text) == reader(text)["input_ids"]


DIFFERENT: list[tuple[str, dict[str, Any], str]] = [
    ("qwen3", {"num_key_value_heads": 2}, "num_key_value_heads is 2"), ("qwen3", {"head_dim": 16}, "head_dim is 16"),
    ("qwen3", {"hidden_act": "gelu"}, "hidden_act is gelu"), ("qwen3", {"attention_bias": True}, "attention_bias is True"),
    ("qwen3", {"rms_norm_eps": 1e-5}, "rms_norm_eps"),
    ("qwen3", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}, "rope_type is yarn"),
    ("gpt2", {"activation_function": "relu"}, "activation_function is relu"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"), ("gpt2", {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "words"), DIFFERENT)
def test_what_a_model_of_ours_cannot_be_is_named(
    kind: str, options: dict[str, Any], words: str, tmp_path: Path, refused: Callable
) -> None:
    saved(tmp_path, kind, **options)
    with refused(str(tmp_path), words):
        load_model(str(tmp_path))


def test_a_folder_with_something_missing_or_spoilt_is_one_line(
    tmp_path: Path, refused: Callable
) -> None:
    saved(tmp_path, "gpt2")
    config = json.loads((tmp_path / "config.json").read_text())
    for change in [
        {"model_type": "llama"}, {"n_layer": 10**9}, {"n_layer": 1}, {"n_layer": "x"}, {"n_head": 5}, {"vocab_size": None},
        {"n_positions": 10**12}, {"n_embd": 10**7}, {"n_inner": [3]}, {"activation_function": ["gelu"]},
    ]:  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with refused(str(tmp_path)):
            load_model(str(tmp_path))
    for text in ("", "[]", "{", "\0", "[" * 100_000, '{"model_type": "gpt2"}'):
        (tmp_path / "config.json").write_text(text)
        with refused(str(tmp_path)):
            load_model(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name, words in (
        ("tokenizer.json", "put its tokenizer.json"),
        ("model.safetensors", "model.safetensors"),
    ):
        content = (tmp_path / name).read_bytes()
        for spoilt in (b"", b"{}", b"[]", content[:-50], None):
            (tmp_path / name).unlink() if spoilt is None else (tmp_path / name).write_bytes(spoilt)
            with refused(str(tmp_path), words if spoilt is None else ""):
                load_model(str(tmp_path))
        (tmp_path / name).write_bytes(content)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"x": "../secret.safetensors"}}'
    )
    with refused("../secret", "not in the folder"):
        load_model(str(tmp_path))


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "model.safetensors.index.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_a_pipe_or_a_device_in_a_folder_is_refused_and_not_waited_for(
    name: str, kind: str, tmp_path: Path, refused: Callable
) -> None:
    saved(tmp_path, "gpt2")
    (tmp_path / "model.safetensors").unlink() if "index" in name else None
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name) if kind == "pipe" else (tmp_path / name).symlink_to(kind)
    with refused(str(tmp_path), "a device or a pipe, not a file"):
        load_model(str(tmp_path))


def test_a_header_or_a_vocabulary_larger_than_any_is_refused_unread(
    tmp_path: Path, refused: Callable
) -> None:
    saved(tmp_path, "gpt2")
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes((1 << 40).to_bytes(8, "little") + whole[8:])
    with refused(str(tmp_path), "header"):
        load_model(str(tmp_path))
    weights.write_bytes(whole)
    data = learnt_pairs()
    data["model"]["vocab"] |= {"a" * (1 << 16): len(data["model"]["vocab"])}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with refused(str(tmp_path), "at most"):
        load_model(str(tmp_path))
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(1 << 40)
    with refused(str(tmp_path), "more than"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("name", NAMED)
def test_a_named_gpt2_is_taken_from_the_cache_or_asked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with refused(name, "config.json", "model.safetensors", "--init_from=FOLDER"):
        located(name)
    repository = tmp_path / f"models--openai-community--{name}"
    saved(repository / "snapshots" / "abc", "gpt2")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert from_huggingface(Path(located(name)))["model_args"]["block_size"] == 24


def test_a_named_gpt2_without_the_package_names_it(
    monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused("pip install transformers"):
        located("gpt2")
    assert located("some/folder") == "some/folder"
