"""Vocabularies: text to token ids and back. One interface, whatever a token is.

    tokenizer.vocab_size              how many ids there are
    tokenizer.encode("hello")         a list of ids
    tokenizer.decode([3, 1, 2])       text
    tokenizer.token_bytes(3)          what one id stands for, as UTF-8, which may be a part of a character
    tokenizer.knows("\n")             whether a text can be encoded
    tokenizer.to_dict()               plain data; `tokenizer_from_dict` makes the same tokenizer again

Here are those that need no package: characters and bytes. kqv/text/bpe.py has byte pairs, and kqv/text/registry.py makes a
tokenizer from its name. A tokenizer travels as plain data in `tokenizer.json` and inside each checkpoint, never as a
pickle; nanoGPT's `meta.pkl` is read without running anything.
"""

import json
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kqv.errors import UserError
from kqv.files import read_small
from kqv.pickles import read_pickle

CODE_POINTS = 0x110000  # Unicode has this many
END = "\u0003"  # ends a document in a text that has documents; ASCII calls it the end of text
LARGEST_JSON = 1 << 25  # bytes of a tokenizer.json: of all code points, escaped, it takes half
# Of a meta.pkl of all 290,000 characters that Unicode has given a meaning or left to private use.
LARGEST_PICKLE, MOST_STEPS = 1 << 24, 1 << 21  # bytes, steps


