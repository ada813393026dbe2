"""Folders of Hugging Face with a model of GPT-2's or Qwen3's shape, both directions.

    to_huggingface(...)      a folder that transformers loads without code of ours
    from_huggingface(...)    a checkpoint from a folder that `save_pretrained` wrote
    locate("gpt2-medium")    the folder of a named GPT-2 in the cache of Hugging Face

`CONFIG_KEYS` maps config.json to GPTConfig and back. Nothing is fetched from the network, and no
code in a folder is run.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kqv.errors import UserError
from kqv.exchange.families import (
    check_formula,
    family,
    places,
    to_ours,
    to_theirs,
)
from kqv.exchange.malformed import refuse_malformed
from kqv.exchange.model_card import model_card
from kqv.exchange.safetensors import load_tensors, tensors_to_bytes
from kqv.exchange.tokenizer_json import from_tokenizer_json, to_tokenizer_json, unused_id
from kqv.files import read_small, replacing_folder
from kqv.options.checks import HUGGING_FACE_NAMES
from kqv.text.registry import (
    MAX_JSON_BYTES,
    NANOGPT_FILE,
    TOKENIZER_FILE,
    find_vocabulary,
    load_tokenizer,
    tokenizer_from_dict,
)
from kqv.text.tiktoken_files import load_tiktoken
from kqv.text.tokenizer import Tokenizer
from kqv.text.tokenizer_names import TIKTOKEN_SIZES
from model import GPT, GPT2, LAYERNORM_EPSILON, RMSNORM_EPSILON, GPTConfig

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_CONFIG = 1 << 24  # bytes of a config.json or an index

# Tensors in old files that are no weights: masks and tables.
NO_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


# --- config.json ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """A key that is a field of GPTConfig."""

    key: str
    ours: str
    default: Any = None
    """what transformers takes where the key is missing; None if it must be there"""
    written: str = ""
    """the attribute of GPTConfig to write, if it is another than `ours`"""
    spelling: Mapping[str, Any] | None = None
    """our value for each of theirs; of several, the first is written"""

    def write(self, config: GPTConfig) -> Any:
        """Their value for a model of ours."""
        value = getattr(config, self.written or self.ours)
        if self.spelling is None:
            return value
        return next(theirs for theirs, ours in self.spelling.items() if ours == value)

    def read(self, options: Mapping[str, Any]) -> Any:
        """Our value. Raises KeyError if it is missing, UserError if ours have no such value."""
        value = options[self.key] if self.default is None else options.get(self.key)
        if value is None:
            value = self.default
        if self.spelling is None:
            return value
        if value not in self.spelling:
            raise _unlike_ours(self.key, value, " or ".join(self.spelling))
        return self.spelling[value]


@dataclass(frozen=True)
class Fixed:
    """A key that has one value in all models of ours, or follows from the other keys."""

    key: str
    value: Any = None
    attribute: str = ""
    """the attribute of GPTConfig that it follows"""
    optional: bool = False
    """whether null means the same"""
    written: bool = True

    def write(self, config: GPTConfig) -> Any:
        """Its value for a model of ours."""
        return getattr(config, self.attribute) if self.attribute else self.value

    def check(self, options: Mapping[str, Any], config: GPTConfig) -> None:
        """Raises UserError if the key is there with another value."""
        if self.key not in options or (self.optional and options[self.key] is None):
            return
        if options[self.key] != (expected := self.write(config)):
            raise _unlike_ours(self.key, options[self.key], expected)


class Note(NamedTuple):
    """A key that is written and not read: it says nothing of what the model computes."""

    key: str
    write: Callable[[GPTConfig], Any]


def _unlike_ours(key: str, value: Any, ours: Any) -> UserError:
    return UserError(f"its {key} is {str(value)[:50]}, and a model of ours has {ours}")


def _dropout(config: GPTConfig) -> float:
    return config.dropout


def _rope(config: GPTConfig) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": config.rope_base}


def _no_token(config: GPTConfig) -> None:
    """No id begins or ends a text; where nothing is said, transformers takes GPT-2's 50256."""


# gelu_new and gelu_pytorch_tanh are the same formula.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}

