"""What happens inside a model as it reads a text: every stage of attention, and what it would say after each layer.

    raw = query @ keyᵀ ─▶ scaled = raw · scale ─▶ weights = softmax(scaled + mask) ─▶ output = weights @ value

The model itself computes queries, keys and values and shows them to a `LayerView` a layer; the stages after them are
computed here with the pieces of model.py, and agree with the fused attention to 1e-5 (tests/test_explaining.py).
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kqv.generation.checks import attend_as_written
from kqv.generation.prompts import default_prompt
from kqv.generation.sampling import generate
from kqv.options.settings import SampleSettings
from kqv.progress import say_once
from kqv.text.tokenizer import Tokenizer
from model import GPT, SCORES, Attention, attend

SATURATED = 0.9  # a row with this much weight on one character has made up its mind
LONG = 256  # characters that tell what a head is for


class LayerView:
    """The stages of one layer's attention over one text, all float32 on the CPU.

    query, key, value, output: (heads, time, d_k). raw, scaled, weights: (heads, time, time), queries by keys; raw and
    scaled have values where the mask forbids too, weights have 0 there. allowed: (time, time) bool.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    raw: Tensor
    scaled: Tensor
    weights: Tensor
    output: Tensor

    def __init__(self, attention: Attention, allowed: Tensor) -> None:
        self.attention, self.allowed = attention, allowed.cpu()

    def see(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Take what the layer computed for one text, and compute the stages that follow.

        The model goes on with the keys and values returned, which are its own.
        """
        self.query, self.key, self.value = (each[0].float().cpu() for each in (query, key, value))
        score, scale = self.attention.config.attention_score, self.attention.scale
        self.raw = SCORES[score](self.query, self.key, 1.0)
        self.scaled = self.raw * scale
        self.output, self.weights = attend(
            self.query, self.key, self.value, self.allowed, scale, score
        )
        return key, value


@dataclass
class Reading:
    """A model's reading of one text."""

    ids: list[int]
    layers: list[LayerView]
    predictions: Tensor
    """(n_layer + 1, time, vocab_size): probabilities of the next token after the embedding and after each block, as the
    final norm and the head read the residual stream there (the "logit lens", nostalgebraist 2020)"""


@torch.no_grad()
def read(model: GPT, ids: Sequence[int], vocab_size: int | None = None) -> Reading:
    """Let a model read a text of 1 to block_size tokens, and keep all that is to be seen. `vocab_size` is the tokenizer's,
    where the model's is padded."""
    time, device = len(ids), model.embedding.weight.device
    attend_as_written(model)
    allowed = model.allowed(time)
    everything = torch.ones(time, time, dtype=torch.bool)
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    layers = [
        LayerView(attention, everything if allowed is None else allowed) for attention in attentions
    ]
    stream: list[Tensor] = []  # the residual stream before the first block and after each
    hooks = [model.blocks[0].register_forward_pre_hook(lambda _, inputs: stream.append(inputs[0]))]
    hooks += [
        block.register_forward_hook(lambda _, __, output: stream.append(output))
        for block in model.blocks
    ]
    outputs: list[
        Tensor
    ] = []  # of attention in each layer, its heads side by side, as the model computed them
    hooks += [
        each.output.register_forward_pre_hook(lambda _, inputs: outputs.append(inputs[0]))
        for each in attentions
    ]
    was_training = model.training
    try:
        said = model.eval()(torch.tensor([list(ids)], device=device), layers)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    logits = torch.stack(
        [model.head(model.norm(x[0])).float().cpu()[:, :vocab_size] for x in stream]
    )
    if any(
        _apart(output[0], layer.output.transpose(0, 1).flatten(1))
        for output, layer in zip(outputs, layers, strict=True)
    ):
        say_once(
            "Attention.forward in model.py computes something else than attend: scores, weights and outputs are shown as "
            "attend has them, queries, keys and values as the model has them"
        )
    if _apart(said[0, :, :vocab_size], logits[-1]):
        say_once(
            "GPT.forward in model.py ends otherwise than by the final norm and the head: predictions are shown as these make them"
        )
    return Reading(list(ids), layers, torch.softmax(logits, dim=-1))


def _apart(computed: Tensor, shown: Tensor) -> bool:
    """Whether what is shown is something else than what the model computed, beyond rounding."""
    rounding = 1e-3 if computed.device.type == "cpu" else 2e-2  # a GPU multiplies in TF32
    return bool((computed.float().cpu() - shown).abs().max() > rounding * shown.abs().max())


@dataclass
class HeadFigures:
    """One head in numbers, over one text."""

    layer: int
    head: int
    entropy: float
    """nats, mean over the characters: 0 for a head that looks at one character, log(time) for one that looks at all"""
    distance: float
    """characters looked back, mean"""
    saturated: float
    """share of the rows, of those with a choice, that have nearly all weight on one character"""
    raw_variance: float
    """variance of the scores before scaling: about d_k, if queries and keys are like random numbers of variance 1"""
    scaled_variance: float
    """the same after scaling: about 1, if the scale is 1/√d_k"""
    previous: float
    """weight on the character before, mean over a text that the model writes itself"""
    line_start: float
    """weight on the beginning of the line, the newline before it or its first character, mean over the same text"""
    induction: float
    """weight on what followed the same character last time, in a random text that is repeated (Olsson et al. 2022)"""


def own_ids(model: GPT, tokenizer: Tokenizer, length: int = LONG) -> list[int]:
    """A text that the model writes itself, always the same: what it knows, lines if it knows lines, no longer than a block."""
    prompt = tokenizer.encode(default_prompt(tokenizer))[-model.config.block_size :]
    settings = SampleSettings(
        max_new_tokens=max(0, min(length, model.config.block_size) - len(prompt))
    )
    return prompt + [
        tokens[0]
        for tokens, _ in generate(model.eval(), prompt, settings, vocab_size=tokenizer.vocab_size)
    ]


def head_figures(
    model: GPT, reading: Reading, own: Reading, newlines: Container[int]
) -> list[HeadFigures]:
    """The figures of every head, in order, over one text and over one of the model's `own`. `newlines` are the ids that end a
    line."""
    place = torch.arange(len(reading.ids))
    starts = line_starts(own.ids, newlines)
    inductions = induction_scores(model)
    figures = []
    for number, layer in enumerate(reading.layers):
        for head, weights in enumerate(layer.weights):
            own_weights = own.layers[number].weights[head]
            at_start = (own_weights * starts).sum(dim=1)[starts.any(dim=1)]
            figures.append(
                HeadFigures(
                    layer=number,
                    head=head,
                    distance=float((weights * (place[:, None] - place)).sum(dim=1).mean()),
                    **score_figures(layer, head),
                    previous=_mean(own_weights.diagonal(-1)),
                    line_start=_mean(at_start),
                    induction=inductions[number][head],
                )
            )
    return figures


def score_figures(layer: LayerView, head: int) -> dict[str, float]:
    """Those of HeadFigures that tell how the scores spread, and what the softmax makes of them."""
    weights = layer.weights[head]
    choice = layer.allowed.sum(dim=1) > 1
    return {
        "raw_variance": _variance(layer.raw[head][layer.allowed]),
        "scaled_variance": _variance(layer.scaled[head][layer.allowed]),
        "entropy": float(torch.special.entr(weights).sum(dim=1).mean()),
        "saturated": _mean((weights.amax(dim=1)[choice] > SATURATED).float()),
    }


def layer_figures(model: GPT, texts: Tensor) -> dict[str, list[float]]:
    """The score figures of each layer, means over its heads and over texts (count, time) of token ids."""
    readings = [read(model, ids) for ids in texts.tolist()]
    figures: dict[str, list[float]] = {}
    for layers in zip(
        *(reading.layers for reading in readings), strict=True
    ):  # the same layer in each reading
        heads = [
            score_figures(layer, head) for layer in layers for head in range(model.config.n_head)
        ]
        for name in heads[0]:
            figures.setdefault(name, []).append(sum(figure[name] for figure in heads) / len(heads))
    return figures


def line_starts(ids: Sequence[int], newlines: Container[int]) -> Tensor:
    """(time, time) bool: for each token, where its line begins (its first token and the one before, which ended a line).
    A row is all False in the first line, and where a line has just begun: looking there is looking at the one before."""
    marks = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    start: int | None = None
    for place, token in enumerate(ids):
        if start is not None and place > start + 1:
            marks[place, start : start + 2] = True
        if token in newlines:
            start = place
    return marks


@torch.no_grad()
def induction_scores(model: GPT) -> list[list[float]]:
    """For each layer and head the mean weight that the second half of a random text, which repeats the first, puts on
    the character after the same one in the first half. 0 where a block is too short to repeat anything."""
    half, config = min(model.config.block_size, LONG) // 2, model.config
    if half < 2:
        return [[0.0] * config.n_head for _ in range(config.n_layer)]
    first = torch.randint(
        config.vocab_size, (half,), generator=torch.Generator().manual_seed(0)
    ).tolist()
    return [on_repetition(layer.weights).tolist() for layer in read(model, first + first).layers]


def on_repetition(weights: Tensor) -> Tensor:
    """Of weights (heads, 2 n, 2 n) over a text that is n tokens twice: the mean weight of the second half on the token after
    the same one in the first, (heads,). Token n + i stood at place i, and place i + 1 followed."""
    half = weights.shape[-1] // 2
    return weights[:, half:].diagonal(1, 1, 2).mean(dim=1)


def _mean(values: Tensor) -> float:
    return float(values.mean()) if values.numel() else 0.0


def _variance(values: Tensor) -> float:
    return float(values.var(correction=0)) if values.numel() else 0.0
