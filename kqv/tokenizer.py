"""Vocabularies: text to token ids and back. One interface, whatever a token is.

    tokenizer.vocab_size              how many ids there are
    tokenizer.encode("hello")         a list of ids
    tokenizer.decode([3, 1, 2])       text
    tokenizer.to_dict()               plain data; `tokenizer_from_dict` makes the same tokenizer again

A tokenizer travels as plain data in `tokenizer.json` and inside each checkpoint, never as a pickle; nanoGPT's
`meta.pkl` is read without running anything.
"""

import io
import json
import pickle
import pickletools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kqv.errors import UserError

CODE_POINTS = 0x110000  # Unicode has this many
LARGEST_FILE = 64 * CODE_POINTS  # bytes of a vocabulary of all of them, escaped


class CharTokenizer:
    """One id for each different character: its place in `characters`.

    >>> tokenizer = CharTokenizer.of("hello")
    >>> tokenizer.characters, tokenizer.encode("hole"), tokenizer.decode([1, 0, 2])
    ('ehlo', [1, 3, 2, 0], 'hel')
    """

    kind = "char"

    def __init__(self, characters: str) -> None:
        """Raises UserError if a character is there twice, or none is."""
        self.characters = characters
        self.vocab_size = len(self.characters)
        self._id_of = {character: i for i, character in enumerate(self.characters)}
        if not 0 < len(self._id_of) == self.vocab_size:
            raise UserError("a vocabulary has at least one character, and none of them twice")

    @classmethod
    def of(cls, text: Iterable[str]) -> "CharTokenizer":
        """The vocabulary of a text: its characters in the order of code points, as nanoGPT has them."""
        return cls("".join(sorted(set(text))))

    def encode(self, text: str) -> list[int]:
        """The id of each character. Raises UserError naming the first unknown one and its position."""
        try:
            return [self._id_of[character] for character in text]
        except KeyError:
            position = next(i for i, character in enumerate(text) if character not in self._id_of)
            character = text[position]
            raise UserError(
                f"character {character!r} (U+{ord(character):04X}) at position {position} "
                f"is not among the {self.vocab_size} that the model knows"
            ) from None

    def encode_known(self, text: str) -> tuple[list[int], str]:
        """The ids of the known characters, and the unknown ones that were left out."""
        known = "".join(character for character in text if character in self._id_of)
        unknown = "".join(character for character in text if character not in self._id_of)
        return self.encode(known), unknown

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids."""
        return "".join([self.characters[i] for i in ids])

    def id_table(self) -> np.ndarray:
        """Array of shape (CODE_POINTS,) from a code point to its id, to encode big texts in one look-up."""
        table = np.zeros(CODE_POINTS, dtype=token_dtype(self.vocab_size))
        table[[ord(character) for character in self.characters]] = np.arange(self.vocab_size)
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain data that says it all."""
        return {"kind": self.kind, "characters": self.characters}


def token_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The integer type of train.bin and val.bin: uint16 as in nanoGPT, uint32 where that is too small."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def tokenizer_from_dict(data: Any) -> CharTokenizer:
    """The tokenizer that `to_dict` described. Raises UserError if the data describes none."""
    match data:
        case {"kind": "char", "characters": str(characters)}:
            return CharTokenizer(characters)
    raise UserError("it holds no vocabulary that this version of kqv knows")


def load_tokenizer(folder: Path) -> CharTokenizer:
    """The vocabulary of a prepared folder: its tokenizer.json, or the meta.pkl that nanoGPT's prepare.py wrote.

    Raises UserError if there is neither, or it holds no vocabulary.
    """
    path, read = folder / "tokenizer.json", _from_json
    if not path.exists() and (folder / "meta.pkl").exists():
        path, read = folder / "meta.pkl", _from_pickle
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"a vocabulary takes less than {LARGEST_FILE:,} bytes")
        return read(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the dataset's prepare.py again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (UserError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be used: {error}") from None


def _from_json(data: bytes) -> CharTokenizer:
    return tokenizer_from_dict(json.loads(data.decode()))


class _PlainUnpickler(pickle.Unpickler):
    """Makes dict, list, str, int and the like; there is nothing else it knows."""

    def find_class(self, module: str, name: str) -> Any:
        raise UserError(f"it names {module}.{name}, which a vocabulary does not need: nothing in it was run")


def _from_pickle(data: bytes) -> CharTokenizer:
    """The vocabulary in nanoGPT's meta.pkl: {"vocab_size": 65, "itos": {0: "\\n", ...}, "stoi": {"\\n": 0, ...}}."""
    try:
        # The unpickler makes room for the highest number that an object is remembered by, which may be any.
        opcodes = pickletools.genops(data)
        if any(opcode.name.endswith("PUT") and int(argument or 0) > len(data) for opcode, argument, _ in opcodes):
            raise UserError("it is no vocabulary of nanoGPT's")
        meta = _PlainUnpickler(io.BytesIO(data)).load()
        itos = meta["itos"]
        characters = [itos[i] for i in range(len(itos))]
    except UserError:
        raise
    except Exception:  # what a file made to look like a pickle can raise has no end
        raise UserError("it is no vocabulary of nanoGPT's") from None
    if not all(isinstance(character, str) and len(character) == 1 for character in characters):
        raise UserError("its tokens are not single characters")
    return CharTokenizer("".join(characters))
