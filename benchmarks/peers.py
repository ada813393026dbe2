"""Peers that are libraries: bench.py measures each in a process of its own.

    python -m benchmarks.peers transformers-train '{"n_layer": 4, ...}'     prints tokens/s
    python -m benchmarks.peers transformers-sample '{"n_layer": 6, ...}'    prints characters/s
    python -m benchmarks.peers llama.cpp '{"n_layer": 6, ...}'              prints characters/s

Weights are random, which makes no difference to the speed. Nothing of kqv is imported here.
"""

import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

CHARACTERS = 500  # in a sample
VOCABULARY = 65  # as many characters as tiny Shakespeare has
WARMUP_STEPS = 3


def missing(*packages: str) -> bool:
    """Whether one of these packages cannot be imported."""
    return any(importlib.util.find_spec(package) is None for package in packages)


def transformers_gpt2(shape: dict[str, Any], positions: int) -> Any:
    """A GPT-2 of transformers, without dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config: dict[str, Any] = dict(
        n_layer=shape["n_layer"], n_head=shape["n_head"], n_embd=shape["n_embd"]
    )
    config |= dict(vocab_size=VOCABULARY, n_positions=positions, bos_token_id=0, eos_token_id=None)
    return GPT2LMHeadModel(GPT2Config(**config, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def transformers_train(shape: dict[str, Any]) -> float:
    """Tokens/s of the median training step with torch's fused AdamW."""
    import torch

    model = transformers_gpt2(shape, shape["block_size"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    times = []
    for _ in range(shape["steps"]):
        began = time.perf_counter()
        ids = torch.randint(VOCABULARY, (shape["batch_size"], shape["block_size"]))
        model(ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - began)
    return shape["batch_size"] * shape["block_size"] / median(times[WARMUP_STEPS:])


def transformers_sample(shape: dict[str, Any]) -> float:
    """Characters/s of `generate`, with its KV cache."""
    import torch

    model = transformers_gpt2(shape, CHARACTERS + 1).eval()
    began = time.perf_counter()
    model.generate(
        torch.zeros(1, 1, dtype=torch.long),
        do_sample=True,
        max_new_tokens=CHARACTERS,
        pad_token_id=0,
    )
    return CHARACTERS / (time.perf_counter() - began)


def llama_cpp_sample(shape: dict[str, Any]) -> float:
    """Characters/s of llama.cpp in float32 on all cores, as its server reports them."""
    import xllamacpp

    with tempfile.TemporaryDirectory() as folder:
        params: Any = xllamacpp.CommonParams()
        params.model.path = str(write_qwen3(shape, Path(folder) / "model.gguf"))
        params.n_ctx, params.n_parallel = 2 * CHARACTERS, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count()
        request = {"prompt": [1], "n_predict": CHARACTERS, "ignore_eos": True, "temperature": 0.8}
        answer = xllamacpp.Server(params).handle_completions(request)
    timings = (json.loads(answer) if isinstance(answer, str) else answer)["timings"]
    assert timings["predicted_n"] == CHARACTERS, timings
    return timings["predicted_per_second"]


def write_qwen3(shape: dict[str, Any], path: Path) -> Path:
    """Write a model of Qwen3's family as a GGUF file, which is what llama.cpp reads."""
    import gguf
    import numpy as np

    width, d_k = shape["n_embd"], shape["n_embd"] // shape["n_head"]
    hidden = 32 * -(-width * 8 // 96)  # 8/3 of the width, rounded up to a multiple of 32
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(shape["n_layer"])
    writer.add_context_length(2 * CHARACTERS)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(shape["n_head"])
    writer.add_head_count_kv(shape["n_head"])
    writer.add_key_length(d_k)
    writer.add_value_length(d_k)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([chr(33 + token) for token in range(VOCABULARY)])
    writer.add_token_types([gguf.TokenType.NORMAL] * VOCABULARY)
    writer.add_token_merges(["! !"])
    random = np.random.default_rng(0)
    for name, size in weight_shapes(shape["n_layer"], width, d_k, hidden).items():
        weight = (0.05 * random.standard_normal(size)).astype(np.float32)
        writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weight_shapes(layers: int, width: int, d_k: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """The weights of a Qwen3 by their names in GGUF."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (VOCABULARY, width),
        "output": (VOCABULARY, width),
        "output_norm": (width,),
    }
    block: dict[str, tuple[int, ...]] = {
        "attn_norm": (width,),
        "attn_q_norm": (d_k,),
        "attn_k_norm": (d_k,),
        "attn_q": (width, width),
        "attn_k": (width, width),
        "attn_v": (width, width),
        "attn_output": (width, width),
        "ffn_norm": (width,),
        "ffn_gate": (hidden, width),
        "ffn_up": (hidden, width),
        "ffn_down": (width, hidden),
    }
    for layer in range(layers):
        shapes |= {f"blk.{layer}.{name}": size for name, size in block.items()}
    return shapes


PEERS = {
    "transformers-train": transformers_train,
    "transformers-sample": transformers_sample,
    "llama.cpp": llama_cpp_sample,
}

if __name__ == "__main__":
    print(PEERS[sys.argv[1]](json.loads(sys.argv[2])))
