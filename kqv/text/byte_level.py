"""Tokenizers whose tokens are bytes of UTF-8, so that any text has ids; the simplest is 256 bytes.

"né" ──UTF-8──▶ 110 195 169
"""

from abc import abstractmethod
from typing import Any

import numpy as np

from kqv.errors import UserError
from kqv.text.tokenizer import Tokenizer, token_dtype


class ByteLevel(Tokenizer):
    """Base class of tokenizers whose tokens are byte strings.

    They encode any text but half of a surrogate pair, which is no character. Python makes such
    halves of a command line that is not UTF-8.
    """

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises UserError for half of a surrogate pair."""
        return self.encode_array(text).tolist()

    def encode_array(self, text: str, documents: bool = False) -> np.ndarray:
        """The ids of a text, shape (tokens,), uint16 or uint32; see `Tokenizer.encode_array`.

        Raises UserError for half of a surrogate pair.
        """
        try:
            return self._encode(text, documents).astype(token_dtype(self.vocab_size))
        except UnicodeEncodeError as error:
            half = f"U+{ord(text[error.start]):04X} at position {error.start}"
            raise UserError(f"{half} is half of a surrogate pair, which is no character") from None

    def encode_known(self, text: str) -> tuple[list[int], str]:
        """The ids of the characters, and the halves of surrogate pairs that were left out."""
        known = "".join(character for character in text if not _is_surrogate(character))
        return self.encode(known), "".join(filter(_is_surrogate, text))

    def knows(self, text: str) -> bool:
        """Whether the text has no half of a surrogate pair."""
        return not any(map(_is_surrogate, text))

    @abstractmethod
    def _encode(self, text: str, documents: bool) -> np.ndarray:
        """The ids of a text, shape (tokens,), any integer dtype.

        Raises UnicodeEncodeError for half of a surrogate pair.
        """


class ByteTokenizer(ByteLevel):
    """256 ids: the bytes of UTF-8.

    >>> ByteTokenizer().encode("né"), ByteTokenizer().decode([110, 195, 169])
    ([110, 195, 169], 'né')
    """

    kind = name = "bytes"
    vocab_size = 256

    def _encode(self, text: str, documents: bool) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8)

    def token_bytes(self, token: int) -> bytes:
        """One byte."""
        return bytes([token])

    def to_dict(self) -> dict[str, Any]:
        """The kind, which says it all."""
        return {"kind": self.kind}


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"
