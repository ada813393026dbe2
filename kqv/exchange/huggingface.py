"""Folders of Hugging Face with a model of one of the families, both directions.

    to_huggingface(...)      a folder that transformers loads without code of ours
    from_huggingface(...)    a checkpoint from a folder that `save_pretrained` wrote
    locate("gpt2-medium")    the folder of a named GPT-2 in the cache of Hugging Face

Nothing is fetched from the network, and no code in a folder is run.
"""

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kqv.errors import UserError
from kqv.exchange.config_json import TOKEN_TYPES, from_config_json, to_config_json
from kqv.exchange.families import check_formula, places, to_ours, to_theirs
from kqv.exchange.malformed import refuse_malformed
from kqv.exchange.model_card import model_card
from kqv.exchange.safetensors import load_tensors, tensors_to_bytes
from kqv.exchange.tokenizer_json import from_tokenizer_json, to_tokenizer_json, unused_id
from kqv.files import read_small, replacing_folder
from kqv.options.checks import HUGGING_FACE_NAMES
from kqv.progress import say_once
from kqv.text.registry import (
    MAX_JSON_BYTES,
    NANOGPT_FILE,
    TOKENIZER_FILE,
    find_vocabulary,
    load_tokenizer,
    tokenizer_from_dict,
)
from kqv.text.tiktoken_files import load_tiktoken
from kqv.text.tokenizer import DOCUMENT_END, MASK, TARGET_BEGIN, Tokenizer
from kqv.text.tokenizer_names import TIKTOKEN_SIZES
from model import GPT, GPTConfig

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_CONFIG = 1 << 24  # bytes of a config.json or an index

# Tensors in old files that are no weights (masks and tables) or are copies of others.
NO_WEIGHTS = (
    *(".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq", ".position_ids"),
    *("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
)
# What the names of all weights of a whole model begin with, and the names of its head.
PREFIXES = {"gpt2": "transformer.", "qwen3": "model.", "bert": "bert.", "t5": ""}
HEADS = ("lm_head.", "cls.")
BERT_POSITIONS = "bert.embeddings.position_embeddings.weight"
BERT_TYPES = "bert.embeddings.token_type_embeddings.weight"


# --- ours to theirs ---------------------------------------------------------------------------


def to_huggingface(
    model: GPT, tokenizer: Tokenizer, checkpoint: dict[str, Any], folder: Path
) -> None:
    """Write a folder that the classes of transformers load without code of ours: AutoTokenizer, and
    AutoModelForCausalLM, AutoModel (BERT) or AutoModelForSeq2SeqLM (T5).

    Raises UserError, before anything is written, if the model or the tokenizer has no counterpart.
    """
    check_formula(model)
    weights = to_theirs(model.state_dict(), places(model.config, "huggingface"))
    if model.config.architecture == "encoder":
        weights[BERT_TYPES] = torch.zeros(TOKEN_TYPES, model.config.n_embd)
    vocabulary, padding = to_tokenizer_json(tokenizer), padding_id(model, tokenizer)
    tokens = token_ids(model.config, tokenizer)
    files = {
        "config.json": _json(to_config_json(model.config) | tokens),
        "generation_config.json": _json({"pad_token_id": None} | tokens),
        WEIGHTS: tensors_to_bytes(weights, {}),
        TOKENIZER_FILE: _json(vocabulary),
        "tokenizer_config.json": _json(_tokenizer_config(model, tokenizer, vocabulary, padding)),
        "README.md": model_card(model, tokenizer, checkpoint, padding).encode(),
    }
    with replacing_folder(folder) as fresh:
        for name, content in files.items():
            (fresh / name).write_bytes(content)


def token_ids(config: GPTConfig, tokenizer: Tokenizer) -> dict[str, int | None]:
    """The keys of config.json for tokens that begin, end and pad a text.

    No id begins or ends a text of a decoder; where nothing is said, transformers takes GPT-2's
    50256. Raises UserError if the vocabulary lacks a token that the architecture needs.
    """
    found: dict[str, int | None] = {"bos_token_id": None, "eos_token_id": None}
    if config.architecture == "encoder":
        tokenizer.marker_id(MASK)  # raises: the files of the tokenizer name it
        found["pad_token_id"] = None  # BERT would not train the embedding of that token
    if config.has_cross_attention:
        end = tokenizer.marker_id(DOCUMENT_END)
        begin = tokenizer.marker_id(TARGET_BEGIN)
        found |= {"decoder_start_token_id": begin, "eos_token_id": end, "pad_token_id": end}
    return found


def _tokenizer_config(
    model: GPT, tokenizer: Tokenizer, vocabulary: dict[str, Any], padding: int
) -> dict[str, Any]:
    name_of = {number: name for name, number in vocabulary["model"]["vocab"].items()}
    special = {"pad_token": padding}
    if model.config.architecture == "encoder":
        special |= {"mask_token": tokenizer.marker_id(MASK)}
    if model.config.has_cross_attention:
        special |= {"bos_token": tokenizer.marker_id(TARGET_BEGIN)}
        special |= {"eos_token": tokenizer.marker_id(DOCUMENT_END)}
    found = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": model.config.block_size,
        **{key: name_of[number] for key, number in special.items()},
        "padding_side": "left",  # the answer follows the prompt
        # The name of the byte 0xFF is ÿ, which a text may have.
        "split_special_tokens": any(
            name_of[number] != tokenizer.decode([number]) for number in special.values()
        ),
    }
    if model.config.architecture != "decoder":  # no segments, which T5 has not at all
        found |= {"model_input_names": ["input_ids", "attention_mask"], "padding_side": "right"}
    return found


