"""What a user can rely on of the two families: a model of one has a place for each weight, any other is refused by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.models import randomised

from kqv.exchange.families import IN_TRAINING_ONLY, family, places, to_ours, to_theirs
from kqv.exchange.nanogpt import check_nanogpt
from model import GPT2, GPTConfig

SIZE = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {**GPT2, "bias": True}, "gpt2 without biases": GPT2, "gpt2 tanh": {**GPT2, "mlp": "gelu_tanh"},
    "gpt2 untied": {**GPT2, "tie_weights": False}, "qwen3": {}, "qwen3 tied": {"tie_weights": True},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["huggingface", "nanogpt", "gguf"])
def test_every_weight_goes_out_and_comes_back_bit_for_bit(shape: str, layout: Any) -> None:
    model = randomised(GPTConfig(**SIZE, **SHAPES[shape]))
    assert family(model.config) == shape.split()[0]
    theirs = to_theirs(model.state_dict(), places(model.config, layout))
    back = to_ours(theirs, model.config, layout)
    ours = model.state_dict()
    assert all(torch.equal(back[name], weights) for name, weights in ours.items())
    assert all(
        not weights.any() for name, weights in back.items() if name not in ours
    )  # biases that a format needs


DIFFERENT = {"mask": "future", "window": 3, "attention_score": "squared", "attention_scale": "dim"}
DIFFERENT_QWEN3 = {
    "position": "none",
    "norm": "layernorm",
    "mlp": "relu2",
    "qk_norm": False,
    "bias": True,
}
DIFFERENT_GPT2 = {"position": "sinusoidal", "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True}


@pytest.mark.parametrize(
    ("shape", "option", "value"),
    [("qwen3", *item) for item in (DIFFERENT | DIFFERENT_QWEN3).items()]
    + [("gpt2", *item) for item in (DIFFERENT | DIFFERENT_GPT2).items()],
)
def test_a_model_of_neither_family_is_refused_by_its_option(
    shape: str, option: str, value: Any, refused: Callable
) -> None:
    with refused(f"{option}={value} "):
        family(GPTConfig(**SIZE, **{**SHAPES[shape], option: value}))


def with_option(shape: str, name: str, default: Any, value: Any) -> GPTConfig:
    """A model with an option that kqv/exchange/families.py does not know."""
    kind = dataclasses.make_dataclass(
        "Changed", [(name, type(default), default)], bases=(GPTConfig,)
    )
    return kind(**{**SIZE, **SHAPES[shape], name: value})


@pytest.mark.parametrize("shape", ["gpt2", "qwen3"])
@pytest.mark.parametrize(("default", "value"), [(0.0, 30.0), (False, True), (8, 4)])
def test_an_option_that_no_family_knows_must_be_at_its_default(
    shape: str, default: Any, value: Any, refused: Callable
) -> None:
    assert family(with_option(shape, "cap", default, default)) == shape
    with refused(f"cap={value} ", "kqv/exchange/families.py"):
        family(with_option(shape, "cap", default, value))


@pytest.mark.parametrize("shape", ["gpt2", "qwen3"])
def test_options_of_training_alone_are_no_matter_of_a_family(shape: str) -> None:
    for name in IN_TRAINING_ONLY:
        assert family(with_option(shape, name, 0.0, 0.3)) == shape


@pytest.mark.parametrize(
    ("shape", "option"),
    [("gpt2 tanh", "mlp"), ("gpt2 untied", "tie_weights"), ("qwen3", "position")],
)
def test_what_nanogpt_does_not_have_is_refused(shape: str, option: str, refused: Callable) -> None:
    check_nanogpt(GPTConfig(**SIZE, **SHAPES["gpt2"]))
    with refused(f"{option}=", "nanoGPT"):
        check_nanogpt(GPTConfig(**SIZE, **SHAPES[shape]))


@pytest.mark.parametrize("layout", ["huggingface", "nanogpt", "gguf"])
def test_a_weight_too_few_or_too_many_is_named(layout: Any, refused: Callable) -> None:
    config = GPTConfig(**SIZE, **SHAPES["gpt2"])
    theirs = to_theirs(randomised(config).state_dict(), places(config, layout))
    for name in list(theirs)[::5]:
        with refused(name):
            to_ours(
                {other: weights for other, weights in theirs.items() if other != name},
                config,
                layout,
            )
        for rubbish in (torch.ones(()), torch.ones(2, 2, 2), "rubbish"):
            with refused(name):
                to_ours({**theirs, name: rubbish}, config, layout)
    with refused("adapter"):
        to_ours({**theirs, "adapter": torch.ones(1)}, config, layout)
