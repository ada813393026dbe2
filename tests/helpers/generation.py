"""A tiny model and its tokenizers for tests of generation."""

from collections.abc import Sequence

import torch
from helpers.models import randomised
from torch import Tensor

from kqv.generation.sampling import generate
from kqv.options.settings import SampleSettings
from kqv.text.bpe import OWN_PATTERN, BpeTokenizer
from kqv.text.characters import CharTokenizer
from model import GPT, GPTConfig

VOCABULARY = CharTokenizer.of("abcdefghij\n")
POSITIONS = ["rope", "learned", "sinusoidal", "none"]


def byte_pairs() -> BpeTokenizer:
    """A few tokens of several characters, and one that ends inside a character."""
    return BpeTokenizer(
        "pairs",
        OWN_PATTERN,
        [bytes([byte]) for byte in range(256)] + [b"ab", b" a", b"\xf0\x9f", b"abc"],
    )


def model_with(block_size: int = 12, **options: object) -> GPT:
    return randomised(
        GPTConfig(VOCABULARY.vocab_size, block_size, n_layer=2, n_head=2, n_embd=16, **options)
    )


def some_ids(length: int, batch: int = 2) -> Tensor:
    return torch.randint(
        VOCABULARY.vocab_size, (batch, length), generator=torch.Generator().manual_seed(5)
    )


def tokens_of(model: GPT, prompt: Sequence[int], **options: object) -> list[list[int]]:
    """The new tokens of each sample."""
    sampling = SampleSettings(**{"max_new_tokens": 30, **options})
    return [
        list(tokens)
        for tokens in zip(*(tokens for tokens, _ in generate(model, prompt, sampling)), strict=True)
    ]
