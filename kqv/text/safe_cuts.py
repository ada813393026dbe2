"""Cut a long text where a cut changes no token.

Byte-pair tokenizers split a text by a pattern before they merge bytes. Where every pattern ends a
token anyway, the ids of the two sides are the ids of the whole, so a text of any size can be
tokenized piece by piece, in little memory and on all cores.
"""

import re
from collections.abc import Iterable, Iterator

from kqv.text.tokenizer import DOCUMENT_END

# Every pattern ends a token between a letter or digit and one of these characters, whatever
# follows; and behind the end of a document.
_SAFE = re.compile(r"(?<=[^\W_])[ \n.,;:!?。，、；：！？]")
_SAFE_IN_DOCUMENTS = re.compile(rf"{_SAFE.pattern}|(?<={DOCUMENT_END})")
_SEARCHED_FIRST = 1000  # characters at the end of a piece, where the last safe place mostly is


def safe_pieces(texts: Iterable[str], documents: bool = False) -> Iterator[str]:
    """A text that comes in pieces, cut anew where every pattern ends a token.

    With `documents`, it is also cut behind U+0003, which ends a document.

    >>> list(safe_pieces(["to be or n", "ot to be"]))
    ['to be or', ' not to', ' be']
    """
    safe = _SAFE_IN_DOCUMENTS if documents else _SAFE
    pending: list[str] = []
    before = ""  # the last character so far, to find a safe place between two pieces too
    for text in texts:
        cut = _last_cut(before, text, safe)
        if cut is None:
            pending.append(text)
        else:
            if piece := "".join([*pending, text[:cut]]):
                yield piece
            pending = [text[cut:]]
        before = text[-1:] or before
    if any(pending):
        yield "".join(pending)


def _last_cut(before: str, text: str, safe: re.Pattern[str]) -> int | None:
    """The last safe place in `text`, which follows the character `before`, or None."""
    joined = before + text
    for start in (max(0, len(joined) - _SEARCHED_FIRST), 0):
        if places := [place.start() for place in safe.finditer(joined, start)]:
            return max(places[-1] - len(before), 0)
    return None
