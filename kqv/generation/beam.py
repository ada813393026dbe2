"""Beam search: the likeliest targets of a source, by keeping the k best beginnings at each step.

    "" ──▶ k ──▶ k ɝ      each step extends the k open beginnings by one token; of all these
           k      k ʌ     extensions the best k stay open, and those among the best k that end
                          (U+0003) are finished

A target scores its log-probability divided by length^length_penalty, its end included: 0 is the
plain log-probability, which favours short ones, 1 the mean of a token. This is the penalty of
transformers, and close to Wu et al. 2016, eq. 14, which divides by ((5 + length) / 6)^α.

A source is done when k targets are finished and no open beginning, scored at its own length, beats
the worst of them. With length_penalty 0 nothing better can follow then, since a target's
log-probability only falls; otherwise this is the usual heuristic (transformers'
`early_stopping=False`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kqv.generation.decoder import Decoder
from kqv.generation.targets import Ends, Target, usable_logits


class Candidates(NamedTuple):
    """The best extensions of the open beginnings of each source, (sources, 2 k), best first."""

    scores: Tensor
    """log-probability of the whole beginning; -∞ if there are fewer"""
    parents: Tensor
    """which of the k beginnings it extends, int64"""
    tokens: Tensor
    """by which token, int64"""


@torch.inference_mode()
def beam_search(
    decoder: Decoder, source: Tensor, ends: Ends, k: int, limit: int, length_penalty: float
) -> list[list[Target]]:
    """The best k targets of each source (sources, source_time), padded with PADDING; best first.

    `limit` is the longest that a target may be, in tokens, its end included. Raises UserError if
    the model's logits are not finite.
    """
    found: list[list[tuple[float, Target]]] = [[] for _ in source]  # with its score
    beams = Beams(decoder, source, ends, k)
    for length in range(1, limit + 1):
        best = beams.extensions()
        ending = best.tokens == ends.end
        finished = best.scores.isfinite() & (ending if length < limit else True)
        scores = best.scores / length**length_penalty
        for row, column in finished[:, :k].nonzero().tolist():
            number, target = beams.sources[row], beams.target(best, row, column)
            found[number].append((float(scores[row, column]), target))
            found[number] = sorted(found[number], key=lambda pair: -pair[0])[:k]
        if length == limit:
            break
        beams.extend(best, ending)
        worst = [found[n][-1][0] if len(found[n]) == k else -torch.inf for n in beams.sources]
        reachable = beams.scores[:, 0].cpu() / length**length_penalty
        undone = (reachable > torch.tensor(worst)).nonzero()[:, 0]
        if not len(undone):
            break
        beams.go_on_with(undone)
    return [[target for _, target in each] for each in found]


class Beams:
    """The k open beginnings of each source, best first, and the decoder that has read them."""

    def __init__(self, decoder: Decoder, source: Tensor, ends: Ends, k: int) -> None:
        """Encode the sources (sources, source_time); each has one open beginning, U+0002."""
        decoder.read(source)
        self.decoder, self.ends, self.k = decoder, ends, k
        self.sources = list(range(len(source)))  # numbers of those that are not done
        begin = torch.full((len(source), 1), ends.begin, device=source.device)
        self.logits = decoder.next_logits(begin).repeat_interleave(k, dim=0)
        self.rows = torch.arange(len(source), device=source.device).repeat_interleave(k)
        decoder.select(self.rows)
        self.ids = begin.repeat_interleave(k, dim=0).view(-1, k, 1)  # (sources, k, time)
        self.scores = torch.full((len(source), k), -torch.inf, device=source.device)
        self.scores[:, 0] = 0
        self.history = self.scores.new_zeros(len(source), k, 1)  # log-probability up to each of ids
        self.fresh = True

    def extensions(self) -> Candidates:
        """The best 2 k: each of the k beginnings may end, and k more must stay open."""
        if not self.fresh:
            self.logits = self.decoder.next_logits(self.ids.flatten(0, 1))
        self.fresh = False
        logits, normalizer = usable_logits(self.logits, self.ends)
        best, tokens = logits.topk(min(2 * self.k, logits.shape[1]))
        scores = (self.scores.view(-1, 1) + best - normalizer).view(len(self.sources), -1)
        top, place = scores.topk(min(2 * self.k, scores.shape[1]))
        tokens = tokens.view(scores.shape).gather(1, place)
        return Candidates(top, place // best.shape[1], tokens)

    def target(self, best: Candidates, row: int, column: int) -> Target:
        """One of the extensions as a target."""
        parent, token = int(best.parents[row, column]), int(best.tokens[row, column])
        ids = [*self.ids[row, parent, 1:].tolist(), token]
        totals = torch.cat((self.history[row, parent], best.scores[row, column : column + 1]))
        return Target(ids, totals.diff().tolist(), token == self.ends.end)

    def extend(self, best: Candidates, ending: Tensor) -> None:
        """Go on with the best k that do not end."""
        open_first = ending.to(torch.int8).argsort(dim=1, stable=True)[:, : self.k]
        self.scores, parents, tokens = (each.gather(1, open_first) for each in best)
        across = parents[:, :, None]
        self.ids = torch.cat(
            (self.ids.gather(1, across.expand(*across.shape[:2], self.ids.shape[2])),
             tokens[:, :, None]), dim=2,
        )  # fmt: skip
        self.history = torch.cat(
            (self.history.gather(1, across.expand(*across.shape[:2], self.history.shape[2])),
             self.scores[:, :, None]), dim=2,
        )  # fmt: skip
        self.rows = parents + self.k * torch.arange(len(parents), device=parents.device)[:, None]

    def go_on_with(self, undone: Tensor) -> None:
        """Drop the sources but these, int64 (left,), and give each beginning the keys and values of
        its parent."""
        sources = None
        if len(undone) < len(self.sources):
            sources = undone.to(self.rows.device)
            self.rows, self.ids, self.scores, self.history = (
                each[sources] for each in (self.rows, self.ids, self.scores, self.history)
            )
            self.sources = [self.sources[row] for row in undone.tolist()]
        self.decoder.select(self.rows.flatten(), sources)
