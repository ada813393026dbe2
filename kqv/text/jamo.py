"""Tokenizer of characters that cuts a Korean syllable into its letters, the jamo.

"한글" ──▶ "ᄒ" "ᅡ" "ᆫ" "ᄀ" "ᅳ" "ᆯ" ──▶ ids 1 2 4 0 3 5

Many syllables are rare and no letter is: few pairs are enough to learn how each letter is spoken.
Other characters stay whole, because a letter with a mark is often a letter of its own: š is not an
s (docs/log.md).
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np

from kqv.errors import UserError
from kqv.text.characters import CharTokenizer, unknown_character
from kqv.text.tokenizer import Tokenizer


class JamoTokenizer(Tokenizer):
    """One id for each different character and jamo: its index in `characters`.

    A decoded text has whole syllables again, so one that stored them as jamo comes back shorter,
    and looks the same.

    >>> tokenizer = JamoTokenizer.of("한글")
    >>> tokenizer.encode("글"), tokenizer.decode([0, 3, 5])
    ([0, 3, 5], '글')
    """

    kind = name = "jamo"

    def __init__(self, characters: str) -> None:
        """Raises UserError if there is no character, one occurs twice, or one is a syllable."""
        self._tokenizer = CharTokenizer(characters)
        self.vocab_size = self._tokenizer.vocab_size
        if syllables_cut(characters) != characters:
            raise UserError("a character of its vocabulary is a Korean syllable")

    @classmethod
    def of(cls, text: Iterable[str]) -> "JamoTokenizer":
        """The vocabulary of a text: its characters and jamo in code point order."""
        return cls("".join(sorted(set(syllables_cut("".join(text))))))

    def encode(self, text: str) -> list[int]:
        """The id of each character and jamo.

        Raises UserError naming the first character with an unknown part, and its position.
        """
        try:
            return self._tokenizer.encode(syllables_cut(text))
        except UserError:
            position = next(i for i, character in enumerate(text) if not self.knows(character))
            raise unknown_character(text, position, self.vocab_size) from None

    def encode_known(self, text: str) -> tuple[list[int], str]:
        """The ids of the known characters and jamo, and those that were left out."""
        return self._tokenizer.encode_known(syllables_cut(text))

    def replace_unknown(self, text: str) -> str:
        """The text with U+FFFD instead of each unknown character or jamo."""
        return self._tokenizer.replace_unknown(syllables_cut(text))

    def with_markers(self, markers: str) -> "JamoTokenizer":
        """The same characters, then those of the markers that are not among them."""
        return JamoTokenizer(self._tokenizer.with_markers(markers).characters)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, its jamo composed to syllables."""
        return syllables_whole(self._tokenizer.decode(ids))

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 of one character or jamo."""
        return self._tokenizer.token_bytes(token)

    def characters_begun(self) -> np.ndarray:
        """1 for a character and for the first jamo of a syllable, shape (vocab_size,)."""
        begins = [not "\u1160" <= c <= "\u11ff" for c in self._tokenizer.characters]
        return np.array(begins, dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """The characters and jamo in the order of their ids."""
        return {"kind": self.kind, "characters": self._tokenizer.characters}


def syllables_cut(text: str) -> str:
    """The text with the jamo of each Korean syllable instead of it (Unicode, section 3.12)."""
    return re.sub("[가-힣]+", lambda found: unicodedata.normalize("NFD", found[0]), text)


def syllables_whole(text: str) -> str:
    """The text with Korean syllables instead of the jamo that make one up."""
    return re.sub("[ᄀ-ᇿ]+", lambda found: unicodedata.normalize("NFC", found[0]), text)
