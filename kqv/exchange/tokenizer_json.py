"""Vocabularies as the tokenizer.json that the library `tokenizers` reads, and back: plain data, nothing of it is run.

Characters are a WordLevel model with a cut at every character: an unknown one raises, for no token of the vocabulary stands
for it (`tokenizers` says "Missing [UNK] token" and cannot be told to name the character: the model card says how to find it).
Bytes and byte pairs are a ByteLevel BPE model, whose merges are found again from the order of the tokens.
"""

from heapq import heappop, heappush
from typing import Any

from kqv.errors import UserError
from kqv.text.byte_level import ByteTokenizer
from kqv.text.characters import CharTokenizer
from kqv.text.tokenizer import DOCUMENT_END, Tokenizer

EVERY_CHARACTER = {
    "type": "Split",
    "pattern": {"Regex": r"[\s\S]"},
    "behavior": "Isolated",
    "invert": False,
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a ByteLevel vocabulary: itself if it can be seen, else the next from U+0100 on
    (Radford et al. 2019).

    >>> letters = byte_letters()
    >>> letters[ord("a")], letters[ord(" ")]
    ('a', 'Ġ')
    """
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) if byte in seen else chr(256 + hidden.index(byte)) for byte in range(256)]


def merges(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The pair that each token of two bytes or more is made of: what is left of it before the merge of its own rank.

    >>> merges([b"a", b"b", b"c", b"ab", b"abc"])
    [(b'a', b'b'), (b'ab', b'c')]
    """
    ranks = {token: rank for rank, token in enumerate(tokens) if token}
    return [_merge(token, ranks) for token in ranks if len(token) > 1]


def _merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts that are left of a token when all pairs of lower ranks are merged, the lowest
    first and the leftmost of these. Takes time n log n in its length n."""
    end = len(token)
    after = list(range(1, end + 1))  # where the part that begins here ends
    before = list(range(-1, end))  # where the part that ends here begins
    waiting: list[tuple[int, int, int]] = []  # rank, beginning and end of a pair

    def wait(start: int) -> None:
        if start >= 0 and after[start] < end:
            stop = after[after[start]]
            if (rank := ranks.get(token[start:stop], ranks[token])) < ranks[token]:
                heappush(waiting, (rank, start, stop))

    for start in range(end - 1):
        wait(start)
    for _ in range(end - 2):
        while waiting:
            _, start, stop = heappop(waiting)
            middle = after[start]
            if middle > start and middle < end and after[middle] == stop:  # it is still a pair
                break
        else:
            raise UserError("its tokens are not made by merging pairs")
        after[start], before[stop], after[middle] = stop, start, middle
        wait(start)
        wait(before[start])
    return token[: after[0]], token[after[0] :]


def to_tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `tokenizers` reads. Raises UserError for a vocabulary that it cannot have."""
    special: dict[str, int] = {}
    if isinstance(tokenizer, CharTokenizer):
        ids = {character: i for i, character in enumerate(tokenizer.characters)}
        model: dict[str, Any] = {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"}
        splitter: dict[str, Any] = EVERY_CHARACTER
        joiner: dict[str, Any] = {"type": "Fuse"}
    else:
        letters = byte_letters()

        def name(token: bytes) -> str:
            return "".join(letters[byte] for byte in token)

        tokens, pattern, special = _byte_pairs(tokenizer)
        ids = {name(token): i for i, token in enumerate(tokens) if token} | special
        pairs = [[name(left), name(right)] for left, right in merges(tokens)]
        model = {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": ids, "merges": pairs,
        }  # fmt: skip
        splitter = {**BYTE_LEVEL, "use_regex": False}
        if pattern == "gpt2":
            splitter["use_regex"] = True
        elif pattern:
            raise UserError(
                f"the vocabulary {tokenizer.name} splits texts by a pattern that only tiktoken has"
            )
        joiner = {**BYTE_LEVEL, "use_regex": True}
    flags = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    added = [{"id": number, "content": text, **flags} for text, number in special.items()]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": splitter, "post_processor": None, "decoder": joiner, "model": model,
    }  # fmt: skip


def _byte_pairs(tokenizer: Tokenizer) -> tuple[list[bytes], str, dict[str, int]]:
    """The tokens of a vocabulary of bytes or byte pairs, the name of the pattern that splits texts, its special tokens."""
    if isinstance(tokenizer, ByteTokenizer):
        return [bytes([byte]) for byte in range(256)], "", {}
    from kqv.text.bpe import PATTERNS, BpeTokenizer

    if not isinstance(tokenizer, BpeTokenizer):
        raise UserError(f"the vocabulary {tokenizer.name} is of a kind that others do not know")
    pattern = next(name for name, pattern in PATTERNS.items() if pattern == tokenizer.pattern)
    return tokenizer.tokens, pattern, tokenizer.special


def unused_id(tokenizer: Tokenizer) -> int | None:
    """The id of a token that no text has: the end of a document, or the byte 0xFF, which UTF-8 never has. A vocabulary of
    characters has neither unless it was learnt from documents.

    >>> unused_id(ByteTokenizer()), unused_id(CharTokenizer("ab"))
    (255, None)
    """
    if isinstance(tokenizer, CharTokenizer):
        return (
            tokenizer.characters.index(DOCUMENT_END)
            if DOCUMENT_END in tokenizer.characters
            else None
        )
    from kqv.text.bpe import END_OF_TEXT

    tokens, _, special = _byte_pairs(tokenizer)
    return special.get(END_OF_TEXT, tokens.index(b"\xff"))


def from_tokenizer_json(data: dict[str, Any]) -> Tokenizer:
    """The vocabulary of a tokenizer.json. Raises UserError if it is of a kind that ours cannot be."""
    unknown = UserError(
        "its tokenizer.json is of a kind that kqv does not know, which takes characters and GPT-2's byte pairs"
    )
    match data:
        case {
            "model": {"type": "WordLevel", "vocab": dict(ids)}, "normalizer": None, "added_tokens": list(added),
            "pre_tokenizer": cut,
        }:  # fmt: skip
            whole = sorted(ids.values()) == list(range(len(ids))) and all(
                len(character) == 1 for character in ids
            )
            # transformers adds the character that stands in for padding, which is there already
            nothing_new = all(ids.get(token["content"]) == token["id"] for token in added)
            if cut == EVERY_CHARACTER and whole and nothing_new:
                return CharTokenizer("".join(sorted(ids, key=ids.__getitem__)))
        case {
            "model": {"type": "BPE", "vocab": dict(ids), "merges": list(pairs)}, "normalizer": None,
            "added_tokens": list(added), "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, **more},
        }:  # fmt: skip
            from kqv.text.bpe import OWN_PATTERN, BpeTokenizer, check_sizes

            check_sizes([*ids], added)
            special = {}
            for token in added:
                name, number = str(token["content"]), int(token["id"])
                if (
                    len(name) > 1 or ids.get(name) != number
                ):  # else it is the byte that stands in for padding
                    special[name] = number
            letters = byte_letters()
            byte_of = {letter: byte for byte, letter in enumerate(letters)}
            ordinary = {text: number for text, number in ids.items() if text not in special}
            if sorted({*ordinary.values(), *special.values()}) != list(
                range(len(ordinary) + len(special))
            ):
                raise unknown
            tokens = [b""] * (max(ordinary.values()) + 1)
            for text, number in ordinary.items():
                tokens[number] = bytes(byte_of[letter] for letter in text)
            if not pairs and not special and tokens == [bytes([byte]) for byte in range(256)]:
                return ByteTokenizer()
            if len(pairs) != sum(len(token) > 1 for token in tokens):
                raise unknown
            theirs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in pairs]
            ours = [
                tuple("".join(letters[byte] for byte in part) for part in pair)
                for pair in merges(tokens)
            ]
            if more.get("use_regex", True) and theirs == ours:
                count = len(ordinary) + len(special)
                named = (
                    "gpt2"
                    if (count, special) == (50257, {"<|endoftext|>": 50256})
                    else f"bpe:{count}"
                )
                return BpeTokenizer(named, OWN_PATTERN, tokens, special)
    raise unknown