class Tokenizer(ABC):
    """What all vocabularies can do. Two are equal if they give the same ids to the same texts."""

    kind: str
    """which class it is"""
    name: str
    """what --tokenizer= calls it"""
    vocab_size: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises UserError naming the first character that has none, and its position."""

    @abstractmethod
    def encode_known(self, text: str) -> tuple[list[int], str]:
        """The ids of the known characters, and the unknown ones that were left out."""

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """The bytes of UTF-8 that an id stands for; they may begin or end inside a character."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain data that says it all."""

    def encode_array(self, text: str, documents: bool = False) -> np.ndarray:
        """As `encode`, in an array as token files have it, shape (tokens,), uint16 or uint32. With `documents`, U+0003 ends
        one: no token reaches over it, and its id is that of <|endoftext|> where there is such a token."""
        return np.array(self.encode(text), dtype=token_dtype(self.vocab_size))

    @property
    def padded_size(self) -> int:
        """How many ids a new model has for them: of byte pairs a multiple of 64, as nanoGPT's, with which matrix products are
        faster on a GPU. No text has those beyond vocab_size, and none is ever drawn."""
        return padded(self.vocab_size) if self.kind == "bpe" else self.vocab_size

    def encode_prompt(self, text: str) -> list[int]:
        """As `encode`, but the name of a special token, such as <|endoftext|>, is that token where there are any."""
        return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids. Bytes that are no UTF-8, as of half a character, become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def knows(self, text: str) -> bool:
        """Whether `encode` takes this text."""
        return not self.encode_known(text)[1]

    def characters_begun(self) -> np.ndarray:
        """How many characters begin in each token, shape (vocab_size,): summed over a text they are its characters."""
        return np.array(
            [characters_in(self.token_bytes(token)) for token in range(self.vocab_size)]
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.to_dict() == other.to_dict()


def padded(size: int) -> int:
    """The next multiple of 64.

    >>> padded(50257)
    50304
    """
    return -(-size // 64) * 64


def characters_in(data: bytes) -> int:
    """How many characters begin in a piece of UTF-8: its bytes that go on with none. (They are 10xxxxxx in binary.)

    >>> characters_in("é!".encode()), characters_in("é!".encode()[1:])
    (2, 1)
    """
    return sum(byte & 0b1100_0000 != 0b1000_0000 for byte in data)


class CharTokenizer(Tokenizer):
    """One id for each different character: its place in `characters`.

    >>> tokenizer = CharTokenizer.of("hello")
    >>> tokenizer.characters, tokenizer.encode("hole"), tokenizer.decode([1, 0, 2])
    ('ehlo', [1, 3, 2, 0], 'hel')
    """

    kind = name = "char"

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

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 of one character."""
        return self.characters[token].encode(errors="surrogatepass")

    def characters_begun(self) -> np.ndarray:
        """One for each."""
        return np.ones(self.vocab_size, dtype=np.int64)

    def id_table(self) -> np.ndarray:
        """Array of shape (CODE_POINTS,) from a code point to its id, to encode big texts in one
        look-up. An unknown character has vocab_size there, which is no id."""
        table = np.full(CODE_POINTS, self.vocab_size, dtype=token_dtype(self.vocab_size + 1))
        table[[ord(character) for character in self.characters]] = np.arange(self.vocab_size)
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain data that says it all."""
        return {"kind": self.kind, "characters": self.characters}


class ByteLevel(Tokenizer):
    """What vocabularies have in common whose tokens are bytes: any text has ids, unless it has a half of a surrogate pair,
    which is no character and comes from a command line that was not UTF-8."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises UserError for what is no character."""
        return self.encode_array(text).tolist()

    def encode_array(self, text: str, documents: bool = False) -> np.ndarray:
        """As for any other; the work is here."""
        try:
            return self._encode(text, documents).astype(token_dtype(self.vocab_size))
        except UnicodeEncodeError as error:
            half = f"U+{ord(text[error.start]):04X} at position {error.start}"
            raise UserError(f"{half} is half of a surrogate pair, which is no character") from None

    def encode_known(self, text: str) -> tuple[list[int], str]:
        """The ids of the characters, and what is none."""
        known = "".join(character for character in text if not _is_surrogate(character))
        return self.encode(known), "".join(filter(_is_surrogate, text))

    def knows(self, text: str) -> bool:
        """Whether all of it are characters."""
        return not any(map(_is_surrogate, text))

    @abstractmethod
    def _encode(self, text: str, documents: bool) -> np.ndarray:
        """The ids of a text, of any integer type. Raises UnicodeEncodeError for what is no character."""


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
        """Its kind is all there is to say."""
        return {"kind": self.kind}


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


def token_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The integer type of train.bin and val.bin: uint16 as in nanoGPT, uint32 where that is too small."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def tokenizer_from_dict(data: Any) -> Tokenizer:
    """The tokenizer that `to_dict` described. Raises UserError if the data describes none."""
    match data:
        case {"kind": "char", "characters": str(characters)}:
            return CharTokenizer(characters)
        case {"kind": "bytes"}:
            return ByteTokenizer()
        case {"kind": "bpe"}:
            from kqv.text.bpe import BpeTokenizer  # imports tiktoken

            return BpeTokenizer.from_dict(data)
    raise UserError("it holds no vocabulary that this version of kqv knows")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The vocabulary of a prepared folder: its tokenizer.json, or the meta.pkl that nanoGPT's prepare.py wrote.

    Raises UserError if there is neither, or it holds no vocabulary.
    """
    path, limit, read = folder / "tokenizer.json", LARGEST_JSON, _from_json
    if not path.exists() and (folder / "meta.pkl").exists():
        path, limit, read = folder / "meta.pkl", LARGEST_PICKLE, _from_pickle
    try:
        return read(read_small(path, limit))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the dataset's prepare.py again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (UserError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be used: {error}") from None


def _from_json(data: bytes) -> Tokenizer:
    return tokenizer_from_dict(json.loads(data.decode()))


def _from_pickle(data: bytes) -> CharTokenizer:
    """The vocabulary in nanoGPT's meta.pkl: {"vocab_size": 65, "itos": {0: "\\n", ...}, "stoi": {"\\n": 0, ...}}."""
    try:
        itos = read_pickle(data, most=MOST_STEPS)["itos"]
        characters = [itos[i] for i in range(len(itos))]
    except pickle.UnpicklingError as error:
        raise UserError(
            f"it names {error}, which a vocabulary does not need: nothing in it was run"
        ) from None
    except MemoryError:
        raise
    except Exception:  # what a file made to look like a pickle can raise has no end
        raise UserError("it is no vocabulary of nanoGPT's") from None
    if not all(isinstance(character, str) and len(character) == 1 for character in characters):
        raise UserError("its tokens are not single characters")
    return CharTokenizer("".join(characters))
