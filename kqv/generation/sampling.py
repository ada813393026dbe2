"""The sampling loop: token after token from a model."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from kqv.generation.checks import checked_decoder
from kqv.generation.samplers import check_finite, choose
from kqv.options.settings import SampleSettings
from kqv.text.tokenizer import Tokenizer
from model import GPT


@torch.inference_mode()
def generate(
    model: GPT,
    prompt: Sequence[int],
    settings: SampleSettings,
    dtype: torch.dtype = torch.float32,
    vocab_size: int | None = None,
) -> Iterator[tuple[list[int], list[float]]]:
    """Continue a prompt of at least one token in settings.num_samples ways at once.

    Yields, max_new_tokens times, the next token of each text and its log-probability (in nats,
    under the model itself: before temperature and the other samplers). Text k draws from the random
    stream (seed, k), so it is the same alone or among others. `dtype` is the precision of matrix
    products. `vocab_size` is the tokenizer's: ids beyond it, which only pad the model's, are never
    drawn. Raises UserError if the logits are not finite.
    """
    device = next(model.parameters()).device
    streams = [random_stream(settings.seed, k) for k in range(settings.num_samples)]
    ids = torch.tensor([list(prompt)] * settings.num_samples, device=device)
    seen = torch.zeros(len(ids), vocab_size or model.config.vocab_size, dtype=torch.bool)
    seen.scatter_(1, ids.cpu(), True)
    decoder = checked_decoder(model, dtype, slide=settings.past_block == "slide")
    for _ in range(settings.max_new_tokens):
        # A choice among a few numbers is no work for a GPU.
        logits = decoder.next_logits(ids).cpu()[:, :vocab_size]
        check_finite(logits)
        draws = torch.tensor([stream.random() for stream in streams], dtype=torch.float64)
        token = choose(logits, settings, draws, seen)[:, None]
        if settings.repetition_penalty != 1:
            seen.scatter_(1, token, True)
        ids = torch.cat((ids, token.to(device)), dim=1)
        ids = ids[:, -model.config.block_size :]  # the decoder never looks further back
        log_probabilities = torch.log_softmax(logits, dim=-1).gather(1, token)
        yield token[:, 0].tolist(), log_probabilities[:, 0].tolist()


def random_stream(seed: int, text: int) -> np.random.Generator:
    """The random numbers of one text: independent of those of the other texts of this seed."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, text], dtype=np.uint64)))


def generate_text(model: GPT, tokenizer: Tokenizer, prompt: str, settings: SampleSettings) -> str:
    """The text that one sample adds to the prompt."""
    continued = generate(model, tokenizer.encode(prompt), settings, vocab_size=tokenizer.vocab_size)
    return tokenizer.decode(tokens[0] for tokens, _ in continued)
