"""Text from a model: the samplers, the loop, the strings that end a text."""

import codecs
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kqv.errors import UserError
from kqv.generation.decoder import Decoder
from kqv.options.settings import SampleSettings
from kqv.text.tokenizer import Tokenizer
from model import GPT


def choose(logits: Tensor, settings: SampleSettings, draws: Tensor, seen: Tensor) -> Tensor:
    """The next token of each text, int64 (batch,).

    logits (batch, vocab_size); draws (batch,) uniform in [0, 1); seen (batch, vocab_size) bool, the tokens
    that stood in the text. Order: repetition penalty, temperature, top-k, top-p, min-p, each on what the
    one before left.
    """
    logits = logits.double()
    if settings.repetition_penalty != 1:  # Keskar et al. 2019, section 4.1
        penalty = settings.repetition_penalty
        logits = torch.where(
            seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits
        )
    if settings.temperature == 0:
        return logits.argmax(-1)
    below = logits - logits.amax(
        -1, keepdim=True
    )  # the likeliest is 0, however small the temperature
    probabilities = torch.softmax(below / settings.temperature, dim=-1)
    if 0 < settings.top_k < logits.shape[-1]:
        least = probabilities.topk(settings.top_k).values[:, -1:]
        probabilities = probabilities * (probabilities >= least)
    if (
        settings.top_p < 1
    ):  # nucleus sampling, Holtzman et al. 2020: the smallest set that reaches top_p
        ordered, order = (probabilities / probabilities.sum(-1, keepdim=True)).sort(descending=True)
        beyond = ordered.cumsum(-1) - ordered >= settings.top_p
        probabilities = probabilities.masked_fill(beyond.gather(-1, order.argsort()), 0)
    if settings.min_p > 0:
        probabilities = probabilities * (
            probabilities >= settings.min_p * probabilities.amax(-1, keepdim=True)
        )
    # Inverse of the cumulative distribution: one uniform number decides, so a text depends on its own stream only.
    cumulative = probabilities.cumsum(-1)
    return torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]


@torch.inference_mode()
def generate(
    model: GPT,
    prompt: Sequence[int],
    settings: SampleSettings,
    dtype: torch.dtype = torch.float32,
    vocab_size: int | None = None,
) -> Iterator[tuple[list[int], list[float]]]:
    """Continue a prompt of at least one token in settings.num_samples ways at once.

    Yields, max_new_tokens times, the next token of each text and its log-probability (nats, under the model
    itself: before temperature and the other options). Text k draws from the stream (seed, k), so it is the
    same whether generated alone or among others. `dtype` is the precision of the matrix products;
    `vocab_size` is the tokenizer's: the ids with which a model's is padded are never drawn.
    Raises UserError if the model gives numbers that are not finite.
    """
    device = next(model.parameters()).device
    count, length = settings.num_samples, settings.max_new_tokens
    streams = [
        np.random.Generator(np.random.Philox(key=np.array([settings.seed, k], dtype=np.uint64)))
        for k in range(count)
    ]
    ids = torch.tensor([list(prompt)] * count, device=device)
    seen = torch.zeros(count, vocab_size or model.config.vocab_size, dtype=torch.bool).scatter_(
        1, ids.cpu(), True
    )
    decoder = Decoder(model, dtype, slide=settings.past_block == "slide")
    for _ in range(length):
        logits = decoder.next_logits(ids).cpu()[
            :, :vocab_size
        ]  # a choice among a few is no work for a GPU
        if not logits.isfinite().all():
            raise UserError(
                "the model's logits are not finite: its weights are spoilt, or too large for this --dtype"
            )
        draws = torch.tensor([stream.random() for stream in streams], dtype=torch.float64)
        token = choose(logits, settings, draws, seen)[:, None]
        if settings.repetition_penalty != 1:
            seen.scatter_(1, token, True)
        ids = torch.cat((ids, token.to(device)), dim=1)[
            :, -model.config.block_size :
        ]  # no more is ever looked at
        log_probabilities = torch.log_softmax(logits, dim=-1).gather(1, token)
        yield token[:, 0].tolist(), log_probabilities[:, 0].tolist()


class Continuation:
    """One text as it grows: its tokens, their log-probabilities, and where a stop string ended it. A token that ends inside
    a character adds to the text when that is whole."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self.tokens: list[int] = []
        self.log_probabilities: list[float] = []
        self.text = ""
        self.stopped = False
        self._shown = 0
        self._ends: list[int] = []  # the length of the text after each token
        self._utf8 = codecs.getincrementaldecoder("utf-8")(
            errors="replace"
        )  # keeps the bytes of half a character

    def add(self, token: int, log_probability: float) -> str:
        """Append a token unless the text has ended. Returns the new text that can be shown: what may be the
        beginning of a stop string is held back until that is decided."""
        if self.stopped:
            return ""
        self.tokens.append(token)
        self.log_probabilities.append(log_probability)
        self.text += self._utf8.decode(self.tokenizer.token_bytes(token))
        self._ends.append(len(self.text))
        found = [self.text.find(stop) for stop in self.stop if stop in self.text]
        if found:
            self.stopped = True
            self.text = self.text[: min(found)]
            begun = bisect_left(self._ends, len(self.text)) + bool(
                self.text
            )  # tokens before the cut; the last may reach over
            del self.tokens[begun:], self.log_probabilities[begun:]
            return self._show(len(self.text))
        held = max(
            (n for stop in self.stop for n in range(1, len(stop)) if self.text.endswith(stop[:n])),
            default=0,
        )
        return self._show(len(self.text) - held)

    def finish(self) -> str:
        """The text that was still held back when no more tokens come."""
        if not self.stopped and (half := self._utf8.decode(b"", final=True)):
            self.text += half
            self._ends[-1] = len(self.text)
        return self._show(len(self.text))

    def _show(self, end: int) -> str:
        fresh, self._shown = self.text[self._shown : end], max(end, self._shown)
        return fresh

    def to_dict(self) -> dict[str, Any]:
        """Plain data: text, why it ended ("stop" or "length"), its tokens and their log-probabilities in nats.

        A token is what it added to the text: nothing while a character is not whole.
        """
        ends = [0, *(min(end, len(self.text)) for end in self._ends)]
        return {
            "text": self.text,
            "finish_reason": "stop" if self.stopped else "length",
            "tokens": [self.text[ends[i] : ends[i + 1]] for i in range(len(self.tokens))],
            "log_probabilities": self.log_probabilities,
        }


def generate_text(model: GPT, tokenizer: Tokenizer, prompt: str, settings: SampleSettings) -> str:
    """The text that one sample adds to the prompt, whole."""
    continued = generate(model, tokenizer.encode(prompt), settings, vocab_size=tokenizer.vocab_size)
    return tokenizer.decode(tokens[0] for tokens, _ in continued)
