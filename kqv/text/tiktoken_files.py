"""Vocabularies that come with tiktoken, and the files that it downloads for them.

Once loaded, a tokenizer is stored with the token files and in checkpoints: no file is downloaded
twice.
"""

import hashlib
import os
import sys
import tempfile
from pathlib import Path

from kqv.errors import UserError
from kqv.text.bpe import PATTERNS, BpeTokenizer, import_tiktoken
from kqv.text.tokenizer_names import check_tokenizer_name

_ADDRESS = "https://openaipublic.blob.core.windows.net/"
# For each vocabulary the pattern that it splits by (see bpe.py) and tiktoken's files.
PATTERNS_AND_FILES = {
    "gpt2": ("gpt2", ["gpt-2/encodings/main/vocab.bpe", "gpt-2/encodings/main/encoder.json"]),
    "r50k_base": ("gpt2", ["encodings/r50k_base.tiktoken"]),
    "p50k_base": ("gpt2", ["encodings/p50k_base.tiktoken"]),
    "cl100k_base": ("cl100k_base", ["encodings/cl100k_base.tiktoken"]),
    "o200k_base": ("o200k_base", ["encodings/o200k_base.tiktoken"]),
}


def load_tiktoken(name: str) -> BpeTokenizer:
    """A vocabulary of tiktoken. Its files are downloaded the first time, which is said before.

    Raises UserError naming the files and where to put them if they cannot be downloaded.
    """
    check_tokenizer_name(name)
    tiktoken = import_tiktoken()
    if missing := missing_files(name):
        print(f"tiktoken downloads {', '.join(missing)}", file=sys.stderr)
    try:
        theirs = tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:  # no network, or a file with another hash
        files = [f"{address} as {path}" for address, path in missing_files(name).items()]
        raise UserError(
            f"tokenizer={name} cannot be downloaded ({type(error).__name__}): "
            f"download {' and '.join(files)}, then set TIKTOKEN_CACHE_DIR={cache_folder()}"
        ) from None
    # Private attributes, but the ones with which tiktoken's README extends an encoding.
    ranks, special = theirs._mergeable_ranks, theirs._special_tokens
    tokens = [b""] * (max(ranks.values()) + 1)
    for token, rank in ranks.items():
        tokens[rank] = token
    pattern, _ = PATTERNS_AND_FILES[name]
    return BpeTokenizer(name, PATTERNS[pattern], tokens, special)


def missing_files(name: str) -> dict[str, Path]:
    """Files of a vocabulary that are not in tiktoken's cache: from address to path.

    tiktoken names a file in its cache by the SHA-1 of the address.
    """
    _, files = PATTERNS_AND_FILES[name]
    paths = {}
    for address in (_ADDRESS + file for file in files):
        path = cache_folder() / hashlib.sha1(address.encode()).hexdigest()
        if not path.exists():
            paths[address] = path
    return paths


def cache_folder() -> Path:
    """The folder in which tiktoken stores the files that it downloads."""
    named = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return Path(named or Path(tempfile.gettempdir()) / "data-gym-cache")
