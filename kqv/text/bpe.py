"""Byte-pair vocabularies: pieces of words as tokens, used through tiktoken.

    "the cats" ──split by a pattern──▶ "the", " cats" ──merge pairs of bytes, lowest rank first──▶ "the", " cat", "s"

The rank of a token is its id. Splitting is a part of the vocabulary, and only the patterns written here are taken: one
from a file could take for ever. The ids of a text are those of its pieces one after the other, if it is cut where every
pattern ends a token anyway (`safe_pieces`), so that a text of any size is encoded in little memory.
"""

import base64
import re
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

from kqv.errors import UserError
from kqv.text.tokenizer import END, ByteLevel

try:
    import tiktoken
except ImportError:
    raise UserError("this vocabulary needs the package tiktoken: pip install tiktoken") from None

# How texts are split, by the name of the encoding that began with it, in tiktoken's regular expressions. \s++$ and the
# other possessive ++ change nothing of what is found: they spare the search its way back.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'(?:[dmst]|ll|re|ve))"
_LEAD = r"[^\p{L}\p{N}\r\n]"
PATTERNS = {
    "gpt2": r"'(?:[dmst]|ll|re|ve)| ?(?:\p{L}++|\p{N}++|[^\p{L}\p{N}\s]++)|\s++$|\s+(?!\S)|\s",
    "cl100k_base": rf"{_ENDING}|{_LEAD}?+\p{{L}}++|\p{{N}}{{1,3}}+| ?[^\p{{L}}\p{{N}}\s]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    "o200k_base": (
        rf"{_LEAD}?{_UPPER}*{_LOWER}+{_ENDING}?|{_LEAD}?{_UPPER}+{_LOWER}*{_ENDING}?|"
        r"\p{N}{1,3}| ?[^\p{L}\p{N}\s]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
OWN_PATTERN = PATTERNS[
    "gpt2"
]  # of vocabularies that are trained here: Hugging Face and llama.cpp know it too

END_OF_TEXT = "<|endoftext|>"  # GPT-2's special token, which stands after each document
MOST_TOKENS = 1 << 19
LONGEST_TOKEN = 1 << 12  # bytes; the longest of o200k_base has 128
MOST_BYTES = 1 << 22  # of all tokens together; those of o200k_base have 1.4 million
MOST_SPECIAL = 4096
LONGEST_GAP = (
    1 << 17
)  # white space in a row: the search goes back over it, and gives up at a million

# Where every pattern ends a token, whatever follows: after a letter or digit, before one of these.
_SAFE = re.compile(r"(?<=[^\W_])[ \n.,;:!?。，、；：！？]")
_SAFE_IN_DOCUMENTS = re.compile(
    rf"{_SAFE.pattern}|(?<={END})"
)  # the end of a document ends a token too
_GAP = re.compile(rf"\s{{{LONGEST_GAP}}}")


TOO_LARGE = f"a vocabulary has at most {MOST_TOKENS:,} tokens of {LONGEST_TOKEN:,} bytes"


def check_sizes(tokens: Sequence[str | bytes], special: Sized) -> None:
    """Raises UserError for a vocabulary that is larger than any, before work is done on it."""
    too_large = len(tokens) > MOST_TOKENS or len(special) > MOST_SPECIAL
    if (
        too_large
        or max(map(len, tokens), default=0) > LONGEST_TOKEN
        or sum(map(len, tokens)) > MOST_BYTES
    ):
        raise UserError(TOO_LARGE)


class BpeTokenizer(ByteLevel):
    """Tokens of one or more bytes, and perhaps special tokens, whose names stand for no text."""

    kind = "bpe"

    def __init__(
        self, name: str, pattern: str, tokens: list[bytes], special: dict[str, int] | None = None
    ) -> None:
        """`tokens` in the order of their ids, b"" where there is none; `special` tokens by name.

        Raises UserError for what is no vocabulary.
        """
        special = special or {}
        check_sizes(tokens, special)
        ranks = {token: rank for rank, token in enumerate(tokens) if token}
        if not name.isprintable() or len(name) > 100:
            raise UserError("its name is none")
        if pattern not in PATTERNS.values():
            raise UserError("it splits texts by a pattern that this version of kqv does not know")
        if len(ranks) + tokens.count(b"") != len(tokens) or not all(
            bytes([byte]) in ranks for byte in range(256)
        ):
            raise UserError("a vocabulary of byte pairs has every single byte, and no token twice")
        free = {
            number
            for number in range(len(tokens) + MOST_SPECIAL)
            if number >= len(tokens) or not tokens[number]
        }
        if (
            not all(special)
            or len(set(special.values())) != len(special)
            or not free.issuperset(special.values())
        ):
            raise UserError("its special tokens have no name, or no id of their own")
        self.name, self.pattern, self.tokens, self.special = name, pattern, tokens, special
        self.vocab_size = max([len(tokens) - 1, *special.values()]) + 1
        self._name_of = {number: text for text, number in special.items()}
        # The end of a document is another name of <|endoftext|>, or, where there is none, a token that nothing is merged with.
        ends = {END: special.get(END_OF_TEXT, ranks[END.encode()])}
        self._encoding = tiktoken.Encoding(
            name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=ends | special
        )

    def _encode(self, text: str, documents: bool) -> Any:
        text.encode()  # tiktoken would put U+FFFD for what is no character
        _check_gaps(text)
        allowed = {END} if documents else set()
        return self._encoding.encode_to_numpy(text, allowed_special=allowed, disallowed_special=())

    def encode_prompt(self, text: str) -> list[int]:
        """As `encode`, but the name of a special token is that token."""
        if not any(name in text for name in self.special):
            return self.encode(text)
        self.encode(text)  # raises for what is no character
        return self._encoding.encode(text, allowed_special=set(self.special), disallowed_special=())

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token, the name of a special one, or nothing where there is none."""
        if token in self._name_of:
            return self._name_of[token].encode()
        return self.tokens[token] if token < len(self.tokens) else b""

    def characters_begun(self) -> Any:
        """As for any other; special tokens are no text."""
        begun = super().characters_begun()
        begun[list(self._name_of)] = 0
        return begun

    def to_dict(self) -> dict[str, Any]:
        """Plain data; the tokens are one text, in base64 with spaces between: files read that much faster than a list."""
        tokens = " ".join(base64.b64encode(token).decode() for token in self.tokens)
        return {
            "kind": self.kind,
            "name": self.name,
            "pattern": self.pattern,
            "tokens": tokens,
            "special": self.special,
        }

    @classmethod
    def from_dict(cls, data: Any) -> "BpeTokenizer":
        """The tokenizer that `to_dict` described. Raises UserError if the data describes none."""
        match data:
            case {
                "name": str(name),
                "pattern": str(pattern),
                "tokens": str(tokens),
                "special": dict(special),
            }:
                if not all(
                    type(number) is int and isinstance(text, str)
                    for text, number in special.items()
                ):
                    raise UserError("its special tokens are no names with ids")
                if tokens.count(" ") >= MOST_TOKENS or len(tokens) > 4 * MOST_BYTES:
                    raise UserError(TOO_LARGE)
                try:
                    return cls(
                        name,
                        pattern,
                        [base64.b64decode(token, validate=True) for token in tokens.split(" ")],
                        special,
                    )
                except (ValueError, UnicodeError):
                    raise UserError(
                        "its tokens are not in base64, or have names that are no text"
                    ) from None
        raise UserError("it holds no vocabulary of byte pairs")


def safe_pieces(texts: Iterable[str], documents: bool = False) -> Iterator[str]:
    """A text that comes in pieces, cut anew where every pattern ends a token; with `documents`, also where one ends.

    >>> list(safe_pieces(["to be or n", "ot to be"]))
    ['to be or', ' not to', ' be']
    """
    safe = _SAFE_IN_DOCUMENTS if documents else _SAFE
    waiting: list[str] = []
    before = ""  # the last character so far, so that a cut between two pieces is found too
    for text in texts:
        cut = _last_cut(before, text, safe)
        if cut is None:
            waiting.append(text)
        else:
            if piece := "".join([*waiting, text[:cut]]):
                yield piece
            waiting = [text[cut:]]
        before = text[-1:] or before
    if any(waiting):
        yield "".join(waiting)


def _last_cut(before: str, text: str, safe: re.Pattern[str]) -> int | None:
    """The last place in a text, which `before` stands before, where it may be cut."""
    joined = before + text
    for start in (max(0, len(joined) - 1000), 0):  # mostly it is near the end
        if places := [place.start() for place in safe.finditer(joined, start)]:
            return max(places[-1] - len(before), 0)
    return None


def _check_gaps(text: str) -> None:
    if gap := _GAP.search(text):
        raise UserError(
            f"there are {LONGEST_GAP:,} white spaces in a row at position {gap.start()}: take --tokenizer=bytes"
        )
