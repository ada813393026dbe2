"""Weights and settings in one .safetensors file, both directions; and tensors of any such file.

Hugging Face folders keep their weights in the same format (kqv/exchange/huggingface.py).
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from kqv.errors import UserError
from kqv.exchange.malformed import MAX_DETAIL, one_line, refuse_malformed
from kqv.files import check_safetensors_header, replacing
from kqv.text.tokenizer import Tokenizer
from model import GPT

SOURCE_TOKENIZER = "source_tokenizer"  # of an encoder-decoder with two vocabularies
NOTE = "kqv"  # the entry of the file's metadata with our settings, as JSON


def to_safetensors(
    model: GPT, tokenizer: Tokenizer, checkpoint: dict[str, Any], path: Path
) -> None:
    """Write weights and settings to one file, which `sample.py --init_from=FILE` reads."""
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    if model.config.tie_weights:
        del weights["head.weight"]  # it is the embedding
    if model.config.has_cross_attention and not model.config.source_vocab_size:
        del weights["encoder.embedding.weight"]  # so is this
    settings = {
        "model_args": asdict(model.config),
        "tokenizer": tokenizer.to_dict(),
        "config": checkpoint.get("config", {}),
    }
    if SOURCE_TOKENIZER in checkpoint:
        settings[SOURCE_TOKENIZER] = checkpoint[SOURCE_TOKENIZER]
    content = tensors_to_bytes(weights, {NOTE: json.dumps(settings)})
    with replacing(path) as file:
        file.write(content)


def from_safetensors(path: Path) -> dict[str, Any]:
    """Load a file that `to_safetensors` wrote, as a checkpoint.

    Raises UserError if it is damaged, or has no settings of ours.
    """
    weights = load_tensors(path)
    with safe_open(path, framework="pt") as file:
        notes = file.metadata() or {}
    if NOTE not in notes:
        raise UserError(
            f"{path} has weights and no settings: "
            f"name the folder that has its config.json, or a checkpoint"
        )
    with refuse_malformed(path):
        settings = json.loads(notes[NOTE])
        names = ["model_args", "tokenizer", "config"]
        names += [SOURCE_TOKENIZER] if SOURCE_TOKENIZER in settings else []
        parts = {part: dict(settings[part]) for part in names}
        shared = ["head.weight"]
        if parts["model_args"].get("architecture") == "encoder_decoder":
            shared += ["encoder.embedding.weight"]
        for name in shared:
            weights.setdefault(name, weights["embedding.weight"])
    return {"model": weights, **parts}


def tensors_to_bytes(weights: dict[str, Tensor], notes: dict[str, str]) -> bytes:
    """The content of a .safetensors file with these tensors and, in its metadata, these notes."""
    return save(weights, {"format": "pt", **notes})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors file, on the CPU. Raises UserError if it cannot be read."""
    try:
        check_safetensors_header(path)
        return load_file(path)
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}: load the model with transformers and save_pretrained it again, "
            f"which writes it"
        ) from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)[:MAX_DETAIL]}") from None
