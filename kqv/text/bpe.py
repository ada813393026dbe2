"""Byte-pair tokenizer: frequent byte sequences as tokens, encoded by tiktoken.

    "the cats" ──split by a pattern──▶ "the", " cats"
               ──merge byte pairs, lowest rank first──▶ "the", " cat", "s"

The rank of a token is its id. The pattern is a part of the vocabulary, and only the patterns below
are accepted: one from a file could take forever to match.
"""

import base64
import re
from collections.abc import Sequence, Sized
from typing import Any

import numpy as np

from kqv.errors import UserError
from kqv.text.byte_level import ByteLevel
from kqv.text.tokenizer import DOCUMENT_END

# tiktoken's regular expressions, by the name of the first vocabulary that used them. The possessive
# ++ (as in \s++$) changes no match; it saves the engine from backtracking.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTION = r"(?i:'(?:[dmst]|ll|re|ve))"
_LEAD = r"[^\p{L}\p{N}\r\n]"
PATTERNS = {
    "gpt2": r"'(?:[dmst]|ll|re|ve)| ?(?:\p{L}++|\p{N}++|[^\p{L}\p{N}\s]++)|\s++$|\s+(?!\S)|\s",
    "cl100k_base": (
        rf"{_CONTRACTION}|{_LEAD}?+\p{{L}}++|\p{{N}}{{1,3}}+| ?[^\p{{L}}\p{{N}}\s]++[\r\n]*+|"
        r"\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "o200k_base": (
        rf"{_LEAD}?{_UPPER}*{_LOWER}+{_CONTRACTION}?|{_LEAD}?{_UPPER}+{_LOWER}*{_CONTRACTION}?|"
        r"\p{N}{1,3}| ?[^\p{L}\p{N}\s]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
# For vocabularies trained here: Hugging Face's tokenizers and llama.cpp have it too.
OWN_PATTERN = PATTERNS["gpt2"]

END_OF_TEXT = "<|endoftext|>"  # GPT-2's special token, which follows each document
MAX_TOKENS = 1 << 19
MAX_TOKEN_BYTES = 1 << 12  # of one token; the longest of o200k_base has 128
MAX_TOTAL_BYTES = 1 << 22  # of all tokens together; those of o200k_base have 1.4 million
MAX_SPECIAL_TOKENS = 4096
MAX_NAME_LENGTH = 100  # characters
# The pattern backtracks over white space, and the regex engine gives up at a million characters.
MAX_WHITE_SPACE = 1 << 17  # characters in a row
_TOO_MUCH_WHITE_SPACE = re.compile(rf"\s{{{MAX_WHITE_SPACE}}}")
_TOO_LARGE = f"a vocabulary has at most {MAX_TOKENS:,} tokens of {MAX_TOKEN_BYTES:,} bytes"


def check_sizes(tokens: Sequence[str | bytes], special: Sized) -> None:
    """Raises UserError if a vocabulary is too large, before any work is done on it."""
    if (
        len(tokens) > MAX_TOKENS
        or len(special) > MAX_SPECIAL_TOKENS
        or max(map(len, tokens), default=0) > MAX_TOKEN_BYTES
        or sum(map(len, tokens)) > MAX_TOTAL_BYTES
    ):
        raise UserError(_TOO_LARGE)


class BpeTokenizer(ByteLevel):
    """Tokens of one or more bytes, and perhaps special tokens, which no text encodes to."""

    kind = "bpe"

    def __init__(
        self, name: str, pattern: str, tokens: list[bytes], special: dict[str, int] | None = None
    ) -> None:
        """`tokens` in the order of their ids, b"" for an unused id; `special` from name to id.

        Raises UserError for an invalid vocabulary, or if the package tiktoken is missing.
        """
        special = special or {}
        check_sizes(tokens, special)
        ranks = {token: rank for rank, token in enumerate(tokens) if token}
        _check_vocabulary(name, pattern, tokens, ranks, special)
        self.name, self.pattern, self.tokens, self.special = name, pattern, tokens, special
        self.vocab_size = max([len(tokens) - 1, *special.values()]) + 1
        self._name_of = {number: text for text, number in special.items()}
        # The end of a document is encoded as <|endoftext|>; without such a token, as the byte
        # U+0003, made special so that nothing is merged with it.
        ends = {DOCUMENT_END: special.get(END_OF_TEXT, ranks[DOCUMENT_END.encode()])}
        self._ranks, self._markers = ranks, ends | special
        self._tiktoken = import_tiktoken().Encoding(
            name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=self._markers
        )

    def _encode(self, text: str, documents: bool) -> np.ndarray:
        text.encode()  # raises for what is no character: tiktoken would take it for U+FFFD
        if found := _TOO_MUCH_WHITE_SPACE.search(text):
            raise UserError(
                f"there are {MAX_WHITE_SPACE:,} white spaces in a row at position "
                f"{found.start()}: use --tokenizer=bytes"
            )
        allowed = {DOCUMENT_END} if documents else set()
        return self._tiktoken.encode_to_numpy(text, allowed_special=allowed, disallowed_special=())

    def encode_prompt(self, text: str) -> list[int]:
        """Like `encode`, but the name of a special token is that token."""
        if not any(name in text for name in self.special):
            return self.encode(text)
        self.encode(text)  # raises for what is no character
        return self._tiktoken.encode(text, allowed_special=set(self.special), disallowed_special=())

    def with_markers(self, markers: str) -> "BpeTokenizer":
        """The same tokens, then one special token for each marker that has none."""
        new = [marker for marker in markers if marker not in self.special]
        if not new:
            return self
        ids = {marker: self.vocab_size + i for i, marker in enumerate(new)}
        return BpeTokenizer(self.name, self.pattern, self.tokens, self.special | ids)

    def marker_id(self, marker: str) -> int:
        """The id of a control character: of its special token, or else of its byte."""
        return self._markers.get(marker, self._ranks[marker.encode()])

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token, the name of a special token, or b"" for an unused id."""
        if token in self._name_of:
            return self._name_of[token].encode()
        return self.tokens[token] if token < len(self.tokens) else b""

    def characters_begun(self) -> np.ndarray:
        """Number of characters that begin in each token, shape (vocab_size,); special ones: 0."""
        begun = super().characters_begun()
        begun[list(self._name_of)] = 0
        return begun

    def to_dict(self) -> dict[str, Any]:
        """Plain data. The tokens are one string, base64 with spaces between, which is read much
        faster than a list."""
        tokens = " ".join(base64.b64encode(token).decode() for token in self.tokens)
        return {
            "kind": self.kind,
            "name": self.name,
            "pattern": self.pattern,
            "tokens": tokens,
            "special": self.special,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "BpeTokenizer":
        """The tokenizer that `to_dict` described. Raises UserError for invalid data."""
        match data:
            case {
                "name": str(name),
                "pattern": str(pattern),
                "tokens": str(tokens),
                "special": dict(special),
            }:
                for text, number in special.items():
                    if type(number) is not int or not isinstance(text, str):
                        raise UserError("its special tokens are not a map from names to ids")
                if tokens.count(" ") >= MAX_TOKENS or len(tokens) > 4 * MAX_TOTAL_BYTES:
                    raise UserError(_TOO_LARGE)
                try:
                    decoded = [base64.b64decode(t, validate=True) for t in tokens.split(" ")]
                    return cls(name, pattern, decoded, special)
                except (ValueError, UnicodeError):
                    raise UserError(
                        "its tokens are not base64, or its names are not valid text"
                    ) from None
        raise UserError("it holds no vocabulary of byte pairs")


def _check_vocabulary(
    name: str,
    pattern: str,
    tokens: list[bytes],
    ranks: dict[bytes, int],
    special: dict[str, int],
) -> None:
    """Raises UserError for an invalid name, pattern, set of tokens or special tokens."""
    if not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        raise UserError("invalid tokenizer name")
    if pattern not in PATTERNS.values():
        raise UserError("it splits text by a pattern that this version of kqv does not know")
    has_all_bytes = all(bytes([byte]) in ranks for byte in range(256))
    has_duplicates = len(ranks) + tokens.count(b"") != len(tokens)
    if has_duplicates or not has_all_bytes:
        raise UserError("a vocabulary of byte pairs has every single byte, and no token twice")
    ids = set(special.values())
    last = len(tokens) + MAX_SPECIAL_TOKENS
    unused = {i for i in range(last) if i >= len(tokens) or not tokens[i]}
    if not all(special) or len(ids) != len(special) or not unused.issuperset(ids):
        raise UserError("its special tokens have no name, or no id of their own")


def import_tiktoken() -> Any:
    """tiktoken, which only byte-pair vocabularies need. Raises UserError if it is missing."""
    try:
        import tiktoken
    except ImportError:
        raise UserError(
            "this vocabulary needs the package tiktoken: pip install tiktoken"
        ) from None
    return tiktoken
