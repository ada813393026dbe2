"""A .safetensors file of ours: weights and settings come back, others are refused by name."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.exchange import CHECKPOINT, equal_weights, shaped
from safetensors.torch import save_file

from kqv.checkpoints.loading import load_model
from kqv.exchange.safetensors import to_safetensors


@pytest.mark.parametrize("shape", ["gpt2", "qwen3 tied", "bert", "t5"])
def test_a_safetensors_file_has_weights_and_settings(shape: str, tmp_path: Path) -> None:
    model, tokenizer = shaped(shape)
    to_safetensors(model, tokenizer, CHECKPOINT, tmp_path / "model.safetensors")
    back = load_model(str(tmp_path / "model.safetensors"))
    assert back.model.config == model.config and back.tokenizer == tokenizer
    assert equal_weights(model, back.model)


@pytest.mark.parametrize("note", [None, "", "[]", "{}", "[" * 100_000, '{"model_args": 3}'])
def test_a_file_without_settings_of_ours_is_one_line(
    note: str | None, tmp_path: Path, refused: Callable
) -> None:
    path = tmp_path / "model.safetensors"
    notes = {} if note is None else {"kqv": note}
    save_file({"embedding.weight": torch.ones(2, 2)}, path, metadata=notes)
    with refused(str(path), "no settings" if note is None else "cannot be used"):
        load_model(str(path))
