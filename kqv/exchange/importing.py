"""Models that others made, read as if they were checkpoints of ours: folders of Hugging Face of GPT-2's or Qwen3's shape, the
named GPT-2s, and weights with settings in one .safetensors file. (kqv/exchange/nanogpt.py reads nanoGPT's.)

Nothing is fetched from the network, and nothing in a folder is run.
"""

import importlib.util
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from kqv.errors import UserError
from kqv.exchange.families import to_ours
from kqv.exchange.tokenizer_json import from_tokenizer_json
from kqv.files import check_safetensors_header, read_small
from kqv.text.registry import (
    MAX_JSON_BYTES,
    NANOGPT_FILE,
    find_vocabulary,
    load_tokenizer,
    tokenizer_from_dict,
)
from kqv.text.tiktoken_files import load_tiktoken
from kqv.text.tokenizer import Tokenizer
from kqv.text.tokenizer_names import TIKTOKEN_SIZES
from model import GPT2, RMSNORM_EPSILON, GPTConfig

NAMED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST_CONFIG = 1 << 24  # bytes of a config.json or an index

# Hugging Face's names of activations; gelu_new and gelu_pytorch_tanh are the same formula.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}

# Tensors in old files that are no weights: masks and tables.
NO_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def located(init_from: str) -> str:
    """Where the model of --init_from= is: for a named GPT-2 its folder in the cache of Hugging Face, else what is said.

    Raises UserError that tells how to get a named one that is not there.
    """
    if init_from not in NAMED:
        return init_from
    if not importlib.util.find_spec("huggingface_hub"):
        raise UserError(
            f"init_from={init_from} looks into the cache of the package transformers: pip install transformers, or put the "
            f"model's config.json, {WEIGHTS} and tokenizer.json into a folder and write --init_from=FOLDER"
        )
    from huggingface_hub import try_to_load_from_cache

    for repository in (f"openai-community/{init_from}", init_from):
        there = [try_to_load_from_cache(repository, name) for name in ("config.json", WEIGHTS)]
        if all(isinstance(path, str) for path in there):
            return str(Path(str(there[0])).parent)
    raise UserError(
        f"{init_from} is not in the cache of Hugging Face, and nothing is fetched unasked: run hf download openai-community/"
        f"{init_from}, or put its config.json, {WEIGHTS} and tokenizer.json into a folder and write --init_from=FOLDER"
    )


def from_huggingface(folder: Path) -> dict[str, Any]:
    """What `load_checkpoint` gives, out of a folder that `save_pretrained` wrote.

    Raises UserError naming what is missing, or what a model of ours cannot be.
    """
    try:
        options = _read_json(folder / "config.json")
        config = _config(options)
        weights = {
            name: tensor
            for name, tensor in _weights(folder).items()
            if not name.endswith(NO_WEIGHTS)
        }
        prefix = "transformer." if options["model_type"] == "gpt2" else "model."
        if not any(name.startswith(prefix) for name in weights):  # a model saved without its head
            weights = {
                name if name.startswith("lm_head.") else prefix + name: tensor
                for name, tensor in weights.items()
            }
        model = to_ours(weights, config, "huggingface")
        tokenizer = _tokenizer(folder, config.vocab_size)
    except UserError as error:
        raise UserError(f"{folder} cannot be used: {error}") from None
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
    ) as error:
        raise UserError(
            f"{folder} is no model of Hugging Face: {' '.join(str(error).split())[:200]}"
        ) from None
    return {
        "model": model,
        "model_args": asdict(config),
        "tokenizer": tokenizer.to_dict(),
        "config": {},
    }


