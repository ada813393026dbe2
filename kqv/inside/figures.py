"""What a head does, in numbers: how widely it looks, how its scores spread, what it attends to.

`head_figures` describes every head for explain.py. `layer_figures` averages the score statistics
over the heads of a layer, for the metrics of a training run with --inner_figures=True.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kqv.inside.trace import LayerTrace, Trace, record
from model import GPT

SATURATED = 0.9  # a row with more weight than this on one character is saturated
FIGURE_CONTEXT = 256  # tokens at most, of the texts that show what a head does


@dataclass
class HeadFigures:
    """One head in numbers. MEANINGS says what each of them is."""

    layer: int
    head: int
    entropy: float
    distance: float
    saturated: float
    raw_variance: float
    scaled_variance: float
    previous: float
    line_start: float
    induction: float


MEANINGS = {
    "entropy": "entropy of the attention weights in nats, mean over the rows: 0 if each looks at "
    "one character, log(n) if it looks at n evenly",
    "distance": "how many characters back it looks, mean by weight",
    "saturated": f"share of the rows with weight over {SATURATED} on one character, of rows that "
    "may look at more than one",
    "raw_variance": "variance of the scores before scaling: about d_k if queries and keys are "
    "random numbers of variance 1",
    "scaled_variance": "variance of the scores after scaling: about 1 if the scale is 1/√d_k",
    "previous": "mean weight on the previous character, in a text that the model generated",
    "line_start": "mean weight on the start of the line (the newline before it, or its first "
    "character), in the same generated text",
    "induction": "mean weight on the character that followed the last occurrence of the current "
    "one, in a random text that is repeated (Olsson et al. 2022)",
}


def head_figures(
    model: GPT, trace: Trace, generated: Trace, newlines: Container[int]
) -> list[HeadFigures]:
    """The figures of every head, in order.

    `trace` is of the text that is explained, `generated` of one that the model generated.
    `newlines` has the ids of tokens that end a line.
    """
    position = torch.arange(len(trace.ids))
    starts = line_starts(generated.ids, newlines)
    has_start = starts.any(dim=1)
    inductions = induction_scores(model)
    figures = []
    for number, layer in enumerate(trace.layers):
        for head, weights in enumerate(layer.weights):
            generated_weights = generated.layers[number].weights[head]
            on_start = (generated_weights * starts).sum(dim=1)[has_start]
            figures.append(
                HeadFigures(
                    layer=number,
                    head=head,
                    distance=float((weights * (position[:, None] - position)).sum(dim=1).mean()),
                    **score_figures(layer, head),
                    previous=_mean(generated_weights.diagonal(-1)),
                    line_start=_mean(on_start),
                    induction=inductions[number][head],
                )
            )
    return figures


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


def layer_figures(model: GPT, texts: Tensor) -> dict[str, list[float]]:
    """The score figures of each layer, averaged over its heads and over texts (count, time)."""
    traces = [record(model, ids) for ids in texts.tolist()]
    figures: dict[str, list[float]] = {}
    for number in range(model.config.n_layer):
        heads = [
            score_figures(trace.layers[number], head)
            for trace in traces
            for head in range(model.config.n_head)
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
