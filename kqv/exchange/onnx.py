"""A model as an ONNX file: ids in (and a source, for an encoder-decoder), logits out.

There is no way back.
"""

import json
import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kqv.errors import UserError
from kqv.exchange.safetensors import SOURCE_TOKENIZER
from kqv.files import replacing
from kqv.text.tokenizer import Tokenizer
from model import GPT, RMSNorm

MAX_ONNX = 2**31  # bytes; a larger model would need files beside it


def to_onnx(model: GPT, tokenizer: Tokenizer, checkpoint: dict[str, Any], path: Path) -> None:
    """Write the graph of ids (batch, time), int64, to logits (batch, time, vocab_size), float32.

    That of an encoder-decoder takes the source, too: (batch, source_time), int64, which ends with
    -1 where others are longer. Batch and time are dynamic, time up to block_size. The tokenizer is
    in the file's metadata, and that of the source if it has another.

    Raises UserError for a model that is too large, or too short to have a dynamic time.
    """
    if (size := 4 * model.parameter_count()) > MAX_ONNX:
        raise UserError(
            f"an ONNX file holds 2 GB, and the model has {size / 1e9:.1f}: take another format"
        )
    if model.config.block_size < 3:
        raise UserError(
            f"block_size={model.config.block_size} leaves no length to vary: ONNX needs 3 or more"
        )
    program = _exported(_with_plain_norms(model))
    settings = {"model_args": asdict(model.config), "tokenizer": tokenizer.to_dict()}
    if SOURCE_TOKENIZER in checkpoint:
        settings[SOURCE_TOKENIZER] = checkpoint[SOURCE_TOKENIZER]
    program.model.metadata_props["kqv"] = json.dumps(settings)
    content = program.model_proto.SerializeToString()
    with replacing(path) as file:
        file.write(content)


def _exported(model: GPT) -> Any:
    """The model as a torch.onnx.ONNXProgram."""
    longest, batch = model.config.block_size, torch.export.Dim("batch")
    inputs = {"ids": torch.zeros(2, 3, dtype=torch.int64)}
    dynamic = {"ids": {0: batch, 1: torch.export.Dim("time", min=1, max=longest)}}
    if model.config.has_cross_attention:
        inputs["source"] = torch.zeros(2, 3, dtype=torch.int64)
        dynamic["source"] = {0: batch, 1: torch.export.Dim("source_time", min=1, max=longest)}
    # It logs each optional package that it does not find, and warns of its own parts.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            model,
            kwargs=inputs,
            dynamo=True,
            input_names=[*inputs],
            output_names=["logits"],
            dynamic_shapes=dynamic,
            verbose=False,
        )


def _with_plain_norms(model: GPT) -> GPT:
    """A copy of the model with torch's RMSNorm: the exporter cannot trace an autograd.Function."""
    copy = GPT(model.config)
    copy.load_state_dict(model.state_dict())
    for name, module in list(copy.named_modules()):
        if isinstance(module, RMSNorm):
            parent, _, child = name.rpartition(".")
            plain = nn.RMSNorm(len(module.weight), eps=module.epsilon)
            plain.weight = module.weight
            setattr(copy.get_submodule(parent), child, plain)
    if model.config.window or model.config.attention_score != "dot":
        copy.fuse_attention(False)  # a number of chunks would fix the time, which is dynamic
    return copy.eval()
