"""A vocabulary as the tokenizer.json that the library `tokenizers` reads, both directions.

Characters are a WordLevel model that splits at every character. No token stands for an unknown
character: it raises "Missing [UNK] token", which does not name it; the model card says how to find
it. Bytes and byte pairs are a ByteLevel BPE model, whose merges follow from the order of tokens.

A tokenizer.json is plain data: nothing in it is run.
"""

from heapq import heappop, heappush
from typing import Any

from kqv.errors import UserError
from kqv.text.bpe import END_OF_TEXT, OWN_PATTERN, PATTERNS, BpeTokenizer, check_sizes
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.tokenizer import DOCUMENT_END, Tokenizer
from kqv.text.tokenizer_names import TIKTOKEN_SIZES

EVERY_CHARACTER = {
    "type": "Split",
    "pattern": {"Regex": r"[\s\S]"},
    "behavior": "Isolated",
    "invert": False,
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
BPE_OPTIONS = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}
SPECIAL_FLAGS = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
GPT2_SIZE, GPT2_SPECIAL = TIKTOKEN_SIZES["gpt2"], {"<|endoftext|>": 50256}
UNKNOWN_KIND = (
    "its tokenizer.json is of a kind that kqv does not know: it reads characters and GPT-2's byte "
    "pairs"
)


# --- bytes as letters, and merges -------------------------------------------------------------


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a ByteLevel vocabulary (Radford et al. 2019).

    It is the byte's own character if that is visible, else the next from U+0100 on.

    >>> letters = byte_letters()
    >>> letters[ord("a")], letters[ord(" ")]
    ('a', 'Ġ')
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]


LETTERS = byte_letters()
BYTE_OF_LETTER = {letter: byte for byte, letter in enumerate(LETTERS)}


