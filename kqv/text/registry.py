"""Make a tokenizer: from its name, from a dictionary (checkpoints), or from a prepared folder.

make_tokenizer("bpe:512", ...)    --tokenizer=bpe:512
tokenizer_from_dict(data)         what `Tokenizer.to_dict` gave
load_tokenizer(folder)            its tokenizer.json, or the meta.pkl of nanoGPT's prepare.py
"""

import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kqv.errors import UserError
from kqv.files import read_small
from kqv.pickles import read_pickle
from kqv.text.bpe import BpeTokenizer
from kqv.text.bpe_training import train_bpe
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.jamo import JamoTokenizer
from kqv.text.symbols import SymbolTokenizer
from kqv.text.tiktoken_files import load_tiktoken
from kqv.text.tokenizer import Tokenizer
from kqv.text.tokenizer_names import TIKTOKEN_SIZES, check_tokenizer_name

TOKENIZER_FILE = "tokenizer.json"
SOURCE_TOKENIZER_FILE = "source_tokenizer.json"
NANOGPT_FILE = "meta.pkl"
# Limits for files that may come from anywhere.
MAX_JSON_BYTES = 1 << 25  # a vocabulary of all code points, escaped, takes half of it
# Enough for all 290,000 characters that Unicode defines or leaves to private use:
MAX_PICKLE_BYTES = 1 << 24
MAX_PICKLE_STEPS = 1 << 21


def make_tokenizer(
    name: str,
    alphabet: Iterable[str],
    texts: Iterable[str],
    documents: bool = False,
    markers: str = "",
) -> Tokenizer:
    """The tokenizer of this name for a text.

    `alphabet` has the different characters of the text, or its symbols, `texts` the pieces to
    train byte pairs on. With `documents`, U+0003 ends each document. `markers` are control
    characters that become tokens of their own.

    Raises UserError if there is no such tokenizer, or what it needs is missing.
    """
    check_tokenizer_name(name)
    if name == "char":
        return CharTokenizer.of(alphabet).with_markers(markers)
    if name == "jamo":
        return JamoTokenizer.of(alphabet).with_markers(markers)
    if name == "bytes":
        return ByteTokenizer()
    if name == "symbols":
        return SymbolTokenizer.of(alphabet).with_markers(markers)
    if name in TIKTOKEN_SIZES:
        return load_tiktoken(name).with_markers(markers)
    return train_bpe(name, texts, documents, markers)


def tokenizer_from_dict(data: Any) -> Tokenizer:
    """The tokenizer that `Tokenizer.to_dict` described. Raises UserError for anything else."""
    match data:
        case {"kind": "char", "characters": str(characters)}:
            return CharTokenizer(characters)
        case {"kind": "jamo", "characters": str(characters)}:
            return JamoTokenizer(characters)
        case {"kind": "bytes"}:
            return ByteTokenizer()
        case {"kind": "bpe"}:
            return BpeTokenizer.from_dict(data)
        case {"kind": "symbols", "symbols": str(symbols)}:
            return SymbolTokenizer(symbols.split(" "))
    raise UserError("it holds no vocabulary that this version of kqv knows")


def find_vocabulary(folder: Path) -> Path | None:
    """The file of a folder that says what its token ids mean; None if there is none.

    tokenizer.json comes before nanoGPT's meta.pkl.
    """
    for name in (TOKENIZER_FILE, NANOGPT_FILE):
        if (folder / name).exists():
            return folder / name
    return None


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a prepared folder, of pairs that of the targets.

    Raises UserError if the folder has no vocabulary, or an invalid one.
    """
    return _read_tokenizer(find_vocabulary(folder) or folder / TOKENIZER_FILE)


def load_source_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of the sources of pairs; None if both sides have one vocabulary.

    Raises UserError if it is invalid.
    """
    path = folder / SOURCE_TOKENIZER_FILE
    return _read_tokenizer(path) if path.exists() else None


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        if path.name == NANOGPT_FILE:
            return _tokenizer_from_pickle(read_small(path, MAX_PICKLE_BYTES))
        return tokenizer_from_dict(json.loads(read_small(path, MAX_JSON_BYTES).decode()))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the dataset's prepare.py again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (UserError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be used: {error}") from None


def _tokenizer_from_pickle(data: bytes) -> CharTokenizer:
    """The vocabulary in nanoGPT's meta.pkl, without running what is in it.

    It holds {"vocab_size": 65, "itos": {0: "\\n", ...}, "stoi": {"\\n": 0, ...}}.
    """
    try:
        itos = read_pickle(data, max_steps=MAX_PICKLE_STEPS)["itos"]
        characters = [itos[i] for i in range(len(itos))]
    except pickle.UnpicklingError as error:
        raise UserError(
            f"it names {error}, which a vocabulary does not need: nothing in it was run"
        ) from None
    except MemoryError:
        raise
    except Exception:  # a malformed pickle can raise anything
        raise UserError("it is no vocabulary of nanoGPT's") from None
    if not all(isinstance(character, str) and len(character) == 1 for character in characters):
        raise UserError("its tokens are not single characters")
    return CharTokenizer("".join(characters))
