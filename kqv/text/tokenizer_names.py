"""What --tokenizer= accepts, and the size of each vocabulary; imports nothing slow.

char        the characters of the text
bytes       the 256 bytes
jamo        the characters of pairs, Korean syllables cut into their letters
symbols     the symbols of pairs, which spaces separate: "k ɝ n ə l"
gpt2        GPT-2's byte pairs, and other vocabularies of tiktoken by their names
bpe:1024    1024 byte pairs trained on the text, with rustbpe
"""

import difflib
import importlib.util

from kqv.errors import UserError

SIMPLE = ("char", "bytes", "jamo", "symbols")  # need no package and no size
MIN_BPE_SIZE, MAX_BPE_SIZE = 257, 100_000  # tokens; the first 256 are the bytes

# Vocabularies that come with tiktoken, and how many tokens each has.
TIKTOKEN_SIZES = {
    "gpt2": 50257,
    "r50k_base": 50257,
    "p50k_base": 50281,
    "cl100k_base": 100277,
    "o200k_base": 200019,
}


def named_vocab_size(name: str) -> int | None:
    """Vocabulary size of the tokenizer of this name; None where the text decides."""
    if name.startswith("bpe:"):
        return int(name.removeprefix("bpe:"))
    return 256 if name == "bytes" else TIKTOKEN_SIZES.get(name)


def check_tokenizer_name(name: str) -> None:
    """Raises UserError if there is no such tokenizer, or a package that it needs is missing.

    Imports none of these packages.
    """
    if name in SIMPLE:
        return
    needed = ["tiktoken"]
    if name == "bpe" or name.startswith("bpe:"):
        _check_bpe_size(name)
        needed.append("rustbpe")
    elif name not in TIKTOKEN_SIZES:
        names = [*SIMPLE, *TIKTOKEN_SIZES, "bpe:1024"]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"choose one of {', '.join(names)}"
        if near:
            hint = f"did you mean {near[0]}? (all: {', '.join(names)})"
        raise UserError(f"tokenizer={name}: no such tokenizer; {hint}")
    for package in needed:
        if not importlib.util.find_spec(package):
            raise UserError(f"tokenizer={name} needs the package {package}: pip install {package}")


def _check_bpe_size(name: str) -> None:
    size = name.removeprefix("bpe:")
    is_number = size.isascii() and size.isdecimal()
    if not (is_number and MIN_BPE_SIZE <= int(size[:9]) <= MAX_BPE_SIZE):
        raise UserError(
            f"tokenizer={name}: the size must be from {MIN_BPE_SIZE} to {MAX_BPE_SIZE:,}, "
            f"for example --tokenizer=bpe:1024"
        )
