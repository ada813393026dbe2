"""The other side of an exchange: llama.cpp, tokenizers, nanoGPT's optimizer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

CHARACTERS = "\n\t !\"'\\,-.:ABHTabcdefghilmnorstuwxyz|é山😀"


def learnt_pairs(end: bool = True) -> dict[str, Any]:
    """The tokenizer.json of byte pairs as the library of Hugging Face learns and writes them."""
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=sorted(alphabet), show_progress=False
    )
    theirs.train_from_iterator(
        ["the cat sat on the mat, the hat of the bat é é é\n\n" * 3], trainer
    )
    if end:
        theirs.add_special_tokens(["<|endoftext|>"])
    return json.loads(theirs.to_str())


class Llama:
    """llama.cpp with a model, its keys and values in float32 and without flash attention: by default it keeps 16 bits of them
    and decides about flash attention itself, which turns near-ties into other texts (docs/log.md has counts)."""

    def __init__(self, path: Path) -> None:
        x = pytest.importorskip("xllamacpp")
        params = x.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel, params.warmup = str(path), 96, 1, False
        params.cache_type_k = params.cache_type_v = x.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        self.server = x.Server(params)

    def complete(self, prompt: str | list[int], length: int, **more: Any) -> dict[str, Any]:
        request = {"prompt": prompt, "n_predict": length, "temperature": 0, "top_k": 1, **more}
        answer = self.server.handle_completions(request)
        return json.loads(answer) if isinstance(answer, str) else answer

    def loss(self, ids: list[int], vocab_size: int) -> float:
        """Mean nats per token of a text."""
        total = 0.0
        for place in range(1, len(ids)):
            answer = self.complete(ids[:place], 1, n_probs=vocab_size)
            (token,) = answer["choices"][0]["logprobs"]["content"]
            chances = {top["id"]: top["logprob"] for top in token["top_logprobs"]}
            total -= chances[ids[place]]
        return total / (len(ids) - 1)


def adamw(weights: dict[str, torch.nn.Parameter]) -> torch.optim.AdamW:
    """The optimizer as nanoGPT makes it."""
    groups = [{"params": [w for w in weights.values() if w.ndim >= 2], "weight_decay": 0.1}]
    groups += [{"params": [w for w in weights.values() if w.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99))


def gradients(weights: dict[str, torch.nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for weight in weights.values():
        weight.grad = torch.randn(weight.shape, generator=generator)
