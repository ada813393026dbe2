"""What a head does, in numbers: how widely it looks, how its scores spread, what it attends to.

`head_figures` describes every head of a decoder for explain.py; `self_figures` and `cross_figures`
those of an encoder-decoder, on the pair that it reads. `layer_figures` averages the score
statistics over the heads of a layer, for the metrics of a training run with --inner_figures=True.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kqv.inside.trace import LayerTrace, Trace, record
from model import GPT

SATURATED = 0.9  # a row with more weight than this on one character is saturated
SMALLEST_SPREAD = 1e-6  # of places, in characters: below it a head looks at one place only
FIGURE_CONTEXT = 256  # tokens at most, of the texts that show what a head does


@dataclass
class HeadFigures:
    """One head in numbers. MEANINGS says what each of them is."""

    layer: int
    head: int
    entropy: float
    saturated: float
    raw_variance: float
    scaled_variance: float


@dataclass
class DecoderFigures(HeadFigures):
    """A head of a decoder, also on texts that show what it is for."""

    distance: float
    previous: float
    line_start: float
    induction: float


@dataclass
class SelfFigures(HeadFigures):
    """A head of self-attention, in the encoder or the decoder of a model that translates."""

    distance: float
    previous: float
    itself: float
    following: float
    first: float


@dataclass
class CrossFigures(HeadFigures):
    """A head of cross-attention: how it aligns the target with the source."""

    diagonal: float
    alignment: float


MEANINGS = {
    "entropy": "entropy of the attention weights in nats, mean over the rows: 0 if each looks at "
    "one character, log(n) if it looks at n evenly",
    "distance": "how many characters away it looks, back or ahead, mean by weight",
    "saturated": f"share of the rows with weight over {SATURATED} on one character, of rows that "
    "may look at more than one",
    "raw_variance": "variance of the scores before scaling: about d_k if queries and keys are "
    "random numbers of variance 1",
    "scaled_variance": "variance of the scores after scaling: about 1 if the scale is 1/√d_k",
    "previous": "mean weight on the previous character; of a decoder alone, in a text that it "
    "generated",
    "line_start": "mean weight on the start of the line (the newline before it, or its first "
    "character), in the same generated text",
    "induction": "mean weight on the character that followed the last occurrence of the current "
    "one, in a random text that is repeated (Olsson et al. 2022)",
    "itself": "mean weight on the character itself",
    "following": "mean weight on the next character",
    "first": "mean weight on the first character",
    "diagonal": "distance from the diagonal, mean by weight: |i/n - j/m| of character i of 0 to n "
    "in the target and j of 0 to m in the source",
    "alignment": "correlation of the places in target and source, by weight: 1 if it reads the "
    "source in step with the target, 0 if in no order, -1 backwards",
}


def head_figures(
    model: GPT, trace: Trace, generated: Trace, newlines: Container[int]
) -> list[DecoderFigures]:
    """The figures of every head of a decoder, in order.

    `trace` is of the text that is explained, `generated` of one that the model generated.
    `newlines` has the ids of tokens that end a line.
    """
    starts = line_starts(generated.ids, newlines)
    has_start = starts.any(dim=1)
    inductions = induction_scores(model)
    figures = []
    for number, layer in enumerate(trace.layers):
        for head, weights in enumerate(layer.weights):
            generated_weights = generated.layers[number].weights[head]
            on_start = (generated_weights * starts).sum(dim=1)[has_start]
            figures.append(
                DecoderFigures(
                    layer=number,
                    head=head,
                    distance=_distance(weights),
                    **score_figures(layer, head),
                    previous=_mean(generated_weights.diagonal(-1)),
                    line_start=_mean(on_start),
                    induction=inductions[number][head],
                )
            )
    return figures


def self_figures(layers: Sequence[LayerTrace]) -> list[SelfFigures]:
    """The figures of every head of self-attention, in order, on the text that is explained."""
    return [
        SelfFigures(
            layer=number,
            head=head,
            distance=_distance(weights),
            **score_figures(layer, head),
            previous=_mean(weights.diagonal(-1)),
            itself=_mean(weights.diagonal()),
            following=_mean(weights.diagonal(1)),
            first=_mean(weights[1:, 0]),
        )
        for number, layer in enumerate(layers)
        for head, weights in enumerate(layer.weights)
    ]


def cross_figures(layers: Sequence[LayerTrace]) -> list[CrossFigures]:
    """The figures of every head of cross-attention, in order."""
    return [
        CrossFigures(
            layer=number,
            head=head,
            **score_figures(layer, head),
            diagonal=float((weights * _from_diagonal(*weights.shape)).sum(dim=1).mean()),
            alignment=alignment(weights),
        )
        for number, layer in enumerate(layers)
        for head, weights in enumerate(layer.weights)
    ]


def alignment(weights: Tensor) -> float:
    """Correlation of row and column over the weights (n, m) of one head, each row of sum 1.

    0 if one of the two does not vary, as where all look at one place.
    """
    rows, columns = (torch.arange(length, dtype=torch.float64) for length in weights.shape)
    share = weights.double() / len(rows)  # a probability of each pair of row and column
    rows = rows - rows.mean()
    columns = columns - (share.sum(dim=0) * columns).sum()
    covariance = (share * rows[:, None] * columns).sum()
    spread = (rows.square().mean() * (share.sum(dim=0) * columns.square()).sum()).sqrt()
    return float(covariance / spread) if spread > SMALLEST_SPREAD else 0.0


def _from_diagonal(rows: int, columns: int) -> Tensor:
    """|i/n - j/m| of each pair, (rows, columns), from 0 at the first of both to 0 at the last."""
    row, column = torch.linspace(0, 1, rows), torch.linspace(0, 1, columns)
    return (row[:, None] - column).abs()


def _distance(weights: Tensor) -> float:
    """How far a head of self-attention looks, mean by weight."""
    position = torch.arange(len(weights))
    return float((weights * (position[:, None] - position).abs()).sum(dim=1).mean())


def score_figures(layer: LayerTrace, head: int) -> dict[str, float]:
    """How widely the scores of one head spread, and how sharp softmax is on them."""
    weights = layer.weights[head]
    has_choice = layer.allowed.sum(dim=1) > 1
    return {
        "raw_variance": _variance(layer.raw[head][layer.allowed]),
        "scaled_variance": _variance(layer.scaled[head][layer.allowed]),
        "entropy": float(torch.special.entr(weights).sum(dim=1).mean()),
        "saturated": _mean((weights.amax(dim=1)[has_choice] > SATURATED).float()),
    }


def layer_figures(traces: Sequence[Trace]) -> dict[str, list[float]]:
    """The score figures of each layer, averaged over its heads and over the traces; of an
    encoder-decoder, those of cross-attention."""
    figures: dict[str, list[float]] = {}
    for one_layer in zip(*(trace.cross or trace.layers for trace in traces), strict=True):
        heads = [
            score_figures(layer, head) for layer in one_layer for head in range(len(layer.weights))
        ]
        for name in heads[0]:
            mean = sum(figure[name] for figure in heads) / len(heads)
            figures.setdefault(name, []).append(mean)
    return figures


def line_starts(ids: Sequence[int], newlines: Container[int]) -> Tensor:
    """For each token, where its line starts: (time, time) bool.

    True at the line's first token and at the newline before it. A row is all False in the first
    line, and on the first token of a line, whose line start is also the previous character.
    """
    marks = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    newline: int | None = None  # position of the latest one
    for position, token in enumerate(ids):
        if newline is not None and position > newline + 1:
            marks[position, newline : newline + 2] = True
        if token in newlines:
            newline = position
    return marks


@torch.no_grad()
def induction_scores(model: GPT) -> list[list[float]]:
    """For each layer and head the `repetition_weight` on a random text that is repeated once.

    0 where the context is too short to repeat anything.
    """
    config = model.config
    half = min(config.block_size, FIGURE_CONTEXT) // 2
    if half < 2:
        return [[0.0] * config.n_head for _ in range(config.n_layer)]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (half,), generator=generator).tolist()
    return [repetition_weight(layer.weights).tolist() for layer in record(model, ids + ids).layers]


def repetition_weight(weights: Tensor) -> Tensor:
    """Mean weight of each head on what followed the same token in the first half, (heads,).

    weights (heads, 2 n, 2 n) are of a text of n tokens that is repeated once: the token at n + i
    stood at i before, and the one at i + 1 followed.
    """
    half = weights.shape[-1] // 2
    return weights[:, half:].diagonal(1, 1, 2).mean(dim=1)


def _mean(values: Tensor) -> float:
    return float(values.mean()) if values.numel() else 0.0


def _variance(values: Tensor) -> float:
    return float(values.var(correction=0)) if values.numel() else 0.0
