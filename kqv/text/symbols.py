"""Symbol tokenizer: one id for each different symbol, where spaces separate symbols.

"k ɝ n ə l" ──▶ symbols "k" "l" "n" "ə" "ɝ" ──▶ ids 0 4 2 3 1

For sounds, which may take several characters each (d͡ʒ), and for words. A text is the sequence of
its symbols: other white space, and more than one space, becomes one space.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kqv.errors import UserError
from kqv.text.tokenizer import DOCUMENT_END, UNKNOWN, Tokenizer

MAX_SYMBOLS = 1 << 17
MAX_TOTAL_CHARACTERS = 1 << 21  # of all symbols together


class SymbolTokenizer(Tokenizer):
    """One id for each different symbol: its index in `symbols`.

    >>> tokenizer = SymbolTokenizer.of(["k", "ɝ", "n", "ə", "l"])
    >>> tokenizer.encode("n ə l"), tokenizer.decode([0, 4, 2])
    ([2, 3, 1], 'k ɝ n')
    """

    kind = name = "symbols"

    def __init__(self, symbols: Sequence[str]) -> None:
        """Raises UserError if there is no symbol, one occurs twice or has white space in it, or
        there are too many."""
        check_symbol_count(symbols)
        self.symbols = list(symbols)
        self.vocab_size = len(self.symbols)
        self._id_of = {symbol: i for i, symbol in enumerate(self.symbols)}
        if not 0 < len(self._id_of) == self.vocab_size:
            raise UserError("a vocabulary has at least one symbol, and none of them twice")
        if " ".join(self.symbols).split() != self.symbols:
            raise UserError("a symbol of its vocabulary is empty, or has white space in it")

    @classmethod
    def of(cls, symbols: Iterable[str]) -> "SymbolTokenizer":
        """The vocabulary of these symbols, in code point order."""
        return cls(sorted(set(symbols)))

    def encode(self, text: str) -> list[int]:
        """The id of each symbol. Raises UserError naming the first unknown symbol."""
        symbols = text.split()
        try:
            return [self._id_of[symbol] for symbol in symbols]
        except KeyError as error:
            position = symbols.index(error.args[0]) + 1
            raise UserError(
                f"symbol {error.args[0]!r}, number {position}, is not among the "
                f"{self.vocab_size:,} that the model knows; spaces separate symbols"
            ) from None

    def encode_known(self, text: str) -> tuple[list[int], list[str]]:
        """The ids of the known symbols, and the unknown symbols that were left out."""
        symbols = text.split()
        ids = [self._id_of[symbol] for symbol in symbols if symbol in self._id_of]
        return ids, [symbol for symbol in symbols if symbol not in self._id_of]

    def replace_unknown(self, text: str) -> str:
        """The text with U+FFFD instead of each unknown symbol."""
        return " ".join(s if s in self._id_of else UNKNOWN for s in text.split())

    def with_markers(self, markers: str) -> "SymbolTokenizer":
        """The same symbols, then those of the markers that are not among them."""
        new = [marker for marker in markers if marker not in self._id_of]
        return SymbolTokenizer([*self.symbols, *new]) if new else self

    def decode(self, ids: Iterable[int]) -> str:
        """The symbols of the ids, with a space between two of them."""
        return " ".join([self.symbols[i] for i in ids])

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 of a symbol and of the space behind it."""
        return f"{self.symbols[token]} ".encode(errors="surrogatepass")

    def characters_begun(self) -> np.ndarray:
        """Those of a symbol and of the space behind it, shape (vocab_size,); none of U+0003, so
        that a target counts its end in place of a last space."""
        counts = [len(symbol) + 1 if symbol != DOCUMENT_END else 0 for symbol in self.symbols]
        return np.array(counts)

    def to_dict(self) -> dict[str, Any]:
        """The symbols in the order of their ids, as one string with spaces between."""
        return {"kind": self.kind, "symbols": " ".join(self.symbols)}


def check_symbol_count(symbols: Sequence[str] | set[str]) -> None:
    """Raises UserError if a vocabulary of these symbols would be too large."""
    if len(symbols) > MAX_SYMBOLS or sum(map(len, symbols)) > MAX_TOTAL_CHARACTERS:
        raise UserError(
            f"a vocabulary of symbols has at most {MAX_SYMBOLS:,}, of {MAX_TOTAL_CHARACTERS:,} "
            f"characters together: take another tokenizer, such as bpe:4096"
        )
