"""Models to exchange, and the other side of an exchange: llama.cpp, tokenizers, nanoGPT's AdamW."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.models import randomised

from kqv.exchange.tokenizer_json import from_tokenizer_json
from kqv.generation.sampling import generate_text
from kqv.options.config import BERT, T5
from kqv.options.settings import SampleSettings
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.tokenizer import MASK, PAIR_MARKERS, Tokenizer
from model import GPT, GPT2, GPTConfig

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {**GPT2, "bias": True},
    "gpt2 without biases": GPT2,
    "gpt2 tanh": {**GPT2, "mlp": "gelu_tanh", "bias": True},
    "gpt2 untied": {**GPT2, "tie_weights": False},
    "gpt2 of another width": {**GPT2, "mlp_width": 48},
    "qwen3": {},
    "qwen3 tied": {"tie_weights": True},
    "qwen3 of other widths": {"mlp_width": 48, "rope_base": 1e6},
}
# Models that read both ways, and those that translate.
OTHER_SHAPES: dict[str, dict[str, Any]] = {
    "bert": {**BERT, "bias": True},
    "bert without biases": {**BERT, "mlp": "relu", "tie_weights": True},
    "bert of another width": {**BERT, "mlp": "gelu_tanh", "mlp_width": 48, "norm_epsilon": 1e-12},
    "t5": T5,
    "t5 of other sizes": {**T5, "mlp_width": 48, "encoder_layers": 3, "norm_epsilon": 1e-5},
}
CHARACTERS = "\n\t !\"'\\,-.:ABHTabcdefghilmnorstuwxyz|é山😀"
PROMPT = "Hats a  é\nis 😀\n\n"
TEXTS = [
    *("", "a", " ", "   a  b", "\n\n \n", "é山😀", "Hat " * 5, "<unk>"),
    "He said: \"no\", 'no' \\ |\n\ttab",
]
CHECKPOINT: dict[str, Any] = {
    "config": {"dataset": "cache/animals-1", "learning_rate": 0.02},
    "iter_num": 20,
    "best_val_loss": 2.5,
    "text": "ab12",
    "sources": ["/home/me/my animals.txt"],
}


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
    text = "the cat sat on the mat, the hat of the bat é é é\n\n" * 3
    theirs.train_from_iterator([text], trainer)
    if end:
        theirs.add_special_tokens(["<|endoftext|>"])
    return json.loads(theirs.to_str())


VOCABULARIES: dict[str, Callable[[], Tokenizer]] = {
    "characters": lambda: CharTokenizer(CHARACTERS + "<k>"),
    "bytes": ByteTokenizer,
    "byte pairs": lambda: from_tokenizer_json(learnt_pairs()),
    "byte pairs without an end": lambda: from_tokenizer_json(learnt_pairs(end=False)),
}


def with_markers(tokenizer: Tokenizer, options: dict[str, Any]) -> Tokenizer:
    """The tokenizer with the markers that a model of these options needs."""
    markers = {"encoder": MASK, "encoder_decoder": PAIR_MARKERS}
    return tokenizer.with_markers(markers.get(options.get("architecture", "decoder"), ""))


def shaped(
    shape: str, tokenizer: Tokenizer | None = None, block_size: int = 96, n_layer: int = 2
) -> tuple[GPT, Tokenizer]:
    """A small random model of one of SHAPES or OTHER_SHAPES, and its tokenizer."""
    options = (SHAPES | OTHER_SHAPES)[shape]
    tokenizer = with_markers(tokenizer or CharTokenizer(CHARACTERS), options)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        block_size=block_size,
        n_layer=n_layer,
        n_head=2,
        n_embd=32,
        **options,
    )
    return randomised(config), tokenizer


def greedy(model: GPT, tokenizer: Tokenizer, prompt: str = PROMPT) -> str:
    """The likeliest 60 tokens after a prompt."""
    return generate_text(model, tokenizer, prompt, SampleSettings(temperature=0, max_new_tokens=60))


def equal_weights(one: GPT, other: GPT) -> bool:
    """Whether two models have the same weights, bit for bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(weight, theirs[name]) for name, weight in ours.items()
    )


class Llama:
    """llama.cpp with a model, its KV cache in float32 and without flash attention.

    By default it stores 16 bits and decides about flash attention itself, which turns near-ties
    into other texts (docs/log.md has counts).
    """

    def __init__(self, path: Path) -> None:
        x = pytest.importorskip("xllamacpp")
        params = x.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel, params.warmup = str(path), 96, 1, False
        params.cache_type_k = params.cache_type_v = x.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        self.server = x.Server(params)

    def complete(self, prompt: str | list[int], length: int, **more: Any) -> dict[str, Any]:
        """The server's answer to a request for the likeliest `length` tokens after a prompt."""
        request = {"prompt": prompt, "n_predict": length, "temperature": 0, "top_k": 1, **more}
        answer = self.server.handle_completions(request)
        return json.loads(answer) if isinstance(answer, str) else answer

    def loss(self, ids: list[int], vocab_size: int) -> float:
        """Mean nats per token of a text."""
        total = 0.0
        for place in range(1, len(ids)):
            answer = self.complete(ids[:place], 1, n_probs=vocab_size)
            (token,) = answer["choices"][0]["logprobs"]["content"]
            logprobs = {top["id"]: top["logprob"] for top in token["top_logprobs"]}
            total -= logprobs[ids[place]]
        return total / (len(ids) - 1)


def adamw(weights: dict[str, torch.nn.Parameter]) -> torch.optim.AdamW:
    """The optimizer as nanoGPT makes it."""
    groups = [{"params": [w for w in weights.values() if w.ndim >= 2], "weight_decay": 0.1}]
    groups += [{"params": [w for w in weights.values() if w.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99))


def set_gradients(weights: dict[str, torch.nn.Parameter], step: int) -> None:
    """Give each weight a random gradient that depends on the step."""
    generator = torch.Generator().manual_seed(step)
    for weight in weights.values():
        weight.grad = torch.randn(weight.shape, generator=generator)
