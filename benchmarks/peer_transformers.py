"""transformers as a peer, in a process of its own.

    python -m benchmarks.peer_transformers train '{"n_layer": 4, ...}'     prints tokens/s
    python -m benchmarks.peer_transformers sample '{"n_layer": 6, ...}'    prints characters/s

Weights are random, which makes no difference to the speed. Nothing of kqv is imported here.
"""

import json
import sys
import time
from statistics import median
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

CHARACTERS = 500  # in a sample
VOCABULARY = 65  # as many characters as tiny Shakespeare has
WARMUP_STEPS = 3


def gpt2(shape: dict[str, Any], positions: int) -> Any:
    """A GPT-2 of transformers, without dropout."""
    config: dict[str, Any] = dict(
        n_layer=shape["n_layer"], n_head=shape["n_head"], n_embd=shape["n_embd"]
    )
    config |= dict(vocab_size=VOCABULARY, n_positions=positions, bos_token_id=0, eos_token_id=None)
    return GPT2LMHeadModel(GPT2Config(**config, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def train(shape: dict[str, Any]) -> float:
    """Tokens/s of the median training step with torch's fused AdamW."""
    model = gpt2(shape, shape["block_size"])
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


def sample(shape: dict[str, Any]) -> float:
    """Characters/s of `generate`, with its KV cache."""
    model = gpt2(shape, CHARACTERS + 1).eval()
    began = time.perf_counter()
    model.generate(
        torch.zeros(1, 1, dtype=torch.long),
        do_sample=True,
        max_new_tokens=CHARACTERS,
        pad_token_id=0,
    )
    return CHARACTERS / (time.perf_counter() - began)


if __name__ == "__main__":
    print({"train": train, "sample": sample}[sys.argv[1]](json.loads(sys.argv[2])))
