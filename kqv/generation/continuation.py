"""One generated text as it grows, and the stop strings that end it."""

import codecs
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from kqv.text.tokenizer import Tokenizer


class Continuation:
    """A text as it grows: its tokens, their log-probabilities, and whether a stop string ended it.

    A token that ends inside a character (of UTF-8) adds to the text once the character is whole.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self.tokens: list[int] = []
        self.log_probabilities: list[float] = []
        self.text = ""
        self.stopped = False
        self._shown = 0  # characters that `add` has returned
        self._ends: list[int] = []  # length of the text after each token
        # The decoder holds back the bytes of half a character.
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int, log_probability: float) -> str:
        """Append a token, unless the text has ended. Returns the new text that can be shown.

        What may be the beginning of a stop string is held back until that is decided.
        """
        if self.stopped:
            return ""
        self.tokens.append(token)
        self.log_probabilities.append(log_probability)
        self.text += self._utf8.decode(self.tokenizer.token_bytes(token))
        self._ends.append(len(self.text))
        found = [self.text.find(stop) for stop in self.stop if stop in self.text]
        if found:
            self._cut(min(found))
            return self._show(len(self.text))
        return self._show(len(self.text) - self._held_back())

    def finish(self) -> str:
        """The text that was held back, when no more tokens come."""
        if not self.stopped and (half := self._utf8.decode(b"", final=True)):
            self.text += half
            self._ends[-1] = len(self.text)
        return self._show(len(self.text))

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the text, why it ended ("stop" or "length"), tokens and log-probabilities.

        Each token is the text that it added, nothing while a character is not whole.
        Log-probabilities are in nats.
        """
        ends = [0, *(min(end, len(self.text)) for end in self._ends)]
        return {
            "text": self.text,
            "finish_reason": "stop" if self.stopped else "length",
            "tokens": [self.text[ends[i] : ends[i + 1]] for i in range(len(self.tokens))],
            "log_probabilities": self.log_probabilities,
        }

    def _cut(self, length: int) -> None:
        """End the text at `length`, where a stop string begins; drop tokens that begin after it."""
        self.stopped = True
        self.text = self.text[:length]
        # The token that reaches `length` is the last one; it may reach over.
        kept = bisect_left(self._ends, length) + 1 if length else 0
        del self.tokens[kept:], self.log_probabilities[kept:]

    def _held_back(self) -> int:
        """Length of the longest end of the text that is the beginning of a stop string."""
        beginnings = [stop[:length] for stop in self.stop for length in range(1, len(stop))]
        return max((len(each) for each in beginnings if self.text.endswith(each)), default=0)

    def _show(self, end: int) -> str:
        fresh, self._shown = self.text[self._shown : end], max(end, self._shown)
        return fresh
