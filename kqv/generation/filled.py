"""Write the texts of an encoder to standard output, with their blanks filled."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import torch

from kqv.errors import UserError
from kqv.generation.filling import Step, encode_blanks, fill, show_blanks, to_fill
from kqv.generation.screen import Screen, can_redraw
from kqv.generation.writing import SEPARATOR, say_left_out, show
from kqv.options.settings import SampleSettings
from kqv.progress import say_once
from kqv.text.tokenizer import MASK, Tokenizer
from model import GPT


class Filled:
    """One text as its blanks are filled, and what the model knew of each."""

    def __init__(self, tokenizer: Tokenizer, ids: Sequence[int], blank: str) -> None:
        self.tokenizer, self.ids, self.blank = tokenizer, [*ids], blank
        self.steps = 0
        self.blanks: list[dict[str, Any]] = []

    def add(self, step: Step, number: int) -> None:
        """Take what a step wrote into text `number` of the batch."""
        self.steps += 1
        for place, token, log_probability, likeliest, chances in zip(
            *(numbers[number].tolist() for numbers in step), strict=True
        ):
            self.ids[place] = token
            pairs = zip(map(self._name, likeliest), chances, strict=True)
            self.blanks.append(
                {
                    "position": place,
                    "step": self.steps,
                    "token": self._name(token),
                    "log_probability": log_probability,
                    "likeliest": [list(pair) for pair in pairs],
                }
            )

    @property
    def text(self) -> str:
        """The text, with the blanks that are left."""
        return show_blanks(self.tokenizer, self.ids, self.blank)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the text, and for each blank in it the token, the step that chose it, its
        log-probability in nats and the likeliest tokens with their probabilities, all as the model
        saw them in that step. Bytes that are no whole character appear as \\xe2."""
        blanks = sorted(self.blanks, key=lambda blank: blank["position"])
        return {"text": self.text, "blanks": blanks}

    def _name(self, token: int) -> str:
        return self.tokenizer.token_bytes(token).decode(errors="backslashreplace")


def write_filled(
    model: GPT, tokenizer: Tokenizer, prompt: str, settings: SampleSettings, dtype: torch.dtype
) -> None:
    """Fill the blanks of a prompt, or write max_new_tokens after one that has none, in num_samples
    ways as one batch. In a terminal the first is redrawn after each step.

    `dtype` is the precision of matrix products. Raises UserError for a prompt that has characters
    that the model does not know, or that is longer than the model reads.
    """
    if dtype == torch.int8:
        raise UserError(
            "dtype=int8 is for a decoder, whose steps read one token each: leave it out, or take "
            "--dtype=bfloat16"
        )
    given, skipped = encode_blanks(tokenizer, prompt, settings.blank, settings.unknown)
    say_left_out(skipped)
    ids = to_fill(model, tokenizer, given, settings.max_new_tokens)
    block_size = model.config.block_size
    if len(ids) > block_size:
        say_once(
            f"longer than block_size={block_size}: written window after window, each after the "
            f"last {block_size // 2} tokens"
        )
    prompt = show_blanks(tokenizer, given, settings.blank)
    samples = [Filled(tokenizer, ids, settings.blank) for _ in range(settings.num_samples)]
    as_text = settings.output == "text"
    screen = Screen(sys.stdout) if as_text and can_redraw(sys.stdout) else None
    mask = tokenizer.marker_id(MASK)
    if screen:
        screen.show(samples[0].text)
    for step in fill(model, ids, mask, settings, dtype, tokenizer.vocab_size):
        for number, sample in enumerate(samples):
            sample.add(step, number)
        if screen:
            screen.show(samples[0].text)
    for number, sample in enumerate(samples):
        if not as_text:
            show(json.dumps({"sample": number, "prompt": prompt, **sample.to_dict()}) + "\n")
            continue
        if screen and number == 0:
            screen.finish(sample.text)
        else:
            show(sample.text + "\n")
        if settings.num_samples > 1:
            show(SEPARATOR + "\n")
