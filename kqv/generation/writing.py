"""Write the samples of one prompt to standard output."""

import json
import sys
from collections.abc import Sequence

import torch

from kqv.errors import UserError
from kqv.generation.continuation import Continuation
from kqv.generation.sampling import generate
from kqv.options.settings import SampleSettings
from kqv.text.tokenizer import Tokenizer
from model import GPT

SEPARATOR = "---------------"  # between samples, as nanoGPT has it


def write_samples(
    model: GPT, tokenizer: Tokenizer, prompt: str, settings: SampleSettings, dtype: torch.dtype
) -> None:
    """Generate num_samples continuations of a prompt as one batch: show the first while it is
    generated, the others when all are done, or every one as a JSON object.

    `dtype` is the precision of the large matrices. Raises UserError for a prompt that is empty or
    has characters that the model does not know.
    """
    ids, prompt = _encode(tokenizer, prompt, settings)
    streaming = settings.output == "text"
    samples = [Continuation(tokenizer, settings.stop) for _ in range(settings.num_samples)]
    if streaming:
        show(prompt)
    for tokens, log_probabilities in generate(model, ids, settings, dtype, tokenizer.vocab_size):
        for sample, token, log_probability in zip(samples, tokens, log_probabilities, strict=True):
            fresh = sample.add(token, log_probability)
            if streaming and sample is samples[0]:
                show(fresh)
        if all(sample.stopped for sample in samples):
            break
    for number, sample in enumerate(samples):
        rest = sample.finish()
        if not streaming:
            show(json.dumps({"sample": number, "prompt": prompt, **sample.to_dict()}) + "\n")
            continue
        show((rest if number == 0 else prompt + sample.text) + "\n")
        if settings.num_samples > 1:
            show(SEPARATOR + "\n")


def _encode(tokenizer: Tokenizer, prompt: str, settings: SampleSettings) -> tuple[list[int], str]:
    """The ids of a prompt, and the prompt without the characters that were skipped."""
    if settings.unknown == "skip":
        ids, skipped = tokenizer.encode_known(prompt)
        if say_left_out(skipped):
            prompt = tokenizer.decode(ids)
    else:
        ids = tokenizer.encode_prompt(prompt)
    if not ids:
        raise UserError(
            "the prompt is empty: give at least one character the model knows with --start="
        )
    return ids, prompt


def say_left_out(skipped: Sequence[str]) -> bool:
    """Name the characters that were left out of a prompt, if there are any."""
    if skipped:
        characters = " ".join(map(repr, skipped))
        print(f"left out of the prompt, unknown to the model: {characters}", file=sys.stderr)
    return bool(skipped)


def show(text: str) -> None:
    """Write text to standard output at once, before a line is full."""
    sys.stdout.write(text)
    sys.stdout.flush()
