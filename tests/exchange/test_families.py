"""The families: each weight of their models has a name with others, and a model of none is refused
by its option."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.exchange import OTHER_SHAPES, SHAPES
from helpers.models import randomised

from kqv.exchange.families import IN_TRAINING_ONLY, family, places, to_ours, to_theirs
from model import GPTConfig

SIZE = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8}


ALL_SHAPES = SHAPES | OTHER_SHAPES
LAYOUTS = [(shape, layout) for shape in SHAPES for layout in ("huggingface", "nanogpt", "gguf")]
LAYOUTS += [(shape, "huggingface") for shape in OTHER_SHAPES]


@pytest.mark.parametrize(("shape", "layout"), LAYOUTS)
def test_every_weight_goes_out_and_comes_back_bit_for_bit(shape: str, layout: Any) -> None:
    model = randomised(GPTConfig(**SIZE, **ALL_SHAPES[shape]))
    assert family(model.config) == shape.split()[0]
    theirs = to_theirs(model.state_dict(), places(model.config, layout))
    back = to_ours(theirs, model.config, layout)
    ours = model.state_dict()
    assert all(torch.equal(back[name], weights) for name, weights in ours.items())
    added = {name: weights for name, weights in back.items() if name not in ours}
    assert not any(weights.any() for weights in added.values())  # zeros for biases


DIFFERENT = {"mask": "future", "window": 3, "attention_score": "squared", "attention_scale": "dim"}
DIFFERENT_QWEN3 = {
    "position": "none",
    "norm": "layernorm",
    "mlp": "relu2",
    "qk_norm": False,
    "bias": True,
}
DIFFERENT_BERT = {
    "position": "rope",
    "norm": "rmsnorm",
    "norm_first": True,
    "embedding_norm": False,
    "scale_embedding": True,
    "mlp": "swiglu",
    "qk_norm": True,
    "window": 3,
    "attention_score": "linear",
    "attention_scale": "dim",
}
DIFFERENT_T5 = {
    "source_vocab_size": 12,
    "position": "sinusoidal",
    "norm": "layernorm",
    "norm_first": False,
    "scale_embedding": True,
    "mlp": "relu",
    "qk_norm": True,
    "bias": True,
    "attention_scale": "sqrt",
    "tie_weights": True,
}
DIFFERENT_GPT2 = {"position": "sinusoidal", "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True}


@pytest.mark.parametrize(
    ("shape", "option", "value"),
    [("qwen3", *item) for item in (DIFFERENT | DIFFERENT_QWEN3).items()]
    + [("gpt2", *item) for item in (DIFFERENT | DIFFERENT_GPT2).items()]
    + [("bert", *item) for item in DIFFERENT_BERT.items()]
    + [("t5", *item) for item in DIFFERENT_T5.items()],
)
def test_a_model_of_no_family_is_refused_by_its_option(
    shape: str, option: str, value: Any, refused: Callable
) -> None:
    with refused(f"{option}={value} "):
        family(GPTConfig(**SIZE, **{**ALL_SHAPES[shape], option: value}))


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
def test_options_of_training_alone_change_no_family(shape: str) -> None:
    for name in IN_TRAINING_ONLY:
        assert family(with_option(shape, name, 0.0, 0.3)) == shape


@pytest.mark.parametrize("layout", ["huggingface", "nanogpt", "gguf"])
def test_a_missing_or_unknown_weight_is_named(layout: Any, refused: Callable) -> None:
    config = GPTConfig(**SIZE, **SHAPES["gpt2"])
    theirs = to_theirs(randomised(config).state_dict(), places(config, layout))
    for name in list(theirs)[::5]:
        without = {other: weights for other, weights in theirs.items() if other != name}
        with refused(name):
            to_ours(without, config, layout)
        for rubbish in (torch.ones(()), torch.ones(2, 2, 2), "rubbish"):
            with refused(name):
                to_ours({**theirs, name: rubbish}, config, layout)
    with refused("adapter"):
        to_ours({**theirs, "adapter": torch.ones(1)}, config, layout)
