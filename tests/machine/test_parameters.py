"""Parameters are counted as the model has them, for a config of any size."""

from typing import Any

import pytest

from kqv.machine.parameters import count_parameters
from model import GPT, GPT2, MLP, GPTConfig

SIZE = {"vocab_size": 17, "block_size": 8, "n_layer": 3, "n_head": 2, "n_embd": 16}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_layer": 1},
        {"tie_weights": True, "mlp_width": 40},
        {**GPT2, "bias": True},
        {"position": "sinusoidal", "mlp": "relu2", "norm": "layernorm"},
        {"position": "none", "qk_norm": False, "bias": True},
    ],
    ids=str,
)
def test_the_count_is_that_of_the_model(options: dict[str, Any]) -> None:
    config = GPTConfig(**{**SIZE, **options})
    assert count_parameters(config) == GPT(config).parameter_count()


def test_a_changed_model_is_counted_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GPTConfig(**SIZE)
    before = count_parameters(config)
    monkeypatch.setattr("model.GatedMLP", MLP)  # without a gate
    assert count_parameters(config) == GPT(config).parameter_count() < before


def test_a_config_of_any_size_is_counted_without_memory() -> None:
    """GPT-2 has 124,439,808 parameters."""
    sizes = {"vocab_size": 50257, "block_size": 1024, "n_layer": 12, "n_head": 12, "n_embd": 768}
    assert count_parameters(GPTConfig(**sizes, bias=True, **GPT2)) == 124_439_808
    largest = {**sizes, "n_layer": 1000, "n_head": 16, "n_embd": 2**20}
    assert count_parameters(GPTConfig(**largest)) > 10**16
    with pytest.raises(OverflowError):
        count_parameters(GPTConfig(**{**largest, "vocab_size": 2**44}))
