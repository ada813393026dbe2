"""Samplers: from the logits of the next token to a choice.

Each step works on what the one before left: repetition penalty, temperature, top-k, top-p, min-p.
"""

import torch
from torch import Tensor

from kqv.errors import UserError
from kqv.options.settings import SampleSettings


def check_finite(logits: Tensor) -> None:
    """Refuse logits from which nothing can be drawn. Raises UserError."""
    if not logits.isfinite().all():
        raise UserError(
            "the model's logits are not finite: its weights are damaged, or too large for "
            "this --dtype"
        )


def choose(logits: Tensor, settings: SampleSettings, draws: Tensor, seen: Tensor) -> Tensor:
    """The next token of each text, int64 (batch,).

    logits (batch, vocab_size); draws (batch,) uniform in [0, 1); seen (batch, vocab_size) bool, the
    tokens that occur in the text so far.
    """
    logits = penalize_repetition(logits.double(), seen, settings.repetition_penalty)
    if settings.temperature == 0:
        return logits.argmax(-1)
    below = logits - logits.amax(-1, keepdim=True)  # no overflow, however small the temperature
    probabilities = torch.softmax(below / settings.temperature, dim=-1)
    probabilities = keep_top_k(probabilities, settings.top_k)
    probabilities = keep_top_p(probabilities, settings.top_p)
    probabilities = keep_min_p(probabilities, settings.min_p)
    return draw(probabilities, draws)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that occurred less likely (Keskar et al. 2019, section 4.1).

    Positive logits are divided by the penalty, negative ones multiplied by it.
    """
    if penalty == 1:
        return logits
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalized, logits)


def keep_top_k(probabilities: Tensor, top_k: int) -> Tensor:
    """Zero all but the top_k largest; ties with the smallest of them stay. 0 keeps all."""
    if not 0 < top_k < probabilities.shape[-1]:
        return probabilities
    least = probabilities.topk(top_k).values[:, -1:]
    return probabilities * (probabilities >= least)


def keep_top_p(probabilities: Tensor, top_p: float) -> Tensor:
    """Nucleus sampling (Holtzman et al. 2020): keep the smallest set of the likeliest tokens whose
    probabilities sum to at least top_p."""
    if top_p >= 1:
        return probabilities
    normalized = probabilities / probabilities.sum(-1, keepdim=True)
    ordered, order = normalized.sort(descending=True)
    beyond = ordered.cumsum(-1) - ordered >= top_p
    return probabilities.masked_fill(beyond.gather(-1, order.argsort()), 0)


def keep_min_p(probabilities: Tensor, min_p: float) -> Tensor:
    """Zero what is below min_p times the largest probability."""
    if min_p <= 0:
        return probabilities
    return probabilities * (probabilities >= min_p * probabilities.amax(-1, keepdim=True))


def draw(probabilities: Tensor, draws: Tensor) -> Tensor:
    """Sample by the inverse of the cumulative distribution; probabilities need not sum to 1.

    One uniform number per text decides, so that a text depends on its own random stream only.
    """
    cumulative = probabilities.cumsum(-1)
    return torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]
