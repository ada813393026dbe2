"""Targets of many sources, out of an encoder-decoder: greedy, sampled, or by beam search.

    sources ──▶ pools, each sorted by length ──▶ batches ──▶ targets, in the order of the sources

Sources of similar length are translated together, so that there is little padding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kqv.errors import UserError
from kqv.generation.beam import beam_search
from kqv.generation.checks import checked_decoder
from kqv.generation.sampling import random_stream
from kqv.generation.targets import Ends, Target, sample_targets
from kqv.options.settings import SampleSettings
from kqv.progress import LongBar
from kqv.text.tokenizer import Tokenizer
from model import GPT, PADDING

BATCH_TARGETS = 512  # written at once, beams and samples counted
POOL = 2048  # sources that are sorted together, and whose targets come out together


@dataclass(frozen=True)
class Hypothesis:
    """A target of a source, as text."""

    text: str
    score: float
    """log-probability / length^length_penalty, in nats; the end (U+0003) counts"""
    finished: bool
    """whether it ends, rather than being as long as allowed"""
    tokens: list[str]
    """its tokens as text; the last is U+0003 if it is finished"""
    log_probabilities: list[float]
    """of the tokens, in nats, under the model itself"""


def check_source(ids: Sequence[int], block_size: int) -> None:
    """Raises UserError if a source has no ids, or too many."""
    if not ids:
        raise UserError("the source is empty: give at least one character")
    if len(ids) > block_size:
        raise UserError(
            f"the source has {len(ids):,} tokens, and the model reads at most "
            f"block_size={block_size}: translate it in parts"
        )


class Translator:
    """An encoder-decoder, and how to translate with it."""

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, settings: SampleSettings, dtype: torch.dtype
    ) -> None:
        """`tokenizer` is that of the targets. With beam_size=1 they are drawn, at temperature 0
        greedily."""
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.decoder = checked_decoder(model, dtype, slide=False)
        self.limit = min(settings.max_new_tokens, model.config.block_size)
        self.ends = Ends.of(tokenizer)

    def translate(self, sources: Sequence[Sequence[int]]) -> Iterator[list[Hypothesis]]:
        """The targets of each source, in order. A source has 1 to block_size ids."""
        each = max(self.settings.num_samples, self.settings.beam_size)
        batch = max(1, BATCH_TARGETS // each)
        bar, done = LongBar("translating", len(sources), "sources"), 0
        for first in range(0, len(sources), POOL):
            pool = range(first, min(first + POOL, len(sources)))
            by_length = sorted(pool, key=lambda number: len(sources[number]))
            found: dict[int, list[Target]] = {}
            for start in range(0, len(by_length), batch):
                numbers = by_length[start : start + batch]
                source = self.padded([sources[number] for number in numbers])
                found.update(zip(numbers, self.translate_batch(source, numbers), strict=True))
                bar.move(done := done + len(numbers))
            for number in pool:
                yield [self.hypothesis(target) for target in found[number]]
        bar.close()

    def show(self, source_tokenizer: Tokenizer, sources: Sequence[Sequence[int]]) -> str:
        """Each source and its best target, for people, a pair a line."""
        return "\n".join(
            f"{source_tokenizer.decode(source)} ─▶ {found[0].text}"
            for source, found in zip(sources, self.translate(sources), strict=True)
        )

    def translate_batch(self, source: Tensor, numbers: Sequence[int]) -> list[list[Target]]:
        """The targets of each source (sources, source_time), of which these are the numbers."""
        settings, each = self.settings, self.settings.num_samples
        if settings.beam_size > 1:
            k, penalty = settings.beam_size, settings.length_penalty
            found = beam_search(self.decoder, source, self.ends, k, self.limit, penalty)
            return [targets[:each] for targets in found]
        *_, targets = self.sample(source, numbers)
        return [targets[first : first + each] for first in range(0, len(targets), each)]

    def sample(self, source: Tensor, numbers: Sequence[int] = (0,)) -> Iterator[list[Target]]:
        """Draw num_samples targets of each source: yields all of them after each token.

        Sample k of source n draws from the random stream (seed, n · num_samples + k), so it is the
        same alone or among others.
        """
        settings, each = self.settings, self.settings.num_samples
        streams = [random_stream(settings.seed, n * each + k) for n in numbers for k in range(each)]
        return sample_targets(self.decoder, source, self.ends, settings, streams, self.limit)

    def padded(self, sources: Sequence[Sequence[int]]) -> Tensor:
        """Sources as one tensor (sources, source_time), int64, padded with PADDING."""
        longest = max(map(len, sources))
        rows = [[*ids, *[PADDING] * (longest - len(ids))] for ids in sources]
        return torch.tensor(rows, device=self.model.embedding.weight.device)

    def hypothesis(self, target: Target) -> Hypothesis:
        """A target as text."""
        return Hypothesis(
            text=self.tokenizer.decode(target.written),
            score=target.score(self.settings.length_penalty),
            finished=target.finished,
            tokens=[self.tokenizer.token_bytes(i).decode(errors="replace") for i in target.ids],
            log_probabilities=target.log_probabilities,
        )