# The keys of config.json by family, in the order in which they are written.
CONFIG_KEYS: dict[str, list[Field | Fixed | Note]] = {
    "gpt2": [
        Note("architectures", lambda _: ["GPT2LMHeadModel"]),
        Note("model_type", lambda _: "gpt2"),
        Field("vocab_size", "vocab_size"),
        Field("tie_word_embeddings", "tie_weights", default=True),
        Note("bos_token_id", _no_token),
        Note("eos_token_id", _no_token),
        Note("dtype", lambda _: "float32"),
        Field("n_positions", "block_size"),
        Field("n_embd", "n_embd"),
        Field("n_layer", "n_layer"),
        Field("n_head", "n_head"),
        Field("n_inner", "mlp_width", default=0, written="hidden"),
        Field("activation_function", "mlp", default="gelu_new", spelling=ACTIVATIONS),
        Fixed("layer_norm_epsilon", LAYERNORM_EPSILON),
        Note("attn_pdrop", _dropout),
        Note("embd_pdrop", _dropout),
        Note("resid_pdrop", _dropout),
        Fixed("scale_attn_weights", True, written=False),
        Fixed("scale_attn_by_inverse_layer_idx", False, written=False),
        Fixed("add_cross_attention", False, written=False),
    ],
    "qwen3": [
        Note("architectures", lambda _: ["Qwen3ForCausalLM"]),
        Note("model_type", lambda _: "qwen3"),
        Field("vocab_size", "vocab_size"),
        Field("tie_word_embeddings", "tie_weights", default=False),
        Note("bos_token_id", _no_token),
        Note("eos_token_id", _no_token),
        Note("dtype", lambda _: "float32"),
        Field("max_position_embeddings", "block_size"),
        Field("hidden_size", "n_embd"),
        Field("num_hidden_layers", "n_layer"),
        Field("num_attention_heads", "n_head"),
        Fixed("num_key_value_heads", attribute="n_head", optional=True),
        Fixed("head_dim", attribute="d_k", optional=True),
        Field("intermediate_size", "mlp_width", written="hidden"),
        Fixed("hidden_act", "silu"),
        Fixed("rms_norm_eps", RMSNORM_EPSILON),
        Fixed("attention_bias", False),
        Note("attention_dropout", _dropout),
        Fixed("use_sliding_window", False),
        Field("rope_theta", "rope_base", default=10_000.0),
        Note("rope_parameters", _rope),
        Fixed("rope_type", "default", written=False),
        Fixed("layer_types", "full_attention", written=False),
    ],
}

# What our models of a family have that no key says.
IMPLIED: dict[str, dict[str, Any]] = {"gpt2": {**GPT2, "bias": True}, "qwen3": {}}


def to_config_json(config: GPTConfig) -> dict[str, Any]:
    """The config.json of a model. Raises UserError if it belongs to no family."""
    keys = CONFIG_KEYS[family(config)]
    return {
        key.key: key.write(config)
        for key in keys
        if not (isinstance(key, Fixed) and not key.written)
    }


def from_config_json(options: Mapping[str, Any]) -> GPTConfig:
    """The config of a model with this config.json.

    Raises UserError naming the first key that a model of ours cannot have, and other errors for
    what is no config.json.
    """
    kind = options.get("model_type")
    if kind not in CONFIG_KEYS:
        raise UserError(
            f"its model_type is {str(kind)[:50]}, and kqv knows the shapes of gpt2 and qwen3"
        )
    options = _flattened(options)
    keys = CONFIG_KEYS[kind]
    fields = {key.ours: key.read(options) for key in keys if isinstance(key, Field)}
    config = GPTConfig(**{**IMPLIED[kind], **fields})
    for key in keys:
        if isinstance(key, Fixed):
            key.check(options, config)
    return config


