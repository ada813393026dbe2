"""A tiny encoder-decoder and its tokenizers for tests of translation."""

import torch
from helpers.models import randomised
from torch import Tensor

from kqv.generation.targets import Ends
from kqv.text.characters import CharTokenizer
from kqv.text.tokenizer import PAIR_MARKERS, Tokenizer
from model import GPT, PADDING, GPTConfig

SOURCES: Tokenizer = CharTokenizer.of("abcdefghij")
TARGETS: Tokenizer = CharTokenizer.of("klmno").with_markers(PAIR_MARKERS)
ENDS = Ends.of(TARGETS)


def translating_model(block_size: int = 12, spread: float = 0.2, **options: object) -> GPT:
    config = GPTConfig(
        vocab_size=TARGETS.vocab_size,
        source_vocab_size=SOURCES.vocab_size,
        **{
            "block_size": block_size, "n_layer": 2, "n_head": 2, "n_embd": 16,
            "architecture": "encoder_decoder", **options,
        },
    )  # fmt: skip
    return randomised(config, spread=spread)


def padded(*texts: str) -> Tensor:
    """Sources of different lengths as one tensor."""
    longest = max(map(len, texts))
    rows = [SOURCES.encode(text) + [PADDING] * (longest - len(text)) for text in texts]
    return torch.tensor(rows)
