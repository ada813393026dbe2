"""Tokenizer of decomposed characters: a letter and its marks are tokens of their own.

"né" ──▶ "n" "e" "◌́" ──▶ ids 1 0 2          "한" ──▶ "ᄒ" "ᅡ" "ᆫ"

Unicode calls this form NFD (annex 15), which cuts a Korean syllable into its letters as well. Many
syllables are rare and no letter is: few pairs are enough to learn how each letter is spoken.
"""

import unicodedata
from collections.abc import Iterable
from typing import Any

from kqv.errors import UserError
from kqv.text.characters import CharTokenizer, unknown_character
from kqv.text.tokenizer import Tokenizer


class DecomposedTokenizer(Tokenizer):
    """One id for each different decomposed character: its index in `characters`.

    A decoded text is composed again (NFC), so it may differ from the encoded one in how a character
    is stored, never in how it looks.

    >>> tokenizer = DecomposedTokenizer.of("né")
    >>> tokenizer.encode("né"), tokenizer.decode([1, 0, 2]) == "né"
    ([1, 0, 2], True)
    """

    kind = name = "nfd"

    def __init__(self, characters: str) -> None:
        """Raises UserError if there is no character, one occurs twice, or one decomposes."""
        self._tokenizer = CharTokenizer(characters)
        self.vocab_size = self._tokenizer.vocab_size
        if any(decompose(character) != character for character in characters):
            raise UserError("a character of its vocabulary decomposes into others")

    @classmethod
    def of(cls, text: Iterable[str]) -> "DecomposedTokenizer":
        """The vocabulary of a text: its decomposed characters in code point order."""
        return cls("".join(sorted(set(decompose("".join(text))))))

    def encode(self, text: str) -> list[int]:
        """The id of each decomposed character.

        Raises UserError naming the first character with an unknown part, and its position.
        """
        try:
            return self._tokenizer.encode(decompose(text))
        except UserError:
            position = next(i for i, character in enumerate(text) if not self.knows(character))
            raise unknown_character(text, position, self.vocab_size) from None

    def encode_known(self, text: str) -> tuple[list[int], str]:
        """The ids of the known decomposed characters, and those that were left out."""
        return self._tokenizer.encode_known(decompose(text))

    def replace_unknown(self, text: str) -> str:
        """The decomposed text with U+FFFD instead of each unknown character."""
        return self._tokenizer.replace_unknown(decompose(text))

    def with_markers(self, markers: str) -> "DecomposedTokenizer":
        """The same characters, then those of the markers that are not among them."""
        return DecomposedTokenizer(self._tokenizer.with_markers(markers).characters)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, its characters composed."""
        return unicodedata.normalize("NFC", self._tokenizer.decode(ids))

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 of one decomposed character."""
        return self._tokenizer.token_bytes(token)

    def to_dict(self) -> dict[str, Any]:
        """The decomposed characters in the order of their ids."""
        return {"kind": self.kind, "characters": self._tokenizer.characters}


def decompose(text: str) -> str:
    """The text in Unicode's normalization form D, NFD."""
    return unicodedata.normalize("NFD", text)