def _flattened(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same keys without lists and dictionaries.

    RoPE's settings, which older versions of transformers write elsewhere, become rope_type and
    rope_theta; layer_types becomes the first type that is not full attention, if there is one.
    """
    rope = options.get("rope_parameters") or options.get("rope_scaling") or {}
    theta = rope.get("rope_theta", options.get("rope_theta", 10_000.0))
    other_layers = {*map(str, options.get("layer_types") or ())} - {"full_attention"}
    return {
        **options,
        "rope_theta": float(theta),
        "rope_type": rope.get("rope_type", rope.get("type", "default")),
        "layer_types": min(other_layers, default="full_attention"),
    }


# --- ours to theirs ---------------------------------------------------------------------------


def to_huggingface(
    model: GPT, tokenizer: Tokenizer, checkpoint: dict[str, Any], folder: Path
) -> None:
    """Write a folder that AutoModelForCausalLM and AutoTokenizer load without code of ours.

    Raises UserError, before anything is written, if the model or the tokenizer has no counterpart.
    """
    check_formula(model)
    weights = to_theirs(model.state_dict(), places(model.config, "huggingface"))
    vocabulary, padding = to_tokenizer_json(tokenizer), padding_id(model, tokenizer)
    no_tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    files = {
        "config.json": _json(to_config_json(model.config)),
        "generation_config.json": _json(no_tokens),
        WEIGHTS: tensors_to_bytes(weights, {}),
        TOKENIZER_FILE: _json(vocabulary),
        "tokenizer_config.json": _json(_tokenizer_config(model, tokenizer, vocabulary, padding)),
        "README.md": model_card(model, tokenizer, checkpoint, padding).encode(),
    }
    with replacing_folder(folder) as fresh:
        for name, content in files.items():
            (fresh / name).write_bytes(content)


def _tokenizer_config(
    model: GPT, tokenizer: Tokenizer, vocabulary: dict[str, Any], padding: int
) -> dict[str, Any]:
    ids = vocabulary["model"]["vocab"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": model.config.block_size,
        "pad_token": next(name for name, number in ids.items() if number == padding),
        "padding_side": "left",  # the answer follows the prompt
        # The name of the byte 0xFF is ÿ, which a text may have.
        "split_special_tokens": tokenizer.token_bytes(padding) == b"\xff",
    }


@torch.no_grad()
def padding_id(model: GPT, tokenizer: Tokenizer) -> int:
    """The id that pads prompts of different lengths in transformers, hidden by the attention mask.

    It has to be an id of the model: a new one would need another row in the embedding and the head,
    and so another logit. Best is one that no text has. Among characters there is none: then it is
    the one that the model expects least, because transformers leaves it out of texts when it skips
    special tokens (`skip_special_tokens=True`).
    """
    unused = unused_id(tokenizer)
    if unused is not None:
        return unused
    every_character = torch.arange(tokenizer.vocab_size)[None, : model.config.block_size]
    return int(model.eval()(every_character)[0].softmax(dim=-1).mean(dim=0).argmin())


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


# --- theirs to ours ---------------------------------------------------------------------------


def locate(init_from: str) -> str:
    """The path to load for --init_from=: a named GPT-2 is looked up in the Hugging Face cache.

    Raises UserError that says how to get a named one that is not there.
    """
    if init_from not in HUGGING_FACE_NAMES:
        return init_from
    by_hand = (
        f"put its config.json, {WEIGHTS} and {TOKENIZER_FILE} into a folder and write "
        f"--init_from=FOLDER"
    )
    if not importlib.util.find_spec("huggingface_hub"):
        raise UserError(
            f"init_from={init_from} looks into the cache of the package transformers: "
            f"pip install transformers, or {by_hand}"
        )
    from huggingface_hub import try_to_load_from_cache

    for repository in (f"openai-community/{init_from}", init_from):
        found = [try_to_load_from_cache(repository, name) for name in ("config.json", WEIGHTS)]
        if all(isinstance(path, str) for path in found):
            return str(Path(str(found[0])).parent)
    raise UserError(
        f"{init_from} is not in the cache of Hugging Face, and nothing is fetched unasked: "
        f"run hf download openai-community/{init_from}, or {by_hand}"
    )


def from_huggingface(folder: Path) -> dict[str, Any]:
    """Load a folder that `save_pretrained` wrote, as a checkpoint.

    Raises UserError naming what is missing, or what a model of ours cannot be.
    """
    with refuse_malformed(folder, "is no model of Hugging Face"):
        options = _read_json(folder / "config.json")
        config = from_config_json(options)
        weights = _read_weights(folder, options["model_type"])
        model = to_ours(weights, config, "huggingface")
        tokenizer = _read_tokenizer(folder, config.vocab_size)
    return {
        "model": model,
        "model_args": asdict(config),
        "tokenizer": tokenizer.to_dict(),
        "config": {},
    }


def _read_weights(folder: Path, kind: str) -> dict[str, Tensor]:
    """All weights of a folder, in one file or several, with the prefix of the whole model."""
    tensors: dict[str, Tensor] = {}
    for name in _weight_files(folder):
        tensors |= load_tensors(folder / name)
    weights = {name: tensor for name, tensor in tensors.items() if not name.endswith(NO_WEIGHTS)}
    prefix = "transformer." if kind == "gpt2" else "model."
    if any(name.startswith(prefix) for name in weights):
        return weights
    return {  # a model saved without its head
        name if name.startswith("lm_head.") else prefix + name: tensor
        for name, tensor in weights.items()
    }


def _weight_files(folder: Path) -> list[str]:
    """The names of the files of weights. Raises UserError if one is outside the folder."""
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return [WEIGHTS]
    names = {str(name) for name in _read_json(folder / INDEX)["weight_map"].values()}
    for name in names:
        if Path(name).name != name:
            raise UserError(f"its {INDEX} names {name}, which is not in the folder")
    return sorted(names)


def _read_json(path: Path, limit: int = MAX_CONFIG) -> dict[str, Any]:
    try:
        return dict(json.loads(read_small(path, limit)))
    except OSError as error:
        raise UserError(f"its {path.name} cannot be read: {error.strerror}") from None


def _read_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a Hugging Face folder: its tokenizer.json, or a meta.pkl of nanoGPT's."""
    vocabulary = find_vocabulary(folder)
    if not vocabulary:
        if vocab_size == TIKTOKEN_SIZES["gpt2"]:
            return load_tiktoken("gpt2")
        raise UserError(
            f"it does not say what its {vocab_size} tokens are: "
            f"put its {TOKENIZER_FILE} (or a {NANOGPT_FILE}) there"
        )
    if vocabulary.name == NANOGPT_FILE:
        return load_tokenizer(folder)
    data = _read_json(vocabulary, MAX_JSON_BYTES)
    if "kind" in data:  # it is of our format
        return tokenizer_from_dict(data)
    return from_tokenizer_json(data)
