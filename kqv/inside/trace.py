"""What a model computes on a text: every stage of attention, and its prediction after each layer.

    raw = query @ keyᵀ ─▶ scaled = raw · scale ─▶ weights = softmax(scaled + mask)
                                                         ─▶ output = weights @ value

`record` runs the model. Each attention layer hands its queries, keys and values to a `LayerTrace`,
which computes the later stages with the functions of model.py. They agree with fused attention to
1e-5 (tests/inside/test_trace.py).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kqv.generation.checks import attend_as_written
from kqv.progress import say_once
from model import GPT, SCORES, Attention, attend

ATTENTION_DIFFERS = (
    "Attention.forward in model.py differs from attend: the scores, weights and outputs shown are "
    "those of attend, the queries, keys and values those of the model"
)
PREDICTION_DIFFERS = (
    "GPT.forward in model.py does not end with the final norm and the head: the predictions shown "
    "are those of these two"
)


class LayerTrace:
    """The stages of one layer's attention on one text, all float32 on the CPU.

    query, key, value, output: (heads, time, d_k). raw, scaled, weights: (heads, time, time),
    queries by keys. raw and scaled have values at masked positions too; weights are 0 there.
    allowed: (time, time) bool, True where the mask lets a query look at a key.
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
        """Receive the layer's query, key and value, and compute the later stages from them.

        Returns key and value for the model to attend over.
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
class Trace:
    """Everything recorded while a model processed one text."""

    ids: list[int]
    layers: list[LayerTrace]
    predictions: Tensor
    """(n_layer + 1, time, vocab_size): probabilities of the next token after the embedding and
    after each block. The final norm and the head are applied to the residual stream there (the
    "logit lens", nostalgebraist 2020)."""


@torch.no_grad()
def record(
    model: GPT,
    ids: Sequence[int],
    vocab_size: int | None = None,
    say: Callable[[str], object] = say_once,
) -> Trace:
    """Run the model on 1 to block_size tokens and record what it computes.

    `vocab_size` is the tokenizer's, for a model whose vocabulary is padded. `say` gets a line for
    each place where a changed model.py computes something else than what is shown.
    """
    attend_as_written(model)
    allowed = model.allowed(len(ids))
    if allowed is None:
        allowed = torch.ones(len(ids), len(ids), dtype=torch.bool)
    layers = [LayerTrace(attention, allowed) for attention in attention_layers(model)]
    batch = torch.tensor([list(ids)], device=model.embedding.weight.device)
    was_training = model.training
    try:
        with captured(model) as activations:
            final_logits = model.eval()(batch, layers)[0, :, :vocab_size]
    finally:
        model.train(was_training)
    logits = torch.stack(
        [
            model.head(model.norm(x[0])).float().cpu()[:, :vocab_size]
            for x in activations.residual_stream
        ]
    )
    if any(
        _differ(computed[0], layer.output.transpose(0, 1).flatten(1))
        for computed, layer in zip(activations.joined_heads, layers, strict=True)
    ):
        say(ATTENTION_DIFFERS)
    if _differ(final_logits, logits[-1]):
        say(PREDICTION_DIFFERS)
    return Trace(list(ids), layers, torch.softmax(logits, dim=-1))


def attention_layers(model: GPT) -> list[Attention]:
    """The attention modules of a model, first layer first."""
    return [module for module in model.modules() if isinstance(module, Attention)]


@dataclass
class Activations:
    """What hooks catch during one forward pass, each (batch, time, n_embd)."""

    residual_stream: list[Tensor] = field(default_factory=list)
    """before the first block and after each"""
    joined_heads: list[Tensor] = field(default_factory=list)
    """of each layer the outputs of its heads side by side, before the output projection"""


@contextmanager
def captured(model: GPT) -> Iterator[Activations]:
    """Catch activations of the forward passes inside the block."""
    seen = Activations()

    def before_block(_: object, inputs: tuple[Tensor, ...]) -> None:
        seen.residual_stream.append(inputs[0])

    def after_block(_: object, __: object, output: Tensor) -> None:
        seen.residual_stream.append(output)

    def before_output(_: object, inputs: tuple[Tensor, ...]) -> None:
        seen.joined_heads.append(inputs[0])

    hooks = [model.blocks[0].register_forward_pre_hook(before_block)]
    hooks += [block.register_forward_hook(after_block) for block in model.blocks]
    hooks += [
        attention.output.register_forward_pre_hook(before_output)
        for attention in attention_layers(model)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _differ(computed: Tensor, shown: Tensor) -> bool:
    """Whether the model computed something else than what is shown, beyond rounding."""
    tolerance = 1e-3 if computed.device.type == "cpu" else 2e-2  # GPUs multiply in TF32
    return bool((computed.float().cpu() - shown).abs().max() > tolerance * shown.abs().max())