@torch.no_grad()
def padding_id(model: GPT, tokenizer: Tokenizer) -> int:
    """The id that pads prompts of different lengths in transformers, hidden by the attention mask.

    It has to be an id of the model: a new one would need another row in the embedding and the head,
    and so another logit. Best is one that no text has. Among characters there is none: then it is
    the one that the model expects least, because transformers leaves it out of texts when it skips
    special tokens (`skip_special_tokens=True`). An encoder pads with its mask, and an
    encoder-decoder with the end of a target.
    """
    if model.config.architecture == "encoder":
        return tokenizer.marker_id(MASK)
    if (given := token_ids(model.config, tokenizer).get("pad_token_id")) is not None:
        return given
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
        _check_tokens(options, token_ids(config, tokenizer))
    return {
        "model": model,
        "model_args": asdict(config),
        "tokenizer": tokenizer.to_dict(),
        "config": {},
    }


def _check_tokens(options: dict[str, Any], ours: dict[str, int | None]) -> None:
    """Raises UserError if a target begins or ends with another token than in a model of ours."""
    for key in ("decoder_start_token_id", "eos_token_id"):
        if ours.get(key) is not None and options.get(key) not in (None, ours[key]):
            raise UserError(
                f"its {key} is {str(options[key])[:50]}, and a target of ours begins with U+0002 "
                f"and ends with U+0003, here {ours['decoder_start_token_id']} and "
                f"{ours['eos_token_id']}"
            )


def _read_weights(folder: Path, kind: str) -> dict[str, Tensor]:
    """All weights of a folder, in one file or several, with the prefix of the whole model."""
    tensors: dict[str, Tensor] = {}
    for name in _weight_files(folder):
        tensors |= load_tensors(folder / name)
    weights = {name: tensor for name, tensor in tensors.items() if not name.endswith(NO_WEIGHTS)}
    prefix = PREFIXES[kind]
    if not any(name.startswith(prefix) for name in weights):  # a model saved without its head
        weights = {
            name if name.startswith(HEADS) else prefix + name: tensor
            for name, tensor in weights.items()
        }
    if kind == "bert":
        return _bert_encoder(weights, folder)
    if kind == "t5" and "lm_head.weight" not in weights:  # saved once where the two are the same
        weights["lm_head.weight"] = weights["shared.weight"].clone()
    return weights


def _bert_encoder(weights: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The weights of BERT that a model of ours has: those of the first segment are part of the
    positions; it has no pooler, and not BERT's head of masked language."""
    left_out = [name for name in weights if name.startswith(("cls.", "bert.pooler."))]
    for name in left_out:
        del weights[name]
    if left_out:  # it was not exported by kqv
        say_once(
            f"{folder}: the hidden states are BERT's, the predictions are not: a model of ours has "
            f"no such head, and takes the embedding for it until it is trained"
        )
    for name in (BERT_POSITIONS, BERT_TYPES):
        if name not in weights:
            raise UserError(f"it has no weight {name}")
    positions, types = weights[BERT_POSITIONS], weights.pop(BERT_TYPES)
    if types.shape[1:] != positions.shape[1:]:
        raise UserError(f"its {BERT_TYPES} and its positions are not of one width")
    weights[BERT_POSITIONS] = positions.float() + types[0].float()
    return weights


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