def merges(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The pair that each token of two bytes or more is merged from.

    These are the two parts that are left of it after all merges of lower ranks.

    >>> merges([b"a", b"b", b"c", b"ab", b"abc"])
    [(b'a', b'b'), (b'ab', b'c')]
    """
    ranks = {token: rank for rank, token in enumerate(tokens) if token}
    return [_merge(token, ranks) for token in ranks if len(token) > 1]


def _merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The pair that a token is merged from, in n log n steps in its length n.

    Pairs of lower ranks than the token's are merged until two parts are left, the lowest rank first
    and the leftmost of equal ones.

    Raises UserError if more than two parts are left.
    """
    end = len(token)
    end_of = list(range(1, end + 1))  # end_of[start] is where the part that starts there ends
    start_of = list(range(-1, end))  # start_of[end] is where the part that ends there starts
    queue: list[tuple[int, int, int]] = []  # (rank, start, end) of pairs of neighbouring parts

    def push(start: int) -> None:
        """Queue the pair whose left part starts here, if merging it makes a lower token."""
        if start >= 0 and end_of[start] < end:
            stop = end_of[end_of[start]]
            if (rank := ranks.get(token[start:stop], ranks[token])) < ranks[token]:
                heappush(queue, (rank, start, stop))

    for start in range(end - 1):
        push(start)
    for _ in range(end - 2):
        while queue:
            _, start, stop = heappop(queue)
            middle = end_of[start]
            if start < middle < end and end_of[middle] == stop:  # still two neighbouring parts
                break
        else:
            raise UserError("its tokens are not made by merging pairs")
        end_of[start], start_of[stop], end_of[middle] = stop, start, middle
        push(start)
        push(start_of[start])
    return token[: end_of[0]], token[end_of[0] :]


# --- ours to theirs ---------------------------------------------------------------------------


def to_tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `tokenizers` reads. Raises UserError for a vocabulary that it cannot express."""
    special: dict[str, int] = {}
    if isinstance(tokenizer, CharTokenizer):
        ids = {character: i for i, character in enumerate(tokenizer.characters)}
        model: dict[str, Any] = {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"}
        splitter: dict[str, Any] = EVERY_CHARACTER
        joiner: dict[str, Any] = {"type": "Fuse"}
    else:
        tokens, pattern, special = _byte_pairs(tokenizer)
        model = _bpe_model(tokens, special)
        if pattern not in ("", "gpt2"):
            raise UserError(
                f"the vocabulary {tokenizer.name} splits texts by a pattern that only tiktoken has"
            )
        splitter = {**BYTE_LEVEL, "use_regex": pattern == "gpt2"}
        joiner = {**BYTE_LEVEL, "use_regex": True}
    added = [{"id": number, "content": text, **SPECIAL_FLAGS} for text, number in special.items()]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": splitter,
        "post_processor": None,
        "decoder": joiner,
        "model": model,
    }


def _byte_pairs(tokenizer: Tokenizer) -> tuple[list[bytes], str, dict[str, int]]:
    """The tokens of a vocabulary, the name of the pattern that splits texts, its special tokens.

    Raises UserError if it is neither of bytes nor of byte pairs.
    """
    if isinstance(tokenizer, ByteTokenizer):
        return [bytes([byte]) for byte in range(256)], "", {}
    if not isinstance(tokenizer, BpeTokenizer):
        raise UserError(f"the vocabulary {tokenizer.name} is of a kind that others do not know")
    pattern = next(name for name, pattern in PATTERNS.items() if pattern == tokenizer.pattern)
    return tokenizer.tokens, pattern, tokenizer.special


def _bpe_model(tokens: list[bytes], special: dict[str, int]) -> dict[str, Any]:
    names = {token: _spelled(token) for token in tokens if token}
    ids = {names[token]: i for i, token in enumerate(tokens) if token} | special
    pairs = [[_spelled(left), _spelled(right)] for left, right in merges(tokens)]
    return {**BPE_OPTIONS, "vocab": ids, "merges": pairs}


def _spelled(token: bytes) -> str:
    """The name of a token in a ByteLevel vocabulary."""
    return "".join(LETTERS[byte] for byte in token)


def unused_id(tokenizer: Tokenizer) -> int | None:
    """The id of a token that no text has, None if each may occur.

    It is the end of a document, or the byte 0xFF, which UTF-8 never has. A vocabulary of characters
    has neither unless it was learnt from documents.

    >>> unused_id(ByteTokenizer()), unused_id(CharTokenizer("ab"))
    (255, None)
    """
    if isinstance(tokenizer, CharTokenizer):
        characters = tokenizer.characters
        return characters.index(DOCUMENT_END) if DOCUMENT_END in characters else None
    tokens, _, special = _byte_pairs(tokenizer)
    return special.get(END_OF_TEXT, tokens.index(b"\xff"))


# --- theirs to ours ---------------------------------------------------------------------------


def from_tokenizer_json(data: dict[str, Any]) -> Tokenizer:
    """The vocabulary of a tokenizer.json. Raises UserError if it is of a kind that ours are not."""
    found: Tokenizer | None = None
    match data:
        case {
            "model": {"type": "WordLevel", "vocab": dict(ids)},
            "normalizer": None,
            "added_tokens": list(added),
            "pre_tokenizer": splitter,
        } if splitter == EVERY_CHARACTER:
            found = _characters(ids, added)
        case {
            "model": {"type": "BPE", "vocab": dict(ids), "merges": list(pairs)},
            "normalizer": None,
            "added_tokens": list(added),
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, **options},
        }:
            found = _bytes_or_pairs(ids, pairs, added, bool(options.get("use_regex", True)))
    if found is None:
        raise UserError(UNKNOWN_KIND)
    return found


def _characters(ids: dict[str, int], added: list[Any]) -> CharTokenizer | None:
    """The tokenizer of a WordLevel model, None if its tokens are not characters 0, 1, 2, ..."""
    consecutive = sorted(ids.values()) == list(range(len(ids)))
    single = all(len(character) == 1 for character in ids)
    # transformers adds the padding token, which is one of the characters.
    nothing_new = all(ids.get(token["content"]) == token["id"] for token in added)
    if consecutive and single and nothing_new:
        return CharTokenizer("".join(sorted(ids, key=ids.__getitem__)))
    return None


def _bytes_or_pairs(
    ids: dict[str, int], pairs: list[Any], added: list[Any], use_regex: bool
) -> Tokenizer | None:
    """The tokenizer of a ByteLevel BPE model, None if it does not encode as ours do.

    Raises UserError if it is too large, or its tokens are not merged from pairs.
    """
    check_sizes([*ids], added)
    special = {}
    for token in added:
        name, number = str(token["content"]), int(token["id"])
        if name not in BYTE_OF_LETTER or ids.get(name) != number:  # else it is the byte that pads
            special[name] = number
    ordinary = {text: number for text, number in ids.items() if text not in special}
    count = len(ordinary) + len(special)
    if sorted({*ordinary.values(), *special.values()}) != list(range(count)):
        return None
    tokens = [b""] * (max(ordinary.values()) + 1)
    for text, number in ordinary.items():
        tokens[number] = bytes(BYTE_OF_LETTER[letter] for letter in text)
    if not pairs and not special and tokens == [bytes([byte]) for byte in range(256)]:
        return ByteTokenizer()
    if not use_regex or len(pairs) != sum(len(token) > 1 for token in tokens):
        return None
    theirs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in pairs]
    if theirs != [(_spelled(left), _spelled(right)) for left, right in merges(tokens)]:
        return None
    is_gpt2 = (count, special) == (GPT2_SIZE, GPT2_SPECIAL)
    return BpeTokenizer("gpt2" if is_gpt2 else f"bpe:{count}", OWN_PATTERN, tokens, special)
