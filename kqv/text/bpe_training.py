"""Train a byte-pair vocabulary on a text, with the package rustbpe."""

import sys
from collections.abc import Iterable

from kqv.text.bpe import END_OF_TEXT, OWN_PATTERN, BpeTokenizer
from kqv.text.safe_cuts import safe_pieces
from kqv.text.tokenizer import DOCUMENT_END

# Pieces that rustbpe collects before it counts what is in them, which it does on all cores.
BUFFERED_PIECES, BUFFERED_DOCUMENTS = 4, 64


def train_bpe(name: str, texts: Iterable[str], documents: bool = False) -> BpeTokenizer:
    """Train the tokenizer `name`, such as bpe:1024 for 1024 tokens, on a text in pieces.

    With `documents`, U+0003 ends each document, and the last token is <|endoftext|>. A short text
    gives fewer tokens than asked for, which is reported on stderr.
    """
    import rustbpe

    size = int(name.removeprefix("bpe:"))
    to_merge = size - 1 if documents else size  # without <|endoftext|>
    pieces = safe_pieces(texts, documents)
    if documents:
        pieces = (text for piece in pieces for text in piece.split(DOCUMENT_END))
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(
        pieces,
        to_merge,
        buffer_size=BUFFERED_DOCUMENTS if documents else BUFFERED_PIECES,
        pattern=OWN_PATTERN,
    )
    ranks = sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])
    if len(ranks) < to_merge:
        found = len(ranks) + (size - to_merge)
        print(
            f"the text gave {found} tokens of the {size} asked for: no pair is left to merge",
            file=sys.stderr,
        )
    tokens = [bytes(token) for token, _ in ranks]
    return BpeTokenizer(name, OWN_PATTERN, tokens, {END_OF_TEXT: len(ranks)} if documents else None)
