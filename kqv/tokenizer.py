"""Vocabularies: text to token ids and back. One interface, whatever a token is.

    tokenizer.vocab_size              how many ids there are
    tokenizer.encode("hello")         a list of ids
    tokenizer.decode([3, 1, 2])       text
    tokenizer.to_dict()               plain data; `tokenizer_from_dict` makes the same tokenizer again

A tokenizer travels as plain data in `tokenizer.json` and inside each checkpoint, never as a pickle.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kqv.errors import UserError

CODE_POINTS = 0x110000  # Unicode has this many


class CharTokenizer:
    """One id for each different character, in the order of code points as nanoGPT has them.

    >>> tokenizer = CharTokenizer("hello")
    >>> tokenizer.characters, tokenizer.encode("hole"), tokenizer.decode([1, 0, 2])
    ('ehlo', [1, 3, 2, 0], 'hel')
    """

    kind = "char"

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = "".join(sorted(set(characters)))
        self.vocab_size = len(self.characters)
        self._id_of = {character: i for i, character in enumerate(self.characters)}

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
        case {"kind": "char", "characters": str(characters)} if characters:
            return CharTokenizer(characters)
    raise UserError("it holds no vocabulary that this version of kqv knows")


def load_tokenizer(path: Path) -> CharTokenizer:
    """Read a tokenizer.json. Raises UserError if it is missing or holds no vocabulary."""
    try:
        return tokenizer_from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the dataset's prepare.py again") from None
    except (UserError, ValueError) as error:
        raise UserError(f"{path} cannot be used: {error}") from None
