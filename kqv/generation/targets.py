"""Targets of an encoder-decoder, drawn token after token; beam.py searches for the likeliest.

U+0002 ──▶ k ──▶ ɝ ──▶ ... ──▶ U+0003
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kqv.generation.decoder import Decoder
from kqv.generation.samplers import check_finite, choose
from kqv.options.settings import SampleSettings
from kqv.text.tokenizer import DOCUMENT_END, TARGET_BEGIN, Tokenizer


class Ends(NamedTuple):
    """What writing must know of the target's vocabulary."""

    begin: int
    """id of U+0002, which begins a target and never occurs in it"""
    end: int
    """id of U+0003, which ends it"""
    vocab_size: int
    """ids from here on only pad the model's, and are never drawn"""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Ends":
        """Those of the targets' tokenizer. Raises UserError if it lacks a marker."""
        begin, end = (tokenizer.marker_id(marker) for marker in (TARGET_BEGIN, DOCUMENT_END))
        return cls(begin, end, tokenizer.vocab_size)


@dataclass
class Target:
    """A target as it is written."""

    ids: list[int]
    """its tokens; the last is U+0003 if it is finished"""
    log_probabilities: list[float]
    """of each of them, in nats, under the model itself"""
    finished: bool = False
    """whether it ends, rather than being as long as allowed"""

    @property
    def written(self) -> list[int]:
        """Its tokens without U+0003."""
        return self.ids[:-1] if self.finished else self.ids

    def score(self, length_penalty: float) -> float:
        """Log-probability / length^length_penalty, where its end counts."""
        return sum(self.log_probabilities) / max(1, len(self.ids)) ** length_penalty


def usable_logits(logits: Tensor, ends: Ends) -> tuple[Tensor, Tensor]:
    """Logits (batch, vocab_size) of what may come next, and what they are normalized by (batch, 1):
    the logarithm of the sum of exponentials.

    Raises UserError if they are not finite.
    """
    logits = logits[:, : ends.vocab_size]
    normalizer = logits.logsumexp(-1, keepdim=True)
    check_finite(normalizer)
    logits[:, ends.begin] = -torch.inf
    return logits, normalizer


@torch.inference_mode()
def sample_targets(
    decoder: Decoder,
    source: Tensor,
    ends: Ends,
    settings: SampleSettings,
    streams: Sequence[np.random.Generator],
    limit: int,
) -> Iterator[list[Target]]:
    """Draw targets of at most `limit` tokens, one for each random stream: equally many of each
    source (sources, source_time), padded with PADDING.

    Yields all targets, as far as they are written, after each token. Raises UserError if the logits
    are not finite.
    """
    targets = [Target([], []) for _ in streams]
    each = len(streams) // len(source)  # targets of a source
    decoder.read(source)
    ids = torch.full((len(source), 1), ends.begin, device=source.device)
    logits = decoder.next_logits(ids)
    rows = torch.arange(len(source), device=source.device).repeat_interleave(each)
    decoder.select(rows)
    ids, logits = ids[rows], logits[rows]
    numbers = list(range(len(streams)))  # of the targets that are being written
    seen = torch.zeros(len(numbers), ends.vocab_size, dtype=torch.bool)
    while True:
        # A choice among a few numbers is no work for a GPU.
        logits, normalizer = usable_logits(logits.cpu(), ends)
        draws = torch.tensor([streams[n].random() for n in numbers], dtype=torch.float64)
        tokens = choose(logits, settings, draws, seen)[:, None]
        _append(targets, numbers, tokens, logits.gather(1, tokens) - normalizer, ends)
        yield targets
        if ids.shape[1] == limit:
            return
        seen.scatter_(1, tokens, True)
        ids = torch.cat((ids, tokens.to(ids.device)), dim=1)
        open_ones = torch.tensor([not targets[n].finished for n in numbers]).view(-1, each)
        undone = open_ones.any(1).nonzero()[:, 0]
        if not len(undone):
            return
        if len(undone) < len(open_ones):
            rows = (undone[:, None] * each + torch.arange(each)).flatten()
            numbers, seen = [numbers[row] for row in rows.tolist()], seen[rows]
            ids = ids[rows.to(ids.device)]
            decoder.select(rows.to(ids.device), undone.to(ids.device))
        logits = decoder.next_logits(ids)


def _append(
    targets: list[Target], numbers: list[int], tokens: Tensor, logs: Tensor, ends: Ends
) -> None:
    """Append a token (batch, 1), and its log-probability, to each target that has not ended."""
    for number, token, log_probability in zip(
        numbers, tokens[:, 0].tolist(), logs[:, 0].tolist(), strict=True
    ):
        target = targets[number]
        if not target.finished:
            target.ids.append(token)
            target.log_probabilities.append(log_probability)
            target.finished = token == ends.end
