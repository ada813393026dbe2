"""A tokenizer from its name, as --tokenizer= gives it.

    char        the characters of the text
    bytes       256 ids
    gpt2        an encoding of tiktoken's, and others by their names
    bpe:1024    1024 byte pairs, learnt from the text with rustbpe

Once made, a tokenizer is kept with the ids and in checkpoints: no file is fetched twice, nothing is learnt twice.
"""

import difflib
import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kqv.errors import UserError

if TYPE_CHECKING:
    from kqv.text.bpe import BpeTokenizer
    from kqv.text.tokenizer import Tokenizer

SMALLEST, LARGEST = (
    257,
    100_000,
)  # sizes of a vocabulary that is learnt: the first 256 tokens are the bytes

# The files of tiktoken's encodings, and the pattern that each splits by (see kqv/text/bpe.py).
_ADDRESS = "https://openaipublic.blob.core.windows.net/"
ENCODINGS = {
    "gpt2": ("gpt2", ["gpt-2/encodings/main/vocab.bpe", "gpt-2/encodings/main/encoder.json"]),
    "r50k_base": ("gpt2", ["encodings/r50k_base.tiktoken"]),
    "p50k_base": ("gpt2", ["encodings/p50k_base.tiktoken"]),
    "cl100k_base": ("cl100k_base", ["encodings/cl100k_base.tiktoken"]),
    "o200k_base": ("o200k_base", ["encodings/o200k_base.tiktoken"]),
}
# How many tokens they have, which is to be known without the files.
SIZES = {
    "gpt2": 50257,
    "r50k_base": 50257,
    "p50k_base": 50281,
    "cl100k_base": 100277,
    "o200k_base": 200019,
}


def size_of(name: str) -> int | None:
    """How many tokens a vocabulary has, as far as its name tells: of characters it does not."""
    if name.startswith("bpe:"):
        return int(name.removeprefix("bpe:"))
    return 256 if name == "bytes" else SIZES.get(name)


def check_name(name: str) -> None:
    """Raises UserError if there is no such tokenizer, or a package that it needs is missing. Nothing is imported."""
    if name in ("char", "bytes"):
        return
    needed = ["tiktoken"]
    if name == "bpe" or name.startswith("bpe:"):
        size = name.removeprefix("bpe:")
        if not (size.isascii() and size.isdecimal() and SMALLEST <= int(size[:9]) <= LARGEST):
            raise UserError(
                f"tokenizer={name}: the size goes from {SMALLEST} to {LARGEST:,}, for example --tokenizer=bpe:1024"
            )
        needed.append("rustbpe")
    elif name not in ENCODINGS:
        names = ["char", "bytes", *ENCODINGS, "bpe:1024"]
        near = difflib.get_close_matches(name, names, n=1)
        hint = (
            f"did you mean {near[0]}? (all: {', '.join(names)})"
            if near
            else f"take one of {', '.join(names)}"
        )
        raise UserError(f"tokenizer={name}: there is none of this name; {hint}")
    for package in needed:
        if not importlib.util.find_spec(package):
            raise UserError(f"tokenizer={name} needs the package {package}: pip install {package}")


def make_tokenizer(
    name: str, characters: Iterable[str], texts: Iterable[str], documents: bool = False
) -> "Tokenizer":
    """The tokenizer of this name for a text with these `characters`, of which `texts` are the pieces to learn from; with
    `documents`, U+0003 ends each of them.

    Raises UserError if there is none, or what it needs is missing.
    """
    from kqv.text.tokenizer import ByteTokenizer, CharTokenizer

    check_name(name)
    if name == "char":
        return CharTokenizer.of(characters)
    if name == "bytes":
        return ByteTokenizer()
    if name in ENCODINGS:
        return named_encoding(name)
    return learnt_encoding(name, texts, documents)


def learnt_encoding(name: str, texts: Iterable[str], documents: bool = False) -> "BpeTokenizer":
    """A vocabulary of the byte pairs that are frequent in a text, and of <|endoftext|> as the last token if it has
    documents. A short text gives fewer than `name` asks for."""
    import rustbpe

    from kqv.text.bpe import END_OF_TEXT, OWN_PATTERN, BpeTokenizer, safe_pieces
    from kqv.text.tokenizer import END

    size = int(name.removeprefix("bpe:"))
    pieces = safe_pieces(texts, documents)
    if documents:
        pieces = (text for piece in pieces for text in piece.split(END))
    learner = rustbpe.Tokenizer()
    # it gathers as many pieces as buffer_size before it counts what is in them
    learner.train_from_iterator(
        pieces, size - documents, buffer_size=64 if documents else 4, pattern=OWN_PATTERN
    )
    ranks = sorted(learner.get_mergeable_ranks(), key=lambda pair: pair[1])
    if len(ranks) < size - documents:
        found = len(ranks) + documents
        print(
            f"the text gave {found} tokens of the {size} asked for: no pair is left to join",
            file=sys.stderr,
        )
    return BpeTokenizer(
        name,
        OWN_PATTERN,
        [bytes(token) for token, _ in ranks],
        {END_OF_TEXT: len(ranks)} if documents else None,
    )


def named_encoding(name: str) -> "BpeTokenizer":
    """An encoding of tiktoken's. Its files are fetched the first time, which is said before.

    Raises UserError naming the files and where to put them if they cannot be had.
    """
    check_name(name)
    import tiktoken

    from kqv.text.bpe import PATTERNS, BpeTokenizer

    if missing := missing_files(name):
        print(f"tiktoken fetches {', '.join(missing)}", file=sys.stderr)
    try:
        encoding = tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:  # no network, or another file than it should be
        where = [f"{address} as {path}" for address, path in missing_files(name).items()]
        advice = f"fetch {' and '.join(where)}, then set TIKTOKEN_CACHE_DIR={cache_folder()}"
        raise UserError(
            f"tokenizer={name} cannot be had from the network ({type(error).__name__}): {advice}"
        ) from None
    ranks = (
        encoding._mergeable_ranks
    )  # these two have an underscore, and are what tiktoken's README extends encodings with
    tokens = [b""] * (max(ranks.values()) + 1)
    for token, rank in ranks.items():
        tokens[rank] = token
    return BpeTokenizer(name, PATTERNS[ENCODINGS[name][0]], tokens, encoding._special_tokens)


def missing_files(name: str) -> dict[str, Path]:
    """The files of an encoding that are not there, by address: tiktoken names a file by the SHA-1 of its address."""
    addresses = [_ADDRESS + path for path in ENCODINGS[name][1]]
    places = {
        address: cache_folder() / hashlib.sha1(address.encode()).hexdigest()
        for address in addresses
    }
    return {address: path for address, path in places.items() if not path.exists()}


def cache_folder() -> Path:
    """Where tiktoken keeps what it fetched."""
    named = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return Path(named or Path(tempfile.gettempdir()) / "data-gym-cache")
