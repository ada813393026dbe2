"""From a model to the part of a checkpoint that sampling needs, and back."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kqv.checkpoints.sharded import holds_shapes
from kqv.errors import UserError
from kqv.exchange.malformed import refuse_malformed
from kqv.machine.parameters import count_parameters
from kqv.text.registry import tokenizer_from_dict
from kqv.text.tokenizer import Tokenizer
from model import GPT, GPTConfig

# Tables of positions are as long as block_size, and no weight in the file bounds that.
MAX_BLOCK_SIZE = 2**17


def model_state(
    model: GPT, tokenizer: Tokenizer, source_tokenizer: Tokenizer | None = None
) -> dict[str, Any]:
    """The part of a checkpoint that sampling needs. `source_tokenizer` is that of the sources of an
    encoder-decoder, if they have a vocabulary of their own."""
    state = {
        "model": model.state_dict(),
        "model_args": asdict(model.config),
        "tokenizer": tokenizer.to_dict(),
    }
    if source_tokenizer and source_tokenizer is not tokenizer:
        state["source_tokenizer"] = source_tokenizer.to_dict()
    return state


def restore_source_tokenizer(state: dict[str, Any], tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer of the sources: `tokenizer`, that of the targets, if they have none of their
    own. The checkpoint is one that `restore_model` accepted."""
    own = state.get("source_tokenizer")
    return tokenizer_from_dict(own) if own else tokenizer


def restore_model(
    state: dict[str, Any], path: Path, block_size: int | None = None
) -> tuple[GPT, Tokenizer]:
    """Make the model and the tokenizer of a checkpoint.

    A smaller `block_size` cuts off the positions beyond it. The weights of a checkpoint that holds
    shapes only are to be loaded later.

    Raises UserError if its parts do not fit together.
    """
    with refuse_malformed(path):
        config, weights = GPTConfig(**state["model_args"]), state["model"]
        tokenizer = tokenizer_from_dict(state["tokenizer"])
        _check_vocabulary(tokenizer, config.vocab_size)
        if config.has_cross_attention:
            source = restore_source_tokenizer(state, tokenizer)
            _check_vocabulary(source, config.encoder.vocab_size)
        _check_size(config, weights)
        if block_size and block_size < config.block_size:
            config = replace(config, block_size=block_size)
            weights = {name: first_positions(name, weights[name], block_size) for name in weights}
        model = GPT(config)
        if not holds_shapes(state):
            model.load_state_dict(weights)
    return model, tokenizer


def first_positions(name: str, weight: Tensor, block_size: int) -> Tensor:
    """What a model of a shorter block_size takes of a weight: of learned positions the first rows,
    of Linformer's projections along time the first columns."""
    if name.endswith("positions.weight"):
        return weight[:block_size]
    if name.endswith(("mix_keys.weight", "mix_values.weight")):
        return weight[:, :block_size]
    return weight


def _check_vocabulary(tokenizer: Tokenizer, size: int) -> None:
    """Raises UserError unless the model has a row for each token, of `size` rows.

    With byte pairs it may have more, as nanoGPT's and Qwen3's do.
    """
    padded = tokenizer.kind == "bpe" and tokenizer.vocab_size < size
    if tokenizer.vocab_size != size and not padded:
        raise UserError("the vocabulary is not the model's")


def _check_size(config: GPTConfig, weights: dict[str, Any]) -> None:
    """Raises UserError if a model of this config has more parameters than the checkpoint.

    A file can claim any size, and making the model would take that much memory.
    """
    if config.block_size > MAX_BLOCK_SIZE or count_parameters(config) > _stored_numbers(weights):
        raise UserError("its weights are not the model's")


def _stored_numbers(weights: Mapping[str, Any]) -> int:
    """How many numbers the weights hold in memory; tied or expanded ones are counted once.

    Raises UserError if one is no tensor of real numbers.
    """
    if holds_shapes({"model": weights}):
        return sum(map(math.prod, weights.values()))
    count_of = {}
    for weight in weights.values():
        if not (isinstance(weight, torch.Tensor) and weight.is_floating_point()):
            raise UserError("its weights are no tensors of real numbers")
        storage = weight.untyped_storage()
        count_of[storage.data_ptr()] = storage.nbytes() // weight.element_size()
    return sum(count_of.values())