def from_safetensors(path: Path) -> dict[str, Any]:
    """What `load_checkpoint` gives, out of a file that export.py --format=safetensors wrote. Raises UserError."""
    weights = _load(path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        notes = file.metadata() or {}
    if "kqv" not in notes:
        raise UserError(
            f"{path} has weights and no settings: name the folder that has its config.json, or a checkpoint"
        )
    try:
        state = json.loads(notes["kqv"])
        if "head.weight" not in weights:
            weights["head.weight"] = weights["embedding.weight"]
        return {
            "model": weights,
            **{part: dict(state[part]) for part in ("model_args", "tokenizer", "config")},
        }
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be used: {' '.join(str(error).split())[:200]}") from None


def _config(options: dict[str, Any]) -> GPTConfig:
    """The settings of a model whose config.json says this. Raises UserError naming the first that ours cannot have."""
    kind = options.get("model_type")
    if kind == "gpt2":
        known: dict[str, Iterable[Any]] = {
            "activation_function": ACTIVATIONS,
            "layer_norm_epsilon": (1e-5,),
        }
        known |= {
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        }
        _check(options, known)
        changes: dict[str, Any] = {
            "mlp": ACTIVATIONS[options.get("activation_function", "gelu_new")]
        }
        changes |= {
            "mlp_width": options.get("n_inner") or 0,
            "tie_weights": options.get("tie_word_embeddings", True),
        }
        return GPTConfig(
            vocab_size=options["vocab_size"], block_size=options["n_positions"], n_layer=options["n_layer"],
            n_head=options["n_head"], n_embd=options["n_embd"], bias=True, **{**GPT2, **changes}
        )  # fmt: skip
    if kind == "qwen3":
        rope = options.get("rope_parameters") or options.get("rope_scaling") or {}
        flat = {
            **options,
            "rope_theta": rope.get("rope_theta", options.get("rope_theta", 10_000.0)),
        }
        flat["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
        config = GPTConfig(
            vocab_size=options["vocab_size"], block_size=options["max_position_embeddings"],
            n_layer=options["num_hidden_layers"], n_head=options["num_attention_heads"], n_embd=options["hidden_size"],
            mlp_width=options["intermediate_size"], rope_base=float(flat["rope_theta"]),
            tie_weights=options.get("tie_word_embeddings", False),
        )  # fmt: skip
        _check(
            flat,
            {
                "num_key_value_heads": (None, config.n_head), "head_dim": (None, config.d_k), "hidden_act": ("silu",),
                "rms_norm_eps": (RMSNORM_EPSILON,), "rope_type": ("default",), "attention_bias": (False,),
                "use_sliding_window": (False,),
            },
        )  # fmt: skip
        if other := {*(options.get("layer_types") or ())} - {"full_attention"}:
            raise UserError(
                f"it has layers with {min(map(str, other))[:50]}, and all layers of ours have full_attention"
            )
        return config
    raise UserError(
        f"its model_type is {str(kind)[:50]}, and kqv knows the shapes of gpt2 and qwen3"
    )


def _check(options: dict[str, Any], known: dict[str, Iterable[Any]]) -> None:
    for name, possible in known.items():
        if name in options and options[name] not in possible:
            words = " or ".join(str(value) for value in possible if value is not None)
            raise UserError(
                f"its {name} is {str(options[name])[:50]}, and a model of ours has {words}"
            )


def _weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, be they in one file or several."""
    if not (folder / WEIGHTS).exists() and (folder / INDEX).exists():
        names = {str(name) for name in _read_json(folder / INDEX)["weight_map"].values()}
        if outside := [name for name in names if Path(name).name != name]:
            raise UserError(f"its {INDEX} names {outside[0]}, which is not in the folder")
    else:
        names = {WEIGHTS}
    return {name: tensor for file in sorted(names) for name, tensor in _load(folder / file).items()}


def _load(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        check_safetensors_header(path)
        return load_file(path)
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}: older models save_pretrained again, which writes it"
        ) from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None


def _read_json(path: Path, limit: int = LARGEST_CONFIG) -> dict[str, Any]:
    try:
        return dict(json.loads(read_small(path, limit)))
    except OSError as error:
        raise UserError(f"its {path.name} cannot be read: {error.strerror}") from None


def _tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The vocabulary of a model in a folder of Hugging Face: its tokenizer.json, or a meta.pkl of nanoGPT's."""
    vocabulary = find_vocabulary(folder)
    if not vocabulary:
        if vocab_size == TIKTOKEN_SIZES["gpt2"]:
            return load_tiktoken("gpt2")
        raise UserError(
            f"it does not say what its {vocab_size} tokens are: put its tokenizer.json (or a meta.pkl) there"
        )
    if vocabulary.name == NANOGPT_FILE:
        return load_tokenizer(folder)
    data = _read_json(vocabulary, MAX_JSON_BYTES)
    return (
        tokenizer_from_dict(data) if "kind" in data else from_tokenizer_json(data)
    )  # ours has a kind
