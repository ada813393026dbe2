"""Character tokenizer: one id for each different character of a text.

"hello" ──▶ characters "ehlo" ──▶ ids 1 0 2 2 3
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from kqv.errors import UserError
from kqv.text.tokenizer import UNKNOWN, Tokenizer, token_dtype

CODE_POINTS = 0x110000  # number of Unicode code points


class CharTokenizer(Tokenizer):
    """One id for each different character: its index in `characters`.

    >>> tokenizer = CharTokenizer.of("hello")
    >>> tokenizer.characters, tokenizer.encode("hole"), tokenizer.decode([1, 0, 2])
    ('ehlo', [1, 3, 2, 0], 'hel')
    """

    kind = name = "char"

    def __init__(self, characters: str) -> None:
        """Raises UserError if there is no character, or one occurs twice."""
        self.characters = characters
        self.vocab_size = len(self.characters)
        self._id_of = {character: i for i, character in enumerate(self.characters)}
        if not 0 < len(self._id_of) == self.vocab_size:
            raise UserError("a vocabulary has at least one character, and none of them twice")

    @classmethod
    def of(cls, text: Iterable[str]) -> "CharTokenizer":
        """The vocabulary of a text: its characters in code point order, as in nanoGPT."""
        return cls("".join(sorted(set(text))))

    def encode(self, text: str) -> list[int]:
        """The id of each character.

        Raises UserError naming the first unknown character and its position.
        """
        try:
            return [self._id_of[character] for character in text]
        except KeyError:
            position = next(i for i, character in enumerate(text) if character not in self._id_of)
            raise unknown_character(text, position, self.vocab_size) from None

    def encode_known(self, text: str) -> tuple[list[int], str]:
        """The ids of the known characters, and the unknown characters that were left out."""
        known = "".join(character for character in text if character in self._id_of)
        unknown = "".join(character for character in text if character not in self._id_of)
        return self.encode(known), unknown

    def replace_unknown(self, text: str) -> str:
        """The text with U+FFFD instead of each unknown character."""
        return "".join(character if character in self._id_of else UNKNOWN for character in text)

    def with_markers(self, markers: str) -> "CharTokenizer":
        """The same characters, then those of the markers that are not among them."""
        new = "".join(marker for marker in markers if marker not in self._id_of)
        return CharTokenizer(self.characters + new) if new else self

    def encode_array(self, text: str, documents: bool = False) -> np.ndarray:
        """Like `encode`, by table look-up: shape (characters,), uint16 or uint32.

        Raises UserError naming the first unknown character and its position.
        """
        dtype = token_dtype(self.vocab_size)
        if self._ascii_table and text.isascii():
            # bytes.translate is twice as fast as a look-up in an array.
            table, unknown = self._ascii_table
            data = text.encode().translate(table)
            if unknown not in data:
                return np.frombuffer(data, dtype=np.uint8).astype(dtype)
        elif text:
            # "surrogatepass": half of a surrogate pair is looked up, and unknown, like any other.
            code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
            ids = self._table[code_points]
            if ids.max() < self.vocab_size:
                return ids.astype(dtype, copy=False)
        return np.array(self.encode(text), dtype=dtype)  # empty, or raises for what is unknown

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids."""
        return "".join([self.characters[i] for i in ids])

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 of one character."""
        return self.characters[token].encode(errors="surrogatepass")

    def characters_begun(self) -> np.ndarray:
        """One character for each token, shape (vocab_size,)."""
        return np.ones(self.vocab_size, dtype=np.int64)

    def id_table(self) -> np.ndarray:
        """Table from code point to id, shape (CODE_POINTS,), to encode long texts in one look-up.

        Unknown characters have vocab_size there, which is no id.
        """
        table = np.full(CODE_POINTS, self.vocab_size, dtype=token_dtype(self.vocab_size + 1))
        table[[ord(character) for character in self.characters]] = np.arange(self.vocab_size)
        return table

    def to_dict(self) -> dict[str, Any]:
        """The characters in the order of their ids."""
        return {"kind": self.kind, "characters": self.characters}

    @cached_property
    def _table(self) -> np.ndarray:
        return self.id_table()

    @cached_property
    def _ascii_table(self) -> tuple[bytes, int] | None:
        """A table for bytes.translate, and the byte in it that marks unknown characters.

        None if the id of an ASCII character does not fit into a byte.
        """
        ids = self._table[:128].copy()
        marker = min(set(range(256)) - set(ids.tolist()))  # a byte that is no id of these
        ids[ids == self.vocab_size] = marker
        if ids.max() > 255:
            return None
        return bytes([*ids.tolist(), *[marker] * 128]), marker


def unknown_character(text: str, position: int, vocab_size: int) -> UserError:
    """What a user is told of a character that none of the vocabulary is."""
    character = text[position]
    return UserError(
        f"character {character!r} (U+{ord(character):04X}) at position {position} "
        f"is not among the {vocab_size} that the model knows"
    )
