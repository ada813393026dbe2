"""Train a byte-pair vocabulary on a text, with the package rustbpe."""

import sys
from collections.abc import Iterable

from kqv.text.bpe import END_OF_TEXT, OWN_PATTERN, BpeTokenizer
from kqv.text.safe_cuts import safe_pieces
from kqv.text.tokenizer import DOCUMENT_END

# Pieces that rustbpe collects before it counts what is in them, which it does on all cores.
BUFFERED_PIECES, BUFFERED_DOCUMENTS = 4, 64


def train_bpe(
    name: str, texts: Iterable[str], documents: bool = False, markers: str = ""
) -> BpeTokenizer:
    """Train the tokenizer `name`, such as bpe:1024 for 1024 tokens, on a text in pieces.

    With `documents`, U+0003 ends each document, and its token is <|endoftext|>. Each of `markers`,
    control characters, is a special token, too. All special tokens count as tokens, and come last.
    A short text gives fewer tokens than asked for, which is reported on stderr.
    """
    import rustbpe

    size = int(name.removeprefix("bpe:"))
    special = [END_OF_TEXT] if documents and DOCUMENT_END not in markers else []
    special += markers
    to_merge = max(size - len(special), 256)  # the bytes are always there
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
        found = len(ranks) + len(special)
        print(
            f"the text gave {found} tokens of the {size} asked for: no pair is left to merge",
            file=sys.stderr,
        )
    tokens = [bytes(token) for token, _ in ranks]
    ids = {marker: len(ranks) + i for i, marker in enumerate(special)}
    return BpeTokenizer(name, OWN_PATTERN, tokens, ids)
