"""What a user can rely on when looking inside: the numbers shown are those the model computed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.models import SHAPE, random_ids, randomised
from torch import Tensor, nn

from kqv.efficient import performer_score
from kqv.inside.trace import (
    ATTENTION_DIFFERS,
    PREDICTION_DIFFERS,
    LayerTrace,
    Trace,
    attention_layers,
    captured,
    record,
)
from model import GPT, GPT2, GPTConfig

VARIANTS: list[dict[str, Any]] = [
    {},
    {**GPT2, "bias": True},
    {"position": "none", "qk_norm": False, "attention_scale": "dim"},
    {"window": 3},
    {"mask": "none"},
    {"mask": "future"},
    {"attention_score": "squared"},
    {"position": "sinusoidal", "attention_scale": 0.3},
    {"attention_score": "linear"},
    {"attention_score": "linear", "window": 3},
    {"attention_score": "performer"},
    {"window": 3, "global_tokens": 2},
    {"position": "relative"},
    {"position": "relative", "window": 3},
    {"position": "relative", "mask": "none", "norm_first": False, "norm": "layernorm"},
    {"architecture": "encoder_decoder"},
    {"architecture": "encoder_decoder", "encoder_layers": 1, "source_vocab_size": 13, "window": 3},
    {"architecture": "encoder_decoder", "position": "relative", "attention_scale": "none"},
    {"architecture": "encoder_decoder", "norm_first": False, "attention_score": "squared"},
]
SOURCE_TIME = 9


@pytest.fixture(params=VARIANTS, ids=repr)
def model(request: pytest.FixtureRequest) -> GPT:
    return randomised(GPTConfig(**SHAPE, **request.param))


def source_of(model: GPT) -> list[int]:
    """A source for an encoder-decoder, and nothing for other models."""
    if not model.config.has_cross_attention:
        return []
    return random_ids(model.config.encoder, 1, SOURCE_TIME)[0].tolist()


def traced(model: GPT, ids: Tensor) -> Trace:
    """The trace of these ids (time,) or, of an encoder-decoder, of a source and this target."""
    return record(model, ids.tolist(), source=source_of(model))


def attentions(trace: Trace) -> list[LayerTrace]:
    """All attentions of a trace in the order of computation."""
    if not trace.cross:
        return trace.layers
    blocks = zip(trace.layers, trace.cross, strict=True)
    return [*trace.encoder, *(each for block in blocks for each in block)]


def test_what_is_shown_is_what_fused_attention_computes(model: GPT) -> None:
    """Each layer's weighted sum of values, and the prediction after the last layer."""
    ids = random_ids(model.config)[:1]
    model.fuse_attention(True)
    source = torch.tensor([source_of(model)]) if model.config.has_cross_attention else None
    with captured(model) as activations:
        logits = model(ids, source=source)[0]
    trace = traced(model, ids[0])
    assert len(trace.layers) == model.config.n_layer
    for layer, (computed,) in zip(attentions(trace), activations.joined_heads, strict=True):
        joined = layer.output.transpose(0, 1).flatten(1)
        torch.testing.assert_close(joined, computed, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(trace.predictions[-1], logits.softmax(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        trace.predictions.sum(-1), torch.ones(model.config.n_layer + 1, ids.shape[1])
    )


def remarks_on(model: GPT) -> list[str]:
    """What `record` says about a model."""
    said: list[str] = []
    record(model, random_ids(model.config)[0].tolist(), say=said.append)
    return said


def test_an_attention_that_computes_something_else_than_is_shown_is_reported() -> None:
    model = randomised(GPTConfig(**SHAPE))
    projection = attention_layers(model)[1].output
    projection.register_forward_pre_hook(lambda _, inputs: (1.1 * inputs[0],))
    assert remarks_on(model) == [ATTENTION_DIFFERS]


class Louder(GPT):
    """A GPT whose forward does not end with the head."""

    def forward(self, *inputs: Any) -> Tensor:
        return 2 * super().forward(*inputs)


def test_a_cross_attention_that_computes_something_else_than_is_shown_is_reported() -> None:
    model = randomised(GPTConfig(**SHAPE, architecture="encoder_decoder"))
    for number in (0, len(attention_layers(model)) - 1):
        projection = attention_layers(model)[number].output
        hook = projection.register_forward_pre_hook(lambda _, inputs: (1.1 * inputs[0],))
        said: list[str] = []
        record(model, [1, 2, 3], say=said.append, source=[4, 5])
        assert said == [ATTENTION_DIFFERS]
        hook.remove()


def test_a_prediction_that_is_something_else_than_is_shown_is_reported() -> None:
    model = randomised(GPTConfig(**SHAPE), kind=Louder)
    assert remarks_on(model) == [PREDICTION_DIFFERS]


def test_a_change_that_is_shown_is_not_reported() -> None:
    model = randomised(GPTConfig(**SHAPE))
    for attention in attention_layers(model):
        attention.value = nn.Identity()  # type: ignore[assignment]
    assert remarks_on(model) == []


def test_each_stage_follows_from_the_one_before(model: GPT) -> None:
    trace = traced(model, random_ids(model.config)[0])
    for layer in attentions(trace):
        raw = {
            "dot": layer.query @ layer.key.mT,
            "squared": (layer.query @ layer.key.mT).square(),
            "linear": ((F.elu(layer.query) + 1) @ (F.elu(layer.key) + 1).mT).log(),
            "performer": performer_score(layer.query, layer.key, 1.0),
        }
        torch.testing.assert_close(layer.raw, raw[model.config.attention_score])
        torch.testing.assert_close(layer.scaled, layer.raw * layer.attention.scale)
        bias = 0 if layer.bias is None else layer.bias
        powers = (layer.scaled + bias).exp() * layer.allowed
        torch.testing.assert_close(layer.weights, powers / powers.sum(-1, keepdim=True))
        assert torch.all(layer.weights[:, ~layer.allowed] == 0)
        torch.testing.assert_close(layer.output, layer.weights @ layer.value)


def test_queries_are_of_the_target_and_keys_and_values_of_the_source() -> None:
    config = GPTConfig(**SHAPE, architecture="encoder_decoder", source_vocab_size=13)
    model = randomised(config)
    source, target = random_ids(config.encoder, 1, SOURCE_TIME), random_ids(config, 1, 5)
    trace = record(model, target[0].tolist(), source=source[0].tolist())
    assert trace.cross[0].query.shape == (2, 5, 8) and trace.cross[0].key.shape == (2, 9, 8)
    encoded = model.encode(source)
    for block, layer in zip(model.blocks, trace.cross, strict=True):
        attention = block.cross_attention
        for computed, shown in ((attention.value, layer.value), (attention.key, layer.key)):
            heads = attention.heads(computed(encoded))
            heads = attention.key_norm(heads) if computed is attention.key else heads
            torch.testing.assert_close(heads[0], shown)
    other = record(model, [1, 2, 3], source=source[0].tolist())
    torch.testing.assert_close(other.cross[0].key, trace.cross[0].key)  # whatever the target is


def test_the_bias_of_relative_positions_is_the_model_s(model: GPT) -> None:
    trace = traced(model, random_ids(model.config)[0])
    assert all((each.bias is not None) == (model.relative is not None) for each in trace.layers)
    assert all(each.bias is None for each in trace.cross)
    if model.relative is not None:
        assert trace.layers[0].bias is not None
        torch.testing.assert_close(trace.layers[0].bias, model.relative(0, SHAPE["block_size"]))


def test_an_untrained_model_predicts_nothing_after_any_layer() -> None:
    trace = record(GPT(GPTConfig(**SHAPE)), [1, 2, 3])
    torch.testing.assert_close(trace.predictions, torch.full((4, 3, 11), 1 / 11))


def test_recording_changes_nothing(model: GPT) -> None:
    ids = random_ids(model.config)
    model.train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    traced(model, ids[0])
    assert model.training
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    with captured(model) as activations:
        pass
    traced(model, ids[0])
    assert activations.residual_stream == activations.joined_heads == []  # no hook is left


def test_a_linformer_has_no_weight_of_a_key_to_show(refused: Callable) -> None:
    config = GPTConfig(**SHAPE, architecture="encoder", linformer_rank=4)
    with refused("linformer_rank=4", "nothing to show"):
        record(randomised(config), [1, 2, 3])
