"""What a user can rely on when looking inside: the numbers shown are those the model computed."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.models import SHAPE, random_ids, randomised
from torch import Tensor, nn

from kqv.inside.trace import (
    ATTENTION_DIFFERS,
    PREDICTION_DIFFERS,
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
]


@pytest.fixture(params=VARIANTS, ids=repr)
def model(request: pytest.FixtureRequest) -> GPT:
    return randomised(GPTConfig(**SHAPE, **request.param))


def test_what_is_shown_is_what_fused_attention_computes(model: GPT) -> None:
    """Each layer's weighted sum of values, and the prediction after the last layer."""
    ids = random_ids(model.config)[:1]
    model.fuse_attention(True)
    with captured(model) as activations:
        logits = model(ids)[0]
    trace = record(model, ids[0].tolist())
    assert len(trace.layers) == len(activations.joined_heads) == model.config.n_layer
    for layer, (computed,) in zip(trace.layers, activations.joined_heads, strict=True):
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


def test_a_prediction_that_is_something_else_than_is_shown_is_reported() -> None:
    model = randomised(GPTConfig(**SHAPE), kind=Louder)
    assert remarks_on(model) == [PREDICTION_DIFFERS]


def test_a_change_that_is_shown_is_not_reported() -> None:
    model = randomised(GPTConfig(**SHAPE))
    for attention in attention_layers(model):
        attention.value = nn.Identity()  # type: ignore[assignment]
    assert remarks_on(model) == []


def test_each_stage_follows_from_the_one_before(model: GPT) -> None:
    trace = record(model, random_ids(model.config)[0].tolist())
    for layer in trace.layers:
        raw = {
            "dot": layer.query @ layer.key.mT,
            "squared": (layer.query @ layer.key.mT).square(),
            "linear": ((F.elu(layer.query) + 1) @ (F.elu(layer.key) + 1).mT).log(),
        }
        torch.testing.assert_close(layer.raw, raw[model.config.attention_score])
        torch.testing.assert_close(layer.scaled, layer.raw * layer.attention.scale)
        powers = layer.scaled.exp() * layer.allowed
        torch.testing.assert_close(layer.weights, powers / powers.sum(-1, keepdim=True))
        assert torch.all(layer.weights[:, ~layer.allowed] == 0)
        torch.testing.assert_close(layer.output, layer.weights @ layer.value)


def test_an_untrained_model_predicts_nothing_after_any_layer() -> None:
    trace = record(GPT(GPTConfig(**SHAPE)), [1, 2, 3])
    torch.testing.assert_close(trace.predictions, torch.full((4, 3, 11), 1 / 11))


def test_recording_changes_nothing(model: GPT) -> None:
    ids = random_ids(model.config)
    model.train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    record(model, ids[0].tolist())
    assert model.training
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    with captured(model) as activations:
        pass
    model(ids)
    assert activations.residual_stream == activations.joined_heads == []  # no hook is left
