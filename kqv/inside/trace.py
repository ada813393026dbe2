"""What a model computes on a text: every stage of attention, and its prediction after each layer.

    raw = query @ keyᵀ ─▶ scaled = raw · scale ─▶ weights = softmax(scaled + bias + mask)
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

from kqv.errors import UserError
from kqv.generation.checks import attend_as_written
from kqv.progress import say_once
from model import GPT, SCORES, Attention, Stack, as_bias, attend

ATTENTION_DIFFERS = (
    "Attention.forward in model.py differs from attend: the scores, weights and outputs shown are "
    "those of attend, the queries, keys and values those of the model"
)
PREDICTION_DIFFERS = (
    "GPT.forward in model.py does not end with the final norm and the head: the predictions shown "
    "are those of these two"
)


class LayerTrace:
    """The stages of one attention on one text, all float32 on the CPU.

    query, output: (heads, time, d_k). key, value: (heads, seen, d_k). raw, scaled, weights: (heads,
    time, seen), queries by keys. In self-attention the keys are of the same tokens as the queries;
    in cross-attention the queries are of the target, the keys and values of the source.
    raw and scaled have values at masked positions too; weights are 0 there.
    allowed: (time, seen) bool, True where the mask lets a query look at a key.
    bias: (heads, time, seen), what relative positions add to `scaled`; None for other positions.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    raw: Tensor
    scaled: Tensor
    weights: Tensor
    output: Tensor

    def __init__(self, attention: Attention, allowed: Tensor, bias: Tensor | None = None) -> None:
        self.attention, self.allowed, self.bias = attention, allowed.cpu(), bias

    def see(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Receive the layer's query, key and value, and compute the later stages from them.

        Returns key and value for the model to attend over.
        """
        self.query, self.key, self.value = (each[0].float().cpu() for each in (query, key, value))
        score, scale = self.attention.config.attention_score, self.attention.scale
        self.raw = SCORES[score](self.query, self.key, 1.0)
        self.scaled = self.raw * scale
        mask = (
            self.allowed if self.bias is None else self.bias + as_bias(self.allowed, torch.float32)
        )
        self.output, self.weights = attend(self.query, self.key, self.value, mask, scale, score)
        return key, value


@dataclass
class Trace:
    """Everything recorded while a model processed one text, or a source and its target."""

    ids: list[int]
    """of the text; of the target in an encoder-decoder"""
    layers: list[LayerTrace]
    """self-attention of each block"""
    predictions: Tensor
    """(n_layer + 1, time, vocab_size): probabilities of the next token, in an encoder of the token
    at the place itself, after the embedding and after each block. The final norm and the head are
    applied to the residual stream there (the "logit lens", nostalgebraist 2020)."""
    source: list[int] = field(default_factory=list)
    encoder: list[LayerTrace] = field(default_factory=list)
    """self-attention of each block of the encoder, on the source"""
    cross: list[LayerTrace] = field(default_factory=list)
    """cross-attention of each block"""


@torch.no_grad()
def record(
    model: GPT,
    ids: Sequence[int],
    vocab_size: int | None = None,
    say: Callable[[str], object] = say_once,
    source: Sequence[int] = (),
) -> Trace:
    """Run the model on 1 to block_size tokens and record what it computes.

    An encoder-decoder reads `source`, and `ids` are its target. `vocab_size` is the tokenizer's,
    for a model whose vocabulary is padded. `say` gets a line for each place where a changed
    model.py computes something else than what is shown. Raises UserError for a Linformer.
    """
    if rank := model.config.linformer_rank:
        raise UserError(
            f"linformer_rank={rank}: its queries meet mixtures of all keys, and explain.py shows "
            f"the weight of each; there is nothing to show"
        )
    attend_as_written(model)
    encoder, layers, cross = layer_traces(model, len(ids), len(source))
    was_training = model.training
    try:
        with captured(model) as activations:
            logits = run(model.eval(), ids, source, encoder, in_order(layers, cross))[
                :, :vocab_size
            ]
    finally:
        model.train(was_training)
    lenses = torch.stack(
        [
            model.head(model.norm(x[0])).float().cpu()[:, :vocab_size]
            for x in activations.residual_stream
        ]
    )
    if any(
        _differ(computed[0], layer.output.transpose(0, 1).flatten(1))
        for computed, layer in zip(
            activations.joined_heads, [*encoder, *in_order(layers, cross)], strict=True
        )
    ):
        say(ATTENTION_DIFFERS)
    if _differ(logits, lenses[-1]):
        say(PREDICTION_DIFFERS)
    predictions = torch.softmax(lenses, dim=-1)
    return Trace(list(ids), layers, predictions, list(source), encoder, cross)


def layer_traces(
    model: GPT, time: int, source_time: int
) -> tuple[list[LayerTrace], list[LayerTrace], list[LayerTrace]]:
    """Empty traces of the encoder's self-attention, the model's own, and cross-attention."""
    mask, attentions = mask_of(model, time), attentions_of(model)
    layers = [LayerTrace(each, *mask) for each in attentions if not each.cross]
    if not model.config.has_cross_attention:
        return [], layers, []
    everything = torch.ones(time, source_time, dtype=torch.bool)
    cross = [LayerTrace(each, everything) for each in attentions if each.cross]
    mask = mask_of(model.encoder, source_time)
    return [LayerTrace(each, *mask) for each in attentions_of(model.encoder)], layers, cross


def mask_of(stack: Stack, time: int) -> tuple[Tensor, Tensor | None]:
    """Where self-attention may look, (time, time) bool, and the bias of relative positions."""
    allowed = stack.allowed(time)
    if allowed is None:
        allowed = torch.ones(time, time, dtype=torch.bool)
    bias = stack.relative(0, time).float().cpu() if stack.relative is not None else None
    return allowed, bias


def in_order(layers: list[LayerTrace], cross: list[LayerTrace]) -> list[LayerTrace]:
    """The traces of a decoder in the order of computation."""
    return [each for pair in zip(layers, cross, strict=True) for each in pair] if cross else layers


def run(
    model: GPT,
    ids: Sequence[int],
    source: Sequence[int],
    encoder: Sequence[LayerTrace],
    decoder: Sequence[LayerTrace],
) -> Tensor:
    """Logits (time, vocab_size) of a model whose attentions are observed."""
    device = model.embedding.weight.device
    batch = torch.tensor([list(ids)], device=device)
    if not encoder:
        return model(batch, decoder)[0]
    sources = torch.tensor([list(source)], device=device)
    encoded = model.encode(sources, encoder)
    return model(batch, decoder, source=sources, encoded=encoded)[0]


def attention_layers(model: GPT) -> list[Attention]:
    """The attention modules of a model, in the order of computation."""
    encoder = attentions_of(model.encoder) if model.config.has_cross_attention else []
    return encoder + attentions_of(model)


def attentions_of(stack: Stack) -> list[Attention]:
    """The attention modules of an encoder, or of a decoder without its encoder."""
    return [module for module in stack.blocks.modules() if isinstance(module, Attention)]


@dataclass
class Activations:
    """What hooks catch during one forward pass, each (batch, time, n_embd)."""

    residual_stream: list[Tensor] = field(default_factory=list)
    """before the first block and after each"""
    joined_heads: list[Tensor] = field(default_factory=list)
    """of each attention the outputs of its heads side by side, before the output projection; in
    the order of computation"""


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
