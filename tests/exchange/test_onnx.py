"""ONNX: onnxruntime computes the same logits for any batch and length."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.exchange import CHECKPOINT, shaped
from helpers.models import SHAPE, random_ids, randomised

from kqv.exchange.onnx import to_onnx
from kqv.text.characters import CharTokenizer
from model import PADDING, GPTConfig

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("shape", [pytest.param("gpt2", marks=pytest.mark.slow), "qwen3"])
def test_onnxruntime_computes_the_same_for_any_batch_and_length(shape: str, tmp_path: Path) -> None:
    model, tokenizer = shaped(shape, n_layer=1)
    path = tmp_path / "model.onnx"
    to_onnx(model, tokenizer, CHECKPOINT, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch, time in ((1, 1), (3, 40), (1, 96)):
        ids = random_ids(model.config, batch, time)
        (logits,) = session.run(["logits"], {"ids": ids.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), model(ids), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"attention_score": "linear"},
        {"attention_score": "performer"},
        {"window": 20, "global_tokens": 2},
        {"architecture": "encoder", "linformer_rank": 4},
    ],
    ids=str,
)
def test_efficient_attention_takes_any_length_there_too(
    options: dict[str, Any], tmp_path: Path
) -> None:
    model = randomised(GPTConfig(**SHAPE | {"block_size": 300, "n_layer": 1} | options))
    path = tmp_path / "model.onnx"
    to_onnx(model, CharTokenizer.of("abcdefghijk"), CHECKPOINT, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch, time in ((1, 1), (3, 40), (1, 300)):
        ids = random_ids(model.config, batch, time)
        (logits,) = session.run(["logits"], {"ids": ids.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), model(ids), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["bert", "t5"])
def test_an_encoder_and_a_translator_run_there_too(shape: str, tmp_path: Path) -> None:
    model, tokenizer = shaped(shape, n_layer=1)
    path = tmp_path / "model.onnx"
    to_onnx(model, tokenizer, CHECKPOINT, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch, time, source_time in ((1, 1, 1), (3, 40, 7), (1, 96, 96)):
        inputs = {"ids": random_ids(model.config, batch, time)}
        if shape == "t5":
            inputs["source"] = random_ids(model.config, batch, source_time)
            inputs["source"][:, 1 + source_time // 2 :] = PADDING
        (logits,) = session.run(["logits"], {name: ids.numpy() for name, ids in inputs.items()})
        with torch.no_grad():
            expected = model(**inputs)
        torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=0)
