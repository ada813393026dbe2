"""Byte-pair tokenizers for tests, and texts that are hard on them."""

from functools import cache

import pytest
from hypothesis import strategies as st

from kqv.text.bpe import OWN_PATTERN, PATTERNS, BpeTokenizer
from kqv.text.bpe_training import train_bpe

ALL_BYTES = [bytes([byte]) for byte in range(256)]
MERGED = [b"th", b" c", b"the", b"at", b" cat", b"\n\n", b".."]
PAIRS = BpeTokenizer("pairs", OWN_PATTERN, [*ALL_BYTES, *MERGED, "山".encode(), b"'s"])
WITH_END = BpeTokenizer(
    "with end", OWN_PATTERN, [*ALL_BYTES, *MERGED], {"<|endoftext|>": 263, "<|other|>": 264}
)

ENGLISH = (
    "The cat's on the mat, isn't it? It's 1,234 times as big.\n\n  He said: \"I've no idea!\"\n" * 9
)
ALPHABETS = [
    "the cat 's\n",
    "山水。a，\n ",
    "a1! \n\t'sSdD",
    "😀é\u0301 x\r\n/",
    "\u00a0\u2028 .,;:!?x1\u00b2",
]
HARD_TEXTS = st.sampled_from(ALPHABETS).flatmap(
    lambda alphabet: st.text(alphabet, max_size=60)
) | st.text(max_size=40)


@cache
def trained(size: int = 300) -> BpeTokenizer:
    """Byte pairs trained on an English text and a few other characters."""
    pytest.importorskip("rustbpe")
    return train_bpe(f"bpe:{size}", [ENGLISH, "山水文字。é😀"])


def split_as(pattern: str) -> BpeTokenizer:
    """The same tokens with one of the patterns, and a special token."""
    return BpeTokenizer("test", PATTERNS[pattern], trained().tokens, {"<|end|>": 400})
