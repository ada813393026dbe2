"""Tokens as a person can see them, on a page or in a terminal."""

import unicodedata
from collections.abc import Iterable

from kqv.text.tokenizer import DOCUMENT_END, MASK, TARGET_BEGIN, Tokenizer

# For white space and for the markers of kqv/text/tokenizer.py.
SIGNS = {"\n": "⏎", "\t": "⇥", " ": "␣", TARGET_BEGIN: "⊢", DOCUMENT_END: "⊣", MASK: "□"}


def visible(text: str) -> str:
    """A text with every character visible and without effect on its neighbours.

    White space gets a sign, a character without a shape its code point, and an accent a circle to
    stand on.

    >>> visible("a"), visible(" "), visible("\\u202e")
    ('a', '␣', 'U+202E')
    """
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if unicodedata.combining(character):
        return f"◌{character}"
    if character in SIGNS:
        return SIGNS[character]
    return character if character.isprintable() else f"U+{ord(character):04X}"


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """The text of a token; bytes that are no whole character appear as \\xe2."""
    return tokenizer.token_bytes(token).decode(errors="backslashreplace")


def token_label(tokenizer: Tokenizer, token: int) -> str:
    """The visible text of a token, or #id if it has none."""
    if tokenizer.kind == "symbols":
        return symbol_label(tokenizer.decode([token]))
    return visible(token_text(tokenizer, token)) or f"#{token}"


def symbol_label(symbol: str) -> str:
    """A symbol, of which an accent stands on the letter before it, as in d͡ʒ."""
    return "".join(
        part if number and unicodedata.combining(part) else _visible(part)
        for number, part in enumerate(symbol)
    )


def width(label: str) -> int:
    """Cells that a label takes in a terminal."""
    return sum(not unicodedata.combining(character) for character in label)


def terminal_labels(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """Labels for a terminal, where a character must take exactly one cell."""
    labels = [token_label(tokenizer, token) for token in ids]
    if tokenizer.kind != "char":
        return labels
    return [label if len(label) == 1 else "�" for label in labels]
