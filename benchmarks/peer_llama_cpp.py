"""llama.cpp as a peer, in a process of its own.

    python -m benchmarks.peer_llama_cpp sample '{"n_layer": 6, ...}'    prints characters/s

Weights are random, which makes no difference to the speed. Nothing of kqv is imported here.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import xllamacpp

CHARACTERS = 500  # in a sample
VOCABULARY = 65  # as many characters as tiny Shakespeare has


def sample(shape: dict[str, Any]) -> float:
    """Characters/s of llama.cpp in float32 on all cores, as its server reports them."""
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


if __name__ == "__main__":
    print({"sample": sample}[sys.argv[1]](json.loads(sys.argv[2])))
