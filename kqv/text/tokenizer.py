"""The interface of every tokenizer: text to token ids and back.

    tokenizer.vocab_size              number of ids
    tokenizer.encode("hello")         a list of ids
    tokenizer.decode([3, 1, 2])       text
    tokenizer.token_bytes(3)          UTF-8 of one token, possibly only part of a character
    tokenizer.knows("\n")             whether a text can be encoded
    tokenizer.marker_id(MASK)         id of a control character that has a meaning to a model
    tokenizer.to_dict()               plain data, from which `tokenizer_from_dict` rebuilds it

Implementations: characters.py, jamo.py, byte_level.py, bpe.py and symbols.py; registry.py
makes one from a name, from a dictionary or from a prepared folder. A tokenizer is stored as plain
data, in `tokenizer.json` and inside each checkpoint, never as a pickle.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kqv.errors import UserError

# Control characters that no text needs. U+0003, which ASCII calls "end of text", follows each
# document of a text, and each target of a pair; U+0002, "start of text", begins a target; U+001A,
# "substitute", stands for a masked character.
DOCUMENT_END = "\u0003"
TARGET_BEGIN = "\u0002"
MASK = "\u001a"
PAIR_MARKERS = TARGET_BEGIN + DOCUMENT_END
# What an unknown character of a pair becomes: Unicode's replacement character.
UNKNOWN = "\ufffd"
VOCAB_SIZE_MULTIPLE = 64  # to which the embedding of a byte-pair model is padded


class Tokenizer(ABC):
    """What all tokenizers can do. Two are equal if they give the same ids to the same texts."""

    kind: str
    """which class it is: char, jamo, bytes, bpe or symbols"""
    name: str
    """the value of --tokenizer= that makes it"""
    vocab_size: int
    """number of ids"""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises UserError naming the first character that has no id, and its position.
        """

    @abstractmethod
    def encode_known(self, text: str) -> tuple[list[int], Sequence[str]]:
        """The ids of the known characters, and the unknown characters that were left out.

        For a tokenizer of whole symbols: the known and the unknown symbols.
        """

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of a token; they may begin or end inside a character."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain data from which `tokenizer_from_dict` makes an equal tokenizer."""

    def encode_array(self, text: str, documents: bool = False) -> np.ndarray:
        """Like `encode`, as an array for token files, shape (tokens,), uint16 or uint32.

        With `documents`, U+0003 ends a document: no token crosses it, and its id is that of
        <|endoftext|> if the vocabulary has this token.
        """
        return np.array(self.encode(text), dtype=token_dtype(self.vocab_size))

    @property
    def padded_size(self) -> int:
        """Vocabulary size of a new model.

        Byte pairs are padded to a multiple of 64, as in nanoGPT, because matrix products of that
        size are faster on a GPU. No text has the ids beyond vocab_size, and none is ever sampled.
        """
        return pad_vocab_size(self.vocab_size) if self.kind == "bpe" else self.vocab_size

    def replace_unknown(self, text: str) -> str:
        """The text with U+FFFD instead of each unknown character or symbol."""
        return text

    def with_markers(self, markers: str) -> "Tokenizer":
        """A tokenizer that has each of these control characters as a token of its own.

        Those that are new become its last ids, so the ids of a text stay as they are.
        """
        return self

    def marker_id(self, marker: str) -> int:
        """The id of a control character. Raises UserError if it has none."""
        if not self.knows(marker):
            raise UserError(
                f"the vocabulary has no token U+{ord(marker):04X}, which this architecture needs: "
                f"train from scratch"
            )
        return self.encode(marker)[0]

    def encode_prompt(self, text: str) -> list[int]:
        """Like `encode`, but the name of a special token, such as <|endoftext|>, is that token."""
        return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids. Bytes that are not UTF-8, as of half a character, become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def knows(self, text: str) -> bool:
        """Whether `encode` accepts this text."""
        return not self.encode_known(text)[1]

    def characters_begun(self) -> np.ndarray:
        """Number of characters that begin in each token, shape (vocab_size,).

        Summed over the tokens of a text, this is its number of characters.
        """
        tokens = range(self.vocab_size)
        return np.array([count_character_starts(self.token_bytes(token)) for token in tokens])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.to_dict() == other.to_dict()


def pad_vocab_size(size: int) -> int:
    """The next multiple of 64.

    >>> pad_vocab_size(50257)
    50304
    """
    return -(-size // VOCAB_SIZE_MULTIPLE) * VOCAB_SIZE_MULTIPLE


def count_character_starts(data: bytes) -> int:
    """Number of characters that begin in a piece of UTF-8.

    Counts all bytes but continuation bytes, which are 10xxxxxx in binary.

    >>> count_character_starts("é!".encode()), count_character_starts("é!".encode()[1:])
    (2, 1)
    """
    return sum(byte & 0b1100_0000 != 0b1000_0000 for byte in data)


def token_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The dtype of train.bin and val.bin: uint16 as in nanoGPT, uint32 if that is too small."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32
