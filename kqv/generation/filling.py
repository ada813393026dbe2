"""Text out of an encoder: it fills in blanks, over several steps.

A step runs the encoder on the whole text and draws a token for some of the blanks, each from the
distribution at its place. The next step reads these, too:

    t_ c_t ─▶ t_ cat ─▶ to cat

Which blanks come next: in random order, this samples from the model. After masked training with
rates from 0 to 1 an encoder is a model of texts in any order, and a step per blank draws exactly
from it; fewer steps draw several tokens that do not see each other (Sahoo et al. 2024,
arXiv 2406.07524; Nie et al. 2025, arXiv 2502.09992). At temperature 0, where nothing is left to
chance, the blanks come first of which the model is surest (MaskGIT: Chang et al. 2022).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kqv.errors import UserError
from kqv.generation.checks import attend_as_written
from kqv.generation.samplers import check_finite, choose
from kqv.generation.sampling import random_stream
from kqv.options.settings import SampleSettings
from kqv.text.tokenizer import MASK, Tokenizer
from model import GPT

LIKELIEST = 5  # tokens of each blank whose probabilities are reported
BLANKS = "_#%▢"  # characters to suggest for --blank=


class Step(NamedTuple):
    """The tokens that a step wrote, `count` in each text: tensors (batch, count) on the CPU."""

    places: Tensor
    """positions in the text, int64"""
    tokens: Tensor
    log_probabilities: Tensor
    """in nats, under the model itself: before temperature and the other samplers"""
    likeliest: Tensor
    """(batch, count, at most LIKELIEST): tokens, int64"""
    chances: Tensor
    """the probabilities of these"""


@torch.inference_mode()
def fill(
    model: GPT,
    ids: Sequence[int],
    mask: int,
    settings: SampleSettings,
    dtype: torch.dtype = torch.float32,
    vocab_size: int | None = None,
) -> Iterator[Step]:
    """Fill the blanks of a text, which are the token `mask`, in settings.num_samples ways at once.

    Yields what each step writes. A window of at most block_size tokens is filled in denoise_steps
    steps, 0 for one per blank. In a text longer than block_size all blanks are at the end: window
    after window is filled, each after the half block before it.

    Text k draws from the random stream (seed, k), so it is the same alone or among others. The mask
    is never drawn, nor are ids beyond `vocab_size`, the tokenizer's, which only pad the model's.
    Raises UserError if the logits are not finite.
    """
    attend_as_written(model)
    device = next(model.parameters()).device
    block_size = model.config.block_size
    streams = [random_stream(settings.seed, k) for k in range(settings.num_samples)]
    texts = torch.tensor([list(ids)] * settings.num_samples)
    while len(blanks := (texts[0] == mask).nonzero()[:, 0]):
        start = max(0, min(int(blanks[0]) - block_size // 2, len(ids) - block_size))
        blanks = blanks[blanks < start + block_size] - start
        window = texts[:, start : start + block_size]
        if settings.temperature == 0:
            left = blanks.expand(len(texts), -1)
        else:
            left = torch.stack([blanks[stream.permutation(len(blanks))] for stream in streams])
        for count in evenly(len(blanks), settings.denoise_steps):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                logits = model(window.to(device)).float().cpu()[..., :vocab_size]
            check_finite(logits)
            logits[..., mask] = -torch.inf
            if settings.temperature == 0:
                left = left.gather(1, surest_first(at(logits, left)))
            draws = torch.from_numpy(np.stack([stream.random(count) for stream in streams]))
            step = settle(at(logits, left[:, :count]), left[:, :count], draws, settings)
            window.scatter_(1, step.places, step.tokens)
            left = left[:, count:]
            yield step._replace(places=start + step.places)


def settle(logits: Tensor, places: Tensor, draws: Tensor, settings: SampleSettings) -> Step:
    """Draw a token for each place: logits (batch, count, vocab_size), the others (batch, count)."""
    unseen = torch.zeros_like(logits.flatten(0, 1), dtype=torch.bool)
    tokens = choose(logits.flatten(0, 1), settings, draws.flatten(), unseen).view(places.shape)
    log_probabilities = torch.log_softmax(logits, dim=-1)
    chances, likeliest = log_probabilities.exp().topk(min(LIKELIEST, logits.shape[-1] - 1))
    chosen = log_probabilities.gather(2, tokens[..., None])[..., 0]
    return Step(places, tokens, chosen, likeliest, chances)


def at(logits: Tensor, places: Tensor) -> Tensor:
    """The rows of logits (batch, time, vocab_size) at places (batch, count)."""
    return logits.gather(1, places[..., None].expand(-1, -1, logits.shape[-1]))


def surest_first(logits: Tensor) -> Tensor:
    """The order of places by the probability of their likeliest token, (batch, count) int64."""
    return logits.log_softmax(-1).amax(-1).argsort(dim=1, descending=True, stable=True)


def evenly(blanks: int, steps: int) -> list[int]:
    """How many blanks to fill in each of `steps` steps; 0 for one blank a step.

    >>> evenly(7, 3), evenly(2, 0), evenly(2, 5)
    ([2, 2, 3], [1, 1], [1, 1])
    """
    steps = min(steps or blanks, blanks)
    return [blanks * (i + 1) // steps - blanks * i // steps for i in range(steps)]


def mask_blanks(tokenizer: Tokenizer, text: str, blank: str) -> str:
    """The text with U+001A, the mask, for each character `blank`.

    Raises UserError for a blank that is also a character of the model's alphabet. In a vocabulary
    of bytes, which knows every character, a blank is a blank.
    """
    if blank in text and tokenizer.kind == "char" and tokenizer.knows(blank):
        other = next((each for each in BLANKS if not tokenizer.knows(each)), "▢")
        raise UserError(
            f"the model knows the character {blank!r}, which cannot stand for a blank: "
            f"take another, such as --blank={other}"
        )
    return text.replace(blank, MASK)


def encode_masked(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text in which U+001A is the mask. Raises UserError for unknown characters."""
    mask = tokenizer.marker_id(MASK)
    tokenizer.encode(text)  # names the position of an unknown character in the whole text
    # Not all in one: byte pairs must not join a mask with its neighbours.
    ids: list[int] = []
    for number, piece in enumerate(text.split(MASK)):
        ids += [mask] * (number > 0) + tokenizer.encode_prompt(piece)
    return ids


def encode_blanks(
    tokenizer: Tokenizer, text: str, blank: str, unknown: str = "error"
) -> tuple[list[int], Sequence[str]]:
    """The ids of a text in which `blank` stands for the mask, and the unknown characters that were
    left out because of unknown="skip". Raises UserError as `mask_blanks` and `encode_masked` do."""
    text, skipped = mask_blanks(tokenizer, text, blank), ""
    if unknown == "skip":
        skipped = "".join(tokenizer.encode_known(text)[1])
        text = "".join(character for character in text if character not in skipped)
    return encode_masked(tokenizer, text), skipped


def to_fill(
    model: GPT, tokenizer: Tokenizer, ids: Sequence[int], max_new_tokens: int
) -> Sequence[int]:
    """The ids to fill: a text as it is if it has blanks, else with max_new_tokens of them behind.

    Raises UserError for blanks in a text that is longer than block_size.
    """
    mask, block_size = tokenizer.marker_id(MASK), model.config.block_size
    if mask not in ids:
        return [*ids, *[mask] * max_new_tokens]
    if len(ids) > block_size:
        unit = "characters" if tokenizer.kind == "char" else "tokens"
        raise UserError(
            f"the text with blanks has {len(ids)} {unit}, and the model reads block_size="
            f"{block_size} at once: shorten it around its blanks"
        )
    return ids


def show_blanks(tokenizer: Tokenizer, ids: Sequence[int], blank: str) -> str:
    """The text of ids, with `blank` for each mask."""
    return tokenizer.decode(ids).replace(MASK, blank)


def fill_text(model: GPT, tokenizer: Tokenizer, text: str, settings: SampleSettings) -> str:
    """One sample: a text with its blanks filled, or continued by max_new_tokens tokens."""
    ids, _ = encode_blanks(tokenizer, text, settings.blank)
    return fill_ids(
        model, tokenizer, to_fill(model, tokenizer, ids, settings.max_new_tokens), settings
    )


def fill_ids(model: GPT, tokenizer: Tokenizer, ids: Sequence[int], settings: SampleSettings) -> str:
    """One sample: the text of ids with its masks filled."""
    filled, mask = [*ids], tokenizer.marker_id(MASK)
    for step in fill(model, filled, mask, settings, vocab_size=tokenizer.vocab_size):
        for place, token in zip(step.places[0].tolist(), step.tokens[0].tolist(), strict=True):
            filled[place] = token
    return tokenizer.decode(filled)
